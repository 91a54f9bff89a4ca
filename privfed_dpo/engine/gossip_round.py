"""One round without a server, as a script of exchanges: messages go from node to node.

Whoever drives the script keeps the rounds in step and carries the nodes' messages. It cannot
change them, since they are signed, and it decides nothing. It does see them: what nodes send is
priced as if everybody saw it. Adapters travel in clear between nodes, or, with masked sums, not at
all; what is measured then has to be shown by whoever holds the nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from privfed_dpo.engine.events import Observer, PhaseClosed, ReplyRefused
from privfed_dpo.engine.exchange import Exchange, RoundEnvelopes
from privfed_dpo.engine.gossip_messages import (
    ACKNOWLEDGE,
    ADAPT,
    COMBINE,
    EVERYBODY,
    OFFER,
    PUBLISH,
    GossipStart,
    NodeReport,
    Parcel,
    Parcels,
)
from privfed_dpo.engine.gossip_plan import GossipPlan
from privfed_dpo.engine.masked_messages import NOTICE_STEPS, PARCEL_STEPS
from privfed_dpo.engine.messages import MalformedEnvelope, decode, encode
from privfed_dpo.engine.mixing import Integers
from privfed_dpo.engine.neighbour_exchange import VECTOR
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.topology import Edge

MessageLost = Callable[[int, str, int, int], bool]
"""(round, step, sender, receiver) -> whether the network loses this message."""

Watch = Callable[[], Mapping[int, Integers]]
"""What all nodes hold, by number; a simulation can look at the nodes of its own process."""

_SPEECH = PARCEL_STEPS | {OFFER, ACKNOWLEDGE}
_Reply = TypeVar("_Reply", Parcels, NodeReport)


def no_message_lost(round_number: int, step: str, sender: int, receiver: int) -> bool:
    """A network that loses nothing."""
    del round_number, step, sender, receiver
    return False


@dataclass(slots=True)
class GossipRoundResult:
    """What a round gave.

    Attributes:
        present: nodes that took their local steps.
        iterates: node -> its adapter after the round, in fine steps.
        before: the same just before mixing; empty unless asked for.
        after: the same just after mixing; empty unless asked for.
        used: links whose two ends averaged.
        drift: mean drift of local iterates; None with one local step.
        dropped: nodes lost, by step, and links that were not used.
        upload_bytes: bytes nodes sent to neighbours, with their envelopes.
        download_bytes: bytes nodes received.
    """

    present: tuple[int, ...] = ()
    iterates: dict[int, Integers] = field(default_factory=dict, repr=False)
    before: dict[int, Integers] = field(default_factory=dict, repr=False)
    after: dict[int, Integers] = field(default_factory=dict, repr=False)
    used: tuple[Edge, ...] = ()
    drift: float | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    upload_bytes: int = 0
    download_bytes: int = 0


GossipRoundScript = Generator[Exchange, Mapping[int, bytes], GossipRoundResult]
_Step = Generator[Exchange, Mapping[int, bytes], dict[int, bytes]]


class GossipRound:
    """Plays one round.

    Args:
        plan: the run's plan.
        gossip: its graph and order.
        run_id: 16 bytes that name the run.
        round_number: training round, from 1.
        observer: told when a step closes and what was refused.
        lost: the network's losses; simulated ones, or none.
        watch: how adapters are measured where nodes do not publish them; None asks the nodes.
    """

    def __init__(
        self,
        *,
        plan: RunPlan,
        gossip: GossipPlan,
        run_id: bytes,
        round_number: int,
        observer: Observer,
        lost: MessageLost,
        watch: Watch | None = None,
    ) -> None:
        self._plan = plan
        self._gossip = gossip
        self._watch = watch
        self._round = round_number
        self._observer = observer
        self._envelopes = RoundEnvelopes(run_id, round_number, observer)
        self._lost = lost
        self._result = GossipRoundResult()

    def script(self, *, watch_mixing: bool) -> GossipRoundScript:
        """Play the round; `watch_mixing` asks for the adapters around the mixing too."""
        result = self._result
        start = encode(GossipStart(bytes.fromhex(self._plan.plan_hash)))
        outbox = dict.fromkeys(range(len(self._plan.facts.client_names)), start)
        for step in self._gossip.steps:
            if step == self._gossip.mixing_steps[0] and watch_mixing:
                result.before = yield from self._published(outbox)
            replies = yield from self._step(step, outbox)
            outbox = self._outbox(step, replies)
            if step == ADAPT:
                result.present = tuple(replies)
            if step == COMBINE and watch_mixing:
                result.after = yield from self._published(outbox)
        result.iterates = yield from self._published(outbox)
        result.upload_bytes = self._envelopes.upload_bytes
        result.download_bytes = self._envelopes.download_bytes
        return result

    def _step(self, step: str, outbox: Mapping[int, bytes]) -> _Step:
        replies = yield self._envelopes.exchange(step, outbox)
        opened = self._envelopes.opened(step, outbox, replies)
        missing = len(outbox) - len(opened)
        self._observer(PhaseClosed(self._round, step, len(opened), missing))
        if missing:
            self._result.dropped[step] = missing
        return opened

    def _outbox(self, step: str, replies: Mapping[int, bytes]) -> dict[int, bytes]:
        """Take in the replies of a step; return what the next one brings to each node."""
        if step in _SPEECH:
            return self._delivered(step, self._read(step, replies, Parcels))
        reports = self._read(step, replies, NodeReport)
        if step == COMBINE:
            self._note_links(reports)
        else:
            drifts = [report.drift for report in reports.values() if report.drift is not None]
            self._result.drift = float(np.mean(drifts)) if drifts else None
        return dict.fromkeys(replies, b"")

    def _delivered(self, step: str, sent: Mapping[int, Parcels]) -> dict[int, bytes]:
        """Hand each message to the node it is for, unless the network loses it."""
        boxes: dict[int, list[Parcel]] = {node: [] for node in sent}
        for sender, parcels in sent.items():
            for parcel in self._allowed(step, sender, parcels):
                everybody = parcel.peer == EVERYBODY
                for receiver in [n for n in boxes if n != sender] if everybody else [parcel.peer]:
                    lost = self._lost(self._round, step, sender, receiver)
                    if receiver in boxes and not lost:
                        boxes[receiver].append(Parcel(sender, parcel.data))
        return {node: encode(Parcels(tuple(box))) for node, box in boxes.items()}

    def _allowed(self, step: str, sender: int, parcels: Parcels) -> Iterator[Parcel]:
        """One message for each receiver; in notice steps that is everybody at once."""
        seen: set[int] = set()
        for parcel in parcels.parcels:
            if (parcel.peer == EVERYBODY) != (step in NOTICE_STEPS):
                reason = "it tells single nodes what is for everybody, or the reverse"
                self._envelopes.refuse(step, sender, reason)
            elif parcel.peer in seen:
                self._envelopes.refuse(step, sender, "it says two things to one receiver")
            else:
                seen.add(parcel.peer)
                yield parcel

    def _note_links(self, reports: Mapping[int, NodeReport]) -> None:
        for node, report in reports.items():
            for refusal in report.refusals:
                reason = f"node {node} refuses its message: {refusal.reason}"
                self._observer(ReplyRefused(self._round, COMBINE, refusal.peer, reason))
        planned = self._gossip.graph.of_round(self._round).edges
        used = {node: set(report.used) for node, report in reports.items()}
        self._result.used = tuple(
            (i, j) for i, j in planned if j in used.get(i, ()) and i in used.get(j, ())
        )
        if len(self._result.used) < len(planned):
            self._result.dropped["links"] = len(planned) - len(self._result.used)

    def _published(
        self, nodes: Mapping[int, bytes]
    ) -> Generator[Exchange, Mapping[int, bytes], dict[int, Integers]]:
        """Ask nodes for their adapters, or look at them where they do not tell."""
        if self._watch is not None:
            held = self._watch()
            return {node: held[node].copy() for node in nodes}
        asked = dict.fromkeys(nodes, b"")
        replies = yield self._envelopes.exchange(PUBLISH, asked, counted=False)
        opened = self._envelopes.opened(PUBLISH, nodes, replies, counted=False)
        size = VECTOR.itemsize * self._plan.facts.dimension
        return {
            node: np.frombuffer(payload, dtype=VECTOR).astype(np.int64)
            for node, payload in opened.items()
            if len(payload) == size
        }

    def _read(
        self, step: str, replies: Mapping[int, bytes], kind: type[_Reply]
    ) -> dict[int, _Reply]:
        found: dict[int, _Reply] = {}
        for node, payload in replies.items():
            try:
                found[node] = decode(payload, kind)
            except MalformedEnvelope as error:
                self._envelopes.refuse(step, node, str(error))
        return found
