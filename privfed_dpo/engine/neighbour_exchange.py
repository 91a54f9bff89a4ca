"""One averaging of a node with its neighbours: offers, acknowledgements, integer flows.

A link is used by an end that got a valid offer and a valid acknowledgement over it. Over a used
link the end's values grow by `weight * (theirs - ours)`, of which the other end's growth is the
exact negative, so the sum over all nodes stays.

The last acknowledgement may be lost, and no protocol over a lossy link avoids that one end then
averages and the other does not (Gray 1978). The end in doubt keeps the flow aside; the other end's
next offer names the last round it used, which tells whether to add the flow or to forget it. At
most one exchange per link is open: a link is used again only after an offer that closed it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from privfed_dpo.engine.gossip_messages import (
    ACKNOWLEDGE,
    OFFER,
    Kind,
    NeighbourMessage,
    NodeReport,
    Parcel,
    Parcels,
    Refusal,
)
from privfed_dpo.engine.messages import MalformedEnvelope, decode, encode
from privfed_dpo.engine.mixing import Integers, flow, split
from privfed_dpo.engine.node_state import NodeState, OpenExchange
from secure_agg import IdentityKey

VECTOR = np.dtype("<i8")
"""How coordinates travel: 64-bit integers, little-endian."""


class MessageRefused(Exception):
    """A neighbour's message is not taken; its link counts as lost in this round."""


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Who a node is in one round of one run.

    Attributes:
        run_id: 16 bytes that name the run.
        plan_hash: 32 bytes.
        round: training round.
        number: the node.
        identity: its signing key.
        roster: identity keys of all nodes, by number.
    """

    run_id: bytes
    plan_hash: bytes
    round: int
    number: int
    identity: IdentityKey = field(repr=False)
    roster: Mapping[int, bytes] = field(repr=False)

    def write(self, kind: Kind, receiver: int, body: bytes, *, last_used: int = 0) -> bytes:
        """Return a signed message to a neighbour, or to EVERYBODY."""
        message = NeighbourMessage(
            run_id=self.run_id,
            plan_hash=self.plan_hash,
            round=self.round,
            kind=kind,
            sender=self.number,
            receiver=receiver,
            last_used=last_used,
            body=body,
            signature=b"",
        )
        return encode(message.signed_by(self.identity))

    def read(self, kind: Kind, parcel: Parcel, *, receiver: int | None = None) -> NeighbourMessage:
        """Open a message that must come from `parcel.peer`, in this round, to this node.

        Args:
            kind: what it must be.
            parcel: what arrived.
            receiver: EVERYBODY for a notice; None is this node.

        Raises:
            MessageRefused: it is anything else.
        """
        try:
            message = decode(parcel.data, NeighbourMessage)
        except MalformedEnvelope as error:
            raise MessageRefused(str(error)) from error
        for name, found, expected in (
            ("run", message.run_id, self.run_id),
            ("plan", message.plan_hash, self.plan_hash),
            ("round", message.round, self.round),
            ("kind", message.kind, kind),
            ("sender", message.sender, parcel.peer),
            ("receiver", message.receiver, self.number if receiver is None else receiver),
        ):
            if found != expected:
                raise MessageRefused(f"the {name} of its {kind} is not the one expected")
        key = self.roster.get(parcel.peer)
        if key is None or not message.is_signed_by(key):
            raise MessageRefused(f"the signature of its {kind} does not verify")
        return message


class NeighbourExchange:
    """One averaging at one node; its three steps are called once each, in order.

    Args:
        address: who this node is, and in which round.
        weights: neighbour -> weight of the link, in multiples of 2^-WEIGHT_BITS.
        state: the node's adapter and open exchanges, changed in place.
        limit_steps: largest magnitude of a coordinate that a neighbour may send.
    """

    __slots__ = (
        "_address",
        "_limit_steps",
        "_offers",
        "_refusals",
        "_sent",
        "_settled",
        "_state",
        "_weights",
    )

    def __init__(
        self,
        address: NodeAddress,
        weights: Mapping[int, int],
        state: NodeState,
        *,
        limit_steps: int,
    ) -> None:
        self._address = address
        self._weights = weights
        self._state = state
        self._limit_steps = limit_steps
        self._sent: Integers = np.zeros(0, dtype=np.int64)
        self._offers: dict[int, bytes] = {}
        self._refusals: list[Refusal] = []
        self._settled: list[int] = []

    def step(self, step: str, parcels: tuple[Parcel, ...]) -> Parcels | NodeReport:
        """Take one of `COMBINE_STEPS`, with what arrived since the last one."""
        if step == OFFER:
            return self.offer()
        return self.acknowledge(parcels) if step == ACKNOWLEDGE else self.combine(parcels)

    def offer(self) -> Parcels:
        """Write this node's adapter to every neighbour."""
        self._sent, _ = split(self._state.values)
        body = self._sent.astype(VECTOR).tobytes()
        self._offers = {peer: self._write("offer", peer, body) for peer in self._weights}
        return _bundle(self._offers)

    def acknowledge(self, parcels: tuple[Parcel, ...]) -> Parcels:
        """Take offers in, close what earlier rounds left open, and confirm each offer.

        From here on the link is in doubt at this end, until the neighbour's own acknowledgement
        or its next offer.
        """
        acks: dict[int, bytes] = {}
        for parcel in parcels:
            peer = parcel.peer
            try:
                offer, moved = self._offered(parcel, again=peer in acks)
            except MessageRefused as error:
                self._refusals.append(Refusal(peer, str(error)))
                continue
            self._close(peer, offer.last_used)
            self._state.open[peer] = OpenExchange(self._address.round, moved)
            acks[peer] = self._write("ack", peer, hashlib.sha256(parcel.data).digest())
        return _bundle(acks)

    def combine(self, parcels: tuple[Parcel, ...]) -> NodeReport:
        """Average over every link whose two ends have confirmed it."""
        used: list[int] = []
        for parcel in parcels:
            try:
                waiting = self._confirmed(parcel, again=parcel.peer in used)
            except MessageRefused as error:
                self._refusals.append(Refusal(parcel.peer, str(error)))
                continue
            if waiting is not None:
                self._average(parcel.peer, waiting)
                used.append(parcel.peer)
        return NodeReport(
            used=tuple(sorted(used)),
            settled=tuple(sorted(self._settled)),
            refusals=tuple(self._refusals),
        )

    def _offered(self, parcel: Parcel, *, again: bool) -> tuple[NeighbourMessage, Integers]:
        """Open an offer; return it with the flow over its link."""
        if again:
            raise MessageRefused("a second offer in one round")
        offer = self._read("offer", parcel)
        return offer, flow(self._weights[parcel.peer], self._vector(offer.body), self._sent)

    def _confirmed(self, parcel: Parcel, *, again: bool) -> OpenExchange | None:
        """Open an acknowledgement; return the exchange it completes.

        None if the neighbour's own offer never arrived: it will not average either.
        """
        if again:
            raise MessageRefused("a second acknowledgement in one round")
        ack = self._read("ack", parcel)
        if ack.body != hashlib.sha256(self._offers[parcel.peer]).digest():
            raise MessageRefused("it confirms another offer than was sent")
        waiting = self._state.open.get(parcel.peer)
        return waiting if waiting and waiting.round == self._address.round else None

    def _close(self, peer: int, last_used: int) -> None:
        """Learn from a neighbour's offer whether it averaged in the round that is in doubt."""
        waiting = self._state.open.pop(peer, None)
        if waiting is not None and waiting.round == last_used:
            self._average(peer, waiting)
            self._settled.append(peer)

    def _average(self, peer: int, exchange: OpenExchange) -> None:
        self._state.values = self._state.values + exchange.flow
        self._state.last_used[peer] = exchange.round
        self._state.open.pop(peer, None)

    def _write(self, kind: Kind, peer: int, body: bytes) -> bytes:
        last_used = self._state.last_used.get(peer, 0)
        return self._address.write(kind, peer, body, last_used=last_used)

    def _read(self, kind: Kind, parcel: Parcel) -> NeighbourMessage:
        if parcel.peer not in self._weights:
            raise MessageRefused("it is no neighbour in this round")
        return self._address.read(kind, parcel)

    def _vector(self, body: bytes) -> Integers:
        if len(body) != VECTOR.itemsize * self._sent.size:
            raise MessageRefused("its adapter has the wrong length")
        values = np.frombuffer(body, dtype=VECTOR).astype(np.int64)
        if values.size and (values.max() > self._limit_steps or values.min() < -self._limit_steps):
            raise MessageRefused("its adapter is out of range")
        return values


def _bundle(messages: Mapping[int, bytes]) -> Parcels:
    return Parcels(tuple(Parcel(peer, data) for peer, data in messages.items()))
