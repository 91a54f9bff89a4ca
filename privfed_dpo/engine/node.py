"""A node of a run without a server: bytes in, bytes out.

It holds its own pairs, key, randomness and adapter, takes its local steps as a client of a
federated run does, each with its own full noise, and averages with its neighbours. Whoever keeps
the rounds in step carries its messages and cannot change them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.contribution import Contributor
from privfed_dpo.engine.gossip_messages import (
    ADAPT,
    PUBLISH,
    GossipStart,
    NodeReport,
    Parcels,
)
from privfed_dpo.engine.gossip_plan import GossipPlan
from privfed_dpo.engine.masked_exchange import MaskedExchange
from privfed_dpo.engine.messages import (
    COORDINATOR,
    WIRE_VERSION,
    Envelope,
    decode,
    decode_envelope,
    encode,
)
from privfed_dpo.engine.mixing import WEIGHT_BITS, WEIGHT_UNIT, integer_weights
from privfed_dpo.engine.neighbour_exchange import VECTOR, NeighbourExchange, NodeAddress
from privfed_dpo.engine.node_state import NodeState
from privfed_dpo.mechanism.keystream import Entropy
from secure_agg import IdentityKey


class GossipNode:
    """One node's side of all rounds.

    Args:
        contributor: data, model and randomness of this node, bound to its plan.
        gossip: the plan's graph and order.
        run_id: 16 bytes that name the run.
        identity: the node's long-lived signing key.
        roster: identity keys of all nodes, by number, fixed before the run.
        state: its adapter and open exchanges; this object changes it.
        entropy: secret bytes for masked sums, `os.urandom` outside tests.
        last_round: the last round it took part in before this process.

    Guarantee: whatever leaves the node follows from its noisy steps and from what others sent it;
        with masked sums its adapter leaves it under masks only, also when it is asked for.
        It takes part in each round of its plan once, and in no other; whoever restarts it gives
        the state it ended with.
    """

    __slots__ = (
        "_contributor",
        "_entropy",
        "_exchange",
        "_gossip",
        "_identity",
        "_last_round",
        "_pending",
        "_roster",
        "_run_id",
        "state",
    )

    def __init__(
        self,
        *,
        contributor: Contributor,
        gossip: GossipPlan,
        run_id: bytes,
        identity: IdentityKey,
        roster: Mapping[int, bytes],
        state: NodeState,
        entropy: Entropy,
        last_round: int = 0,
    ) -> None:
        self._contributor = contributor
        self._gossip = gossip
        self._run_id = run_id
        self._identity = identity
        self._roster = roster
        self.state = state
        self._entropy = entropy
        self._last_round = last_round
        self._pending: list[str] = []
        self._exchange: NeighbourExchange | MaskedExchange | None = None

    def __repr__(self) -> str:
        return f"GossipNode({self.number}, round={self._last_round})"

    @property
    def number(self) -> int:
        """This node's number on the roster."""
        return self._contributor.client

    def handle(self, data: bytes) -> bytes:
        """Answer one message of whoever keeps the rounds in step.

        Args:
            data: an encoded Envelope. The step that opens a round holds a GossipStart, one that
                brings neighbours' messages holds Parcels; other payloads are empty.

        Returns:
            The encoded reply, with Parcels for neighbours, a NodeReport, or this node's adapter.

        Raises:
            MalformedEnvelope: not a canonical message of this version.
            ClientRefused: another run or plan, an old round or one beyond the plan's, a step out
                of order, or with masked sums a question for the adapter.
        """
        envelope = decode_envelope(data)
        if envelope.run_id != self._run_id or envelope.sender != COORDINATOR:
            raise ClientRefused("the message belongs to another run")
        if envelope.step == PUBLISH:
            if self._gossip.masking is not None:
                raise ClientRefused("with gossip.masked nobody is given this node's adapter")
            payload = self.state.values.astype(VECTOR).tobytes()
        else:
            payload = self._advance(envelope)
        return encode(
            Envelope(
                version=WIRE_VERSION,
                run_id=self._run_id,
                round=envelope.round,
                step=envelope.step,
                sender=self.number,
                payload=payload,
            )
        )

    def _advance(self, envelope: Envelope) -> bytes:
        """Do the next step of the round; each one once, in order."""
        if envelope.step == self._gossip.steps[0]:
            self._begin(envelope)
        if envelope.round != self._last_round or self._pending[:1] != [envelope.step]:
            raise ClientRefused(
                f"step {envelope.step} of round {envelope.round} is not what comes next here; the "
                f"last round was {self._last_round}"
            )
        self._pending.pop(0)
        if envelope.step == ADAPT:
            return encode(self._adapt())
        if envelope.step == self._gossip.mixing_steps[0]:
            self._exchange = self._open_exchange()
            return encode(self._exchange.step(envelope.step, ()))
        if self._exchange is None:
            raise ClientRefused("no exchange with neighbours is open here")
        parcels = decode(envelope.payload, Parcels).parcels
        return encode(self._exchange.step(envelope.step, parcels))

    def _begin(self, envelope: Envelope) -> None:
        planned = self._contributor.plan.rounds
        if not 1 <= envelope.round <= planned:
            raise ClientRefused(
                f"round {envelope.round} was asked, and the plan has rounds 1 to {planned}: what "
                "this node spends was priced for no more"
            )
        if envelope.round <= self._last_round:
            raise ClientRefused(
                f"round {envelope.round} was asked after round {self._last_round}: a node takes "
                "part in each round once"
            )
        if decode(envelope.payload, GossipStart).plan_hash != self._plan_hash:
            raise ClientRefused("the round follows another plan than this node")
        self._last_round = envelope.round
        self._pending = list(self._gossip.steps)

    def _adapt(self) -> NodeReport:
        """Take the round's local steps, each with this node's full noise."""
        plan = self._contributor.plan
        grid = plan.grid()
        start = self.state.values / (grid.steps_per_unit * WEIGHT_UNIT)
        steps = self._contributor.contribute(self._last_round, start.astype(np.float32))
        limit = self._gossip.value_limit_steps << WEIGHT_BITS
        moved = self.state.values + (steps[: plan.facts.dimension] << WEIGHT_BITS)
        self.state.values = np.clip(moved, -limit, limit)
        drift = float(grid.to_units(steps[-1:])[0])
        return NodeReport(drift=drift if plan.local_steps > 1 else None)

    def _open_exchange(self) -> NeighbourExchange | MaskedExchange:
        address = NodeAddress(
            run_id=self._run_id,
            plan_hash=self._plan_hash,
            round=self._last_round,
            number=self.number,
            identity=self._identity,
            roster=self._roster,
        )
        graph = self._gossip.graph.of_round(self._last_round)
        rules = self._gossip.masking
        if rules is not None:
            return MaskedExchange(
                address,
                graph,
                self.state,
                rules=rules,
                entropy=self._entropy,
                released=self._last_round == self._contributor.plan.rounds,
            )
        links = integer_weights(graph)
        weights = {
            i + j - self.number: weight for (i, j), weight in links.items() if self.number in (i, j)
        }
        limit = 2 * self._gossip.value_limit_steps
        return NeighbourExchange(address, weights, self.state, limit_steps=limit)

    @property
    def _plan_hash(self) -> bytes:
        return bytes.fromhex(self._contributor.plan.plan_hash)
