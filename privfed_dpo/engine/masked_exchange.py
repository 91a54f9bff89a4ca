"""One masked averaging of a node: secure sums over neighbourhoods, all of them or none.

Every node takes a secure sum over its neighbours' weighted adapters, sum_j w_ij q_j, and so learns
where averaging moves it, sum_j w_ij (q_j - q_i), without learning any q_j.

What sums hide they hide together, on one set of links: nodes that pool sums over two sets may learn
more than either would show. So each node names to everybody all links that it found, and opens no
sum unless every node on them named the same.

The flows cancel over all nodes only if everybody moves, and by the same links. So nobody moves
before all have voted: a vote says that the own sum opened whole, over the links of this digest. A
node votes once in a round; it averages once it knows that all nodes on those links voted for them.
If votes are lost it is in doubt (Gray 1978), keeps its flow aside, goes on without it, and asks in
later rounds: one node that averaged, or all votes, say yes; one node that never voted so says no.
Both cannot happen, so that node values plus the flows still owed keep their sum to the bit,
whatever is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import msgspec
import numpy as np

from privfed_dpo.engine.gossip_messages import (
    COMBINE,
    EVERYBODY,
    Kind,
    NeighbourMessage,
    NodeReport,
    Parcel,
    Parcels,
    Refusal,
)
from privfed_dpo.engine.masked_links import MaskingRules, links_digest, live_links
from privfed_dpo.engine.masked_messages import (
    AGREE,
    HELLO,
    LINKS,
    VOTE,
    AgreeNotice,
    Answer,
    LinksNotice,
    OpenVote,
    Verdict,
    VoteNotice,
    closing,
)
from privfed_dpo.engine.masked_sums import MaskedSums
from privfed_dpo.engine.messages import MalformedEnvelope, decode, encode
from privfed_dpo.engine.mixing import Integers, integer_weights, split
from privfed_dpo.engine.neighbour_exchange import MessageRefused, NodeAddress
from privfed_dpo.engine.node_state import CastVote, NodeState
from privfed_dpo.mechanism.keystream import Entropy
from privfed_dpo.topology import Topology
from secure_agg import Phase

_Body = TypeVar("_Body", bound=msgspec.Struct)
_CLOSED_FLOW = np.zeros(0, dtype=np.int64)
_DIGEST_BYTES = 32


class MaskedExchange:
    """One masked averaging at one node; its steps are taken once each, in order.

    Args:
        address: who this node is, and in which round.
        planned: the round's graph.
        state: the node's adapter and votes, changed in place.
        rules: what a sum must hide.
        entropy: secret bytes on demand.
        released: whether the mean of this round is released.

    Guarantee: no message depends on this node's adapter but its masked inputs, one for each
        neighbour on links that `live_links` found safe and that every node on them has signed.
    """

    __slots__ = (
        "_address",
        "_asked",
        "_entropy",
        "_heard",
        "_live",
        "_planned",
        "_refusals",
        "_released",
        "_rules",
        "_sent",
        "_state",
        "_sums",
        "_weights",
    )

    def __init__(
        self,
        address: NodeAddress,
        planned: Topology,
        state: NodeState,
        *,
        rules: MaskingRules,
        entropy: Entropy,
        released: bool = False,
    ) -> None:
        self._address = address
        self._released = released
        self._planned = planned
        self._state = state
        self._rules = rules
        self._entropy = entropy
        self._weights = {
            i + j - address.number: weight
            for (i, j), weight in integer_weights(planned).items()
            if address.number in (i, j)
        }
        self._sent: Integers = np.zeros(0, dtype=np.int64)
        self._sums: MaskedSums | None = None
        self._heard: frozenset[int] = frozenset()
        self._live = Topology.of(planned.nodes, ())
        self._asked: set[tuple[int, bytes]] = set()
        self._refusals: list[Refusal] = []

    def step(self, step: str, parcels: tuple[Parcel, ...]) -> Parcels | NodeReport:
        """Take one of `MASKED_STEPS`.

        Args:
            step: which.
            parcels: what arrived for this node since the last one.

        Returns:
            Messages for other nodes; in the last step a report.
        """
        if step == HELLO:
            return _bundle({p: self._address.write("hello", p, b"") for p in self._weights})
        notice = {LINKS: self._tell_links, AGREE: self._name_links, VOTE: self._vote}.get(step)
        if notice is not None:
            return notice(parcels)
        if step == Phase.ADVERTISE_KEYS.value:
            self._open_sums(parcels)
            return _bundle(self._sums.advertise() if self._sums else {})
        if step == COMBINE:
            return self._combine(parcels)
        return self._advance_sums(step, parcels)

    def _tell_links(self, parcels: tuple[Parcel, ...]) -> Parcels:
        heard = {m.sender for m in self._read("hello", parcels) if m.sender in self._weights}
        self._heard = frozenset(heard)
        doubts = tuple(OpenVote(r, v.digest) for r, v in sorted(self._open().items()))
        return self._notice("links", LinksNotice(tuple(sorted(heard)), doubts))

    def _name_links(self, parcels: tuple[Parcel, ...]) -> Parcels:
        """Find out over which links sums can be taken, and tell everybody."""
        heard = {self._address.number: self._heard}
        for sender, notice in self._notices("links", parcels, LinksNotice):
            try:
                self._asked |= _questions(notice.open, before=self._address.round)
            except MessageRefused as error:
                self._refusals.append(Refusal(sender, str(error)))
                continue
            heard[sender] = frozenset(notice.heard)
        self._live = live_links(self._planned, heard, self._rules, released=self._released)
        if not self._live.neighbours[self._address.number]:
            return Parcels()
        return self._notice("agree", AgreeNotice(links_digest(self._live)))

    def _open_sums(self, parcels: tuple[Parcel, ...]) -> None:
        """Take part if all nodes on the links named them; the adapter stands until the vote."""
        agreed = {self._address.number}
        for sender, notice in self._notices("agree", parcels, AgreeNotice):
            if notice.digest == links_digest(self._live):
                agreed.add(sender)
            else:
                self._refusals.append(Refusal(sender, "it found other links"))
        if not self._live.neighbours[self._address.number] or not self._partners() <= agreed:
            return
        self._sent, _ = split(self._state.values)
        self._sums = MaskedSums(
            self._address, self._live, self._rules, dimension=self._sent.size, entropy=self._entropy
        )

    def _partners(self) -> frozenset[int]:
        """All other nodes on the round's links."""
        return frozenset(n for link in self._live.edges for n in link) - {self._address.number}

    def _advance_sums(self, step: str, parcels: tuple[Parcel, ...]) -> Parcels:
        if self._sums is None:
            return Parcels()
        for phase in Phase:
            if step == phase.value:
                return _bundle(self._sums.answer(phase, parcels, self._weighted))
            if step == closing(phase):
                return _bundle(self._sums.close(phase, parcels))
        raise ValueError(f"{step} is no step of a masked averaging")

    def _weighted(self, aggregator: int) -> Integers:
        return self._weights[aggregator] * self._sent

    def _vote(self, parcels: tuple[Parcel, ...]) -> Parcels:
        digest = b""
        if self._sums is not None:
            self._sums.close(Phase.UNMASK, parcels)
            total = self._sums.total
            if total is not None:
                digest = links_digest(self._live)
                self._cast(total, digest)
        answers = tuple(Answer(r, d, self._verdict(r, d)) for r, d in sorted(self._asked))
        return self._notice("vote", VoteNotice(digest, answers))

    def _cast(self, total: Integers, digest: bytes) -> None:
        """Keep what averaging would move here until all have voted."""
        neighbours = self._live.neighbours[self._address.number]
        share = sum(self._weights[peer] for peer in neighbours)
        self._state.votes[self._address.round] = CastVote(
            digest=digest,
            missing=tuple(sorted(self._partners())),
            outcome="open",
            flow=total - share * self._sent,
        )

    def _verdict(self, number: int, digest: bytes) -> Verdict:
        vote = self._state.votes.get(number)
        if vote is None or vote.digest != digest:
            return "never"
        return "yes" if vote.outcome == "open" else vote.outcome

    def _combine(self, parcels: tuple[Parcel, ...]) -> NodeReport:
        for sender, notice in self._notices("vote", parcels, VoteNotice):
            self._learn_vote(sender, notice.digest)
            for answer in notice.answers:
                self._learn(sender, answer.round, answer.digest, answer.verdict)
        refusals = self._refusals
        used: tuple[int, ...] = ()
        if self._sums is not None:
            refusals = [*refusals, *self._sums.refusals]
            vote = self._state.votes.get(self._address.round)
            if vote is not None and vote.outcome == "done":
                used = self._live.neighbours[self._address.number]
        return NodeReport(used=used, refusals=tuple(refusals))

    def _learn_vote(self, sender: int, digest: bytes) -> None:
        """Take in how somebody voted in this round."""
        vote = self._state.votes.get(self._address.round)
        if vote is not None:
            verdict: Verdict = "yes" if digest == vote.digest else "never"
            self._learn(sender, self._address.round, vote.digest, verdict)

    def _learn(self, sender: int, number: int, digest: bytes, verdict: Verdict) -> None:
        """Take in what somebody knows of a vote; one that this node is in doubt about may close."""
        vote = self._state.votes.get(number)
        if vote is None or vote.digest != digest or vote.outcome != "open":
            return
        if verdict == "yes":
            missing = tuple(peer for peer in vote.missing if peer != sender)
            vote = self._state.votes[number] = replace(vote, missing=missing)
        if verdict == "done" or not vote.missing:
            self._state.values = self._state.values + vote.flow
            closed = replace(vote, outcome="done", missing=(), flow=_CLOSED_FLOW)
            self._state.votes[number] = closed
        elif verdict == "undone" or (verdict == "never" and sender in vote.missing):
            closed = replace(vote, outcome="undone", missing=(), flow=_CLOSED_FLOW)
            self._state.votes[number] = closed

    def _open(self) -> dict[int, CastVote]:
        return {r: vote for r, vote in self._state.votes.items() if vote.outcome == "open"}

    def _notice(self, kind: Kind, body: msgspec.Struct) -> Parcels:
        data = self._address.write(kind, EVERYBODY, encode(body))
        return Parcels((Parcel(EVERYBODY, data),))

    def _notices(
        self, kind: Kind, parcels: tuple[Parcel, ...], body: type[_Body]
    ) -> Iterator[tuple[int, _Body]]:
        for message in self._read(kind, parcels, receiver=EVERYBODY):
            try:
                yield message.sender, decode(message.body, body)
            except MalformedEnvelope as error:
                self._refusals.append(Refusal(message.sender, str(error)))

    def _read(
        self, kind: Kind, parcels: tuple[Parcel, ...], *, receiver: int | None = None
    ) -> Iterator[NeighbourMessage]:
        """Open signed messages, one from each sender; refuse the rest by name."""
        seen: set[int] = set()
        for parcel in parcels:
            if parcel.peer in seen:
                self._refusals.append(Refusal(parcel.peer, f"a second {kind} in one round"))
                continue
            try:
                message = self._address.read(kind, parcel, receiver=receiver)
            except MessageRefused as error:
                self._refusals.append(Refusal(parcel.peer, str(error)))
                continue
            seen.add(parcel.peer)
            yield message


def _questions(doubts: Iterable[OpenVote], *, before: int) -> set[tuple[int, bytes]]:
    """Take in what a node is in doubt about; everybody answers it to everybody.

    Args:
        doubts: rounds and digests, as the node told them.
        before: the current round; a vote that waits is of an earlier one.

    Raises:
        MessageRefused: no node can be in doubt about this.
    """
    asked: set[tuple[int, bytes]] = set()
    last = 0
    for doubt in doubts:
        if not last < doubt.round < before or len(doubt.digest) != _DIGEST_BYTES:
            raise MessageRefused("it asks about votes that nobody can have cast")
        last = doubt.round
        asked.add((doubt.round, doubt.digest))
    return asked


def _bundle(messages: Mapping[int, bytes]) -> Parcels:
    return Parcels(tuple(Parcel(peer, data) for peer, data in messages.items()))
