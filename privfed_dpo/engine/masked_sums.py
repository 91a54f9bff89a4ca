"""All secure sums one node is in during a round: the aggregator of one, a client of several.

The protocol is that of `secure_agg`, one instance per neighbourhood, with every contribution
needed: a sum over fewer than all agreed neighbours cannot be opened, whatever its aggregator does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from privfed_dpo.engine.gossip_messages import Parcel, Refusal
from privfed_dpo.engine.masked_links import MaskingRules, links_digest
from privfed_dpo.engine.mixing import Integers
from privfed_dpo.engine.neighbour_exchange import NodeAddress
from privfed_dpo.mechanism.keystream import Entropy
from privfed_dpo.topology import Topology
from secure_agg import ClientSession, Phase, ProtocolParams, SecAggError, ServerSession

RING_BITS = 64

Weighted = Callable[[int], Integers]
"""Aggregator -> what this node puts into its sum, shape [d]."""


def sum_params(
    address: NodeAddress, live: Topology, aggregator: int, rules: MaskingRules, *, dimension: int
) -> ProtocolParams:
    """Return the parameters of the sum that one node takes over its neighbours.

    Args:
        address: run, round and roster; the same for every party but for who it is.
        live: the round's agreed links; part of the round's id, so that nobody who saw other links
            can take part.
        aggregator: whose sum it is; it does not contribute itself.
        rules: what the sum must hide.
        dimension: coordinates d.
    """
    label = b"privfed-dpo/masked/" + address.run_id + address.round.to_bytes(8, "big")
    place = aggregator.to_bytes(4, "big")
    members = live.neighbours[aggregator]
    return ProtocolParams(
        round_id=hashlib.sha256(label + place + links_digest(live)).digest(),
        roster={peer: address.roster[peer] for peer in members},
        threshold=len(members),
        colluders=rules.colluders - 1,
        vector_length=dimension,
        modulus_bits=RING_BITS,
    )


class MaskedSums:
    """One node's sessions of one round.

    Args:
        address: who this node is, and in which round.
        live: the agreed links; this node has neighbours there.
        rules: what the sums must hide.
        dimension: coordinates d.
        entropy: secret bytes on demand.

    A message that is missing or refused ends the sum it belongs to, and no other.
    """

    __slots__ = ("_clients", "_neighbours", "_own", "refusals")

    def __init__(
        self,
        address: NodeAddress,
        live: Topology,
        rules: MaskingRules,
        *,
        dimension: int,
        entropy: Entropy,
    ) -> None:
        def params(aggregator: int) -> ProtocolParams:
            return sum_params(address, live, aggregator, rules, dimension=dimension)

        self._neighbours = live.neighbours[address.number]
        self._own = ServerSession(params(address.number))
        self._clients = {
            peer: ClientSession(params(peer), address.number, address.identity, entropy)
            for peer in self._neighbours
        }
        self.refusals: list[Refusal] = []

    def advertise(self) -> dict[int, bytes]:
        """Open every sum this node contributes to; returns a message for each aggregator."""
        return {peer: session.advertise() for peer, session in self._clients.items()}

    def answer(
        self, phase: Phase, parcels: Iterable[Parcel], weighted: Weighted
    ) -> dict[int, bytes]:
        """Answer the aggregators in one phase.

        Args:
            phase: the phase that is asked for.
            parcels: the aggregators' requests.
            weighted: what this node puts into each sum; asked for in MaskedInput only.
        """
        replies: dict[int, bytes] = {}
        for parcel in parcels:
            session = self._clients.get(parcel.peer)
            if session is None or session.awaiting is not phase:
                continue
            vector = weighted(parcel.peer) if phase is Phase.MASKED_INPUT else None
            words = None if vector is None else vector.astype(np.int64).view(np.uint64)
            try:
                replies[parcel.peer] = session.handle(parcel.data, vector=words)
            except SecAggError as error:
                self.refusals.append(Refusal(parcel.peer, str(error)))
        return replies

    def close(self, phase: Phase, parcels: Iterable[Parcel]) -> Mapping[int, bytes]:
        """Take the neighbours' replies and end a phase of this node's own sum.

        Returns:
            A message for each neighbour; nothing once the sum is over, opened or not.
        """
        if self._own.failure is not None or self._own.phase is not phase:
            return {}
        for parcel in parcels:
            try:
                self._own.receive(parcel.peer, parcel.data)
            except SecAggError as error:
                self.refusals.append(Refusal(parcel.peer, str(error)))
        try:
            return {int(peer): data for peer, data in self._own.close_phase().items()}
        except SecAggError:
            return {}

    @property
    def total(self) -> Integers | None:
        """The sum over all agreed neighbours, shape [d]; None if it was not opened."""
        if self._own.failure is not None or self._own.phase is not None:
            return None
        result = self._own.result
        if result.survivors != self._neighbours:
            return None
        return result.total.astype(np.uint64).view(np.int64)
