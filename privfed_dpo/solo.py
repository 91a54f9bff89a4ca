"""A federation of one: the same training, engine and optimizer, on the pairs of a single holder.

Local-only and centralised references, and the adapters that clients keep to themselves, are all
trained this way. Nothing is noised, so what comes out reveals the pairs it was trained on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from accounting import Adjacency, Ledger, LedgerHeader
from privfed_dpo.assembly import Assembly
from privfed_dpo.config import (
    Config,
    EvaluationConfig,
    FederationConfig,
    GossipConfig,
    PrivacyConfig,
    SecureAggConfig,
)
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.client import FederatedClient
from privfed_dpo.engine.contribution import Contributor, PrivateShard
from privfed_dpo.engine.federated import FederatedTraining
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.engine.public_facts import PublicFacts
from privfed_dpo.enrolment import Enrolment
from privfed_dpo.mechanism.keystream import Entropy, StreamIssuer
from privfed_dpo.server_update import ServerState, ServerUpdate, Vector
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import LoopbackCarrier

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PulledUpdate(ServerUpdate):
    """An optimizer whose loss also holds `pull / 2 * ||weights - anchor||^2` (Li et al. 2021).

    Attributes:
        anchor: shape [d], where weights are pulled to.
        pull: strength; 0 pulls nothing.
    """

    anchor: Vector = field(repr=False)
    pull: float

    def apply(self, state: ServerState, gradient: Vector) -> ServerState:
        """Take one descent step on loss and pull together."""
        pulled = gradient + self.pull * (state.weights - self.anchor)
        return ServerUpdate.apply(self, state, pulled)


def run_optimizer(config: Config) -> ServerUpdate:
    """The optimizer of a run's gradient steps: the server's, or that of clients' local steps."""
    federation = config.federation
    if config.decentralised or federation.local_steps > 1 or config.privacy.mode == "local":
        return ServerUpdate("sgd", federation.local_learning_rate, momentum=0.0)
    return ServerUpdate(federation.server_optimizer, federation.learning_rate, federation.momentum)


def train_alone(
    assembly: Assembly,
    shard: PrivateShard,
    *,
    start: Weights,
    steps: int,
    sample_rate: float,
    update: ServerUpdate,
    entropy: Entropy,
    after_step: Callable[[Weights], None] = lambda _: None,
) -> Weights:
    """Train on one holder's pairs, without noise.

    Args:
        assembly: model, loss and clip norm.
        shard: the pairs, at least one.
        start: flat adapter to begin with, shape [d].
        steps: gradient steps.
        sample_rate: probability with which each pair joins a step.
        update: the optimizer.
        entropy: source of the sample.
        after_step: told the adapter after every step.

    Returns:
        The flat adapter, shape [d]. NOT private: it may go only to whoever holds the pairs.
    """
    plan = _plan_of_one(assembly, len(shard.pairs), steps=steps, sample_rate=sample_rate)
    run_id, enrolment = entropy(16), Enrolment.draw(1, entropy)
    client = FederatedClient(
        contributor=Contributor(
            plan=plan, client=0, shard=shard, source=assembly.source, issuer=StreamIssuer(entropy)
        ),
        run_id=run_id,
        identity=enrolment.identities[0],
        roster=enrolment.roster,
        coordinator=enrolment.coordinator.public,
        entropy=entropy,
    )

    def told(weights: Weights) -> dict[str, float]:
        after_step(weights)
        return {}

    with TemporaryDirectory() as folder:
        training = FederatedTraining(
            plan=plan,
            run_id=run_id,
            roster=enrolment.roster,
            ledger=_scratch_ledger(Path(folder), plan, run_id),
            sign=enrolment.coordinator.sign,
            update=update,
            measure=told,
            measure_every=1,
            seed=0,
            save=lambda _: None,
            observer=lambda _: None,
            clock=time.monotonic,
        )
        begin = Checkpoint(
            round=0,
            state=ServerState.start(start),
            rows=(),
            plan_hash=plan.plan_hash,
            data_fingerprint="",
            seconds=0.0,
        )
        result = drive(training.script(begin), LoopbackCarrier({0: client.handle}))
    return result.checkpoint.state.weights.astype(np.float32)


def _plan_of_one(assembly: Assembly, pairs: int, *, steps: int, sample_rate: float) -> RunPlan:
    config, facts = assembly.config, assembly.plan.facts
    alone = config.model_copy(
        update={
            "privacy": PrivacyConfig(
                mode="none",
                max_grad_norm=config.privacy.max_grad_norm,
                sample_rate=sample_rate,
            ),
            "federation": FederationConfig(rounds=steps, local_learning_rate=1.0),
            "secure_agg": SecureAggConfig(enabled=False),
            "gossip": GossipConfig(enabled=False),
            "evaluation": EvaluationConfig(),
        }
    )
    return make_plan(
        alone,
        PublicFacts(
            client_names=("alone",),
            client_pairs=(pairs,),
            dimension=facts.dimension,
            model_fingerprint=facts.model_fingerprint,
            model_bytes=facts.model_bytes,
        ),
    )


def _scratch_ledger(folder: Path, plan: RunPlan, run_id: bytes) -> Ledger:
    """The engine keeps books of every training; those of one without promises are thrown away."""
    header = LedgerHeader(
        run_id=run_id.hex(),
        plan_hash=plan.plan_hash,
        config_hash="0" * 64,
        unit=plan.schedule.unit,
        adjacency=Adjacency.ZERO_OUT,
        budget=None,
        schedule=plan.schedule,
        clients=1,
        extra={"secure_aggregation": False},
    )
    return Ledger.create(folder / "ledger.jsonl", header, fsync=lambda _: None)
