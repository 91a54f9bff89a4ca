"""A simulated run without a server: all nodes in this process, each behind its bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accounting import Ledger
from privfed_dpo.assembly import Assembly
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.contribution import Contributor
from privfed_dpo.engine.events import Observer
from privfed_dpo.engine.gossip import GossipTraining
from privfed_dpo.engine.gossip_plan import GossipPlan
from privfed_dpo.engine.mixing import Integers
from privfed_dpo.engine.node import GossipNode
from privfed_dpo.engine.node_state import NodeState, pack_states, unpack_states
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.training import TrainingScript
from privfed_dpo.enrolment import Enrolment
from privfed_dpo.mechanism.keystream import Entropy, StreamIssuer
from privfed_dpo.wire.faulty_nodes import LinksDown, NodeAbsences
from privfed_dpo.wire.loopback import LoopbackCarrier


def starting_nodes(
    plan: RunPlan, weights: npt.NDArray[np.float32]
) -> Mapping[str, npt.NDArray[np.generic]] | None:
    """Return what all nodes hold before round 1, for a checkpoint; None with a server.

    Args:
        plan: the run's plan.
        weights: the adapter everybody starts from, shape [d].
    """
    if plan.gossip is None:
        return None
    start = NodeState.start(weights, plan.grid().steps_per_unit)
    return pack_states([start for _ in plan.facts.client_names])


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The nodes of a simulated run.

    Attributes:
        assembly: data, model and plan.
        gossip: the plan's graph and order.
        run_id: 16 bytes that name the run.
        nodes: all nodes, by number.
    """

    assembly: Assembly
    gossip: GossipPlan
    run_id: bytes
    nodes: Mapping[int, GossipNode]

    @classmethod
    def gather(
        cls,
        assembly: Assembly,
        gossip: GossipPlan,
        run_id: bytes,
        enrolment: Enrolment,
        entropy: Entropy,
        *,
        checkpoint: Checkpoint,
        last_round: int,
    ) -> Neighbourhood:
        """Make every node, with fresh secrets for its noise and with what a checkpoint holds.

        Args:
            assembly: data, model and plan.
            gossip: the plan's graph and order.
            run_id: 16 bytes that name the run.
            enrolment: long-lived signing keys.
            entropy: source of all other secrets.
            checkpoint: where the run stands.
            last_round: the last booked round; nodes refuse to play it again.
        """
        nodes = {
            number: GossipNode(
                contributor=Contributor(
                    plan=assembly.plan,
                    client=number,
                    shard=assembly.shards[number],
                    source=assembly.source,
                    issuer=StreamIssuer(entropy),
                ),
                gossip=gossip,
                run_id=run_id,
                identity=enrolment.identities[number],
                roster=enrolment.roster,
                state=state,
                entropy=entropy,
                last_round=last_round,
            )
            for number, state in enumerate(unpack_states(checkpoint.nodes or {}))
        }
        return cls(assembly, gossip, run_id, nodes)

    def carrier(self) -> LoopbackCarrier:
        """Return a carrier to these nodes that simulates the configured absences."""
        config = self.assembly.config
        absences = NodeAbsences(config.gossip.node_dropout, config.run.seed)
        return LoopbackCarrier({n: node.handle for n, node in self.nodes.items()}, absences)

    def script(
        self,
        checkpoint: Checkpoint,
        *,
        ledger: Ledger,
        save: Callable[[Checkpoint], None],
        observer: Observer,
    ) -> TrainingScript:
        """Return the training from a checkpoint on."""
        config = self.assembly.config
        training = GossipTraining(
            plan=self.assembly.plan,
            gossip=self.gossip,
            run_id=self.run_id,
            ledger=ledger,
            measure=self.assembly.measure,
            measure_nodes=self.assembly.measure.own_accuracies,
            measure_every=config.evaluation.every,
            snapshot=lambda: pack_states([node.state for node in self.nodes.values()]),
            save=save,
            observer=observer,
            clock=time.monotonic,
            lost=LinksDown(config.gossip.link_dropout, config.run.seed),
            watch=self._adapters if self.gossip.masking else None,
        )
        return training.script(checkpoint)

    def _adapters(self) -> Mapping[int, Integers]:
        """What nodes hold, for measuring; masked nodes tell nobody, but they live in this process.

        Nothing of it is sent, and none of the nodes learns it.
        """
        return {number: node.state.values for number, node in self.nodes.items()}
