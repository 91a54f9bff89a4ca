"""The same log-linear clients, driven by the real engine over the loopback carrier.

Plan, ledger, clients, messages, integers, secure sums and server step are the product's own; only
the model is replaced. `experiments.simulate` must give the same iterates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from accounting import Adjacency, Ledger, LedgerHeader, PrivacyUnit
from experiments.objective import Objective
from experiments.population import Reals
from experiments.simulate import Cohorts
from privfed_dpo.config import parse_config
from privfed_dpo.data.tokenize import TokenizedPair, pair_key
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.client import FederatedClient
from privfed_dpo.engine.cohort import choose_cohort
from privfed_dpo.engine.contribution import Contributor, PrivateShard
from privfed_dpo.engine.federated import FederatedTraining
from privfed_dpo.engine.gossip_round import GossipRound, no_message_lost
from privfed_dpo.engine.mixing import WEIGHT_UNIT
from privfed_dpo.engine.node import GossipNode
from privfed_dpo.engine.node_state import NodeState
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.engine.public_facts import PublicFacts
from privfed_dpo.mechanism.clip import ClippedSum, PairClipper
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.server_update import ServerState, ServerUpdate
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import LoopbackCarrier
from secure_agg import Entropy, IdentityKey

RUN_ID = b"experiments-run-"
_PLAIN = """
privacy: {mode: none, max_grad_norm: null, sample_rate: 1.0}
federation: {server_optimizer: sgd, learning_rate: 1.0, momentum: 0.0}
"""


@dataclass
class LogLinearGradients:
    """A log-linear policy as the engine's source of pair gradients.

    Attributes:
        objective: all clients' pairs; a pair's tokens only say where it stands in there.
        client: whose pairs these are.
    """

    objective: Objective
    client: int

    def load(self, weights: npt.NDArray[np.float32]) -> None:
        """Evaluate all pairs of the client at these weights."""
        own = slice(self.client, self.client + 1)
        alone = Objective(
            self.objective.features[own],
            self.objective.choices[own],
            self.objective.beta,
            self.objective.loss,
        )
        self._rows = alone.pair_gradients(weights.astype(np.float64))[0]

    def pair_gradients(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.float32]
    ) -> Iterator[torch.Tensor]:
        """Yield the gradients of the pairs, shape [b, d], float64; there is no reference."""
        del reference
        yield torch.from_numpy(self._rows[[pair.chosen[0] - 1 for pair in pairs]])

    def clipped_sum(
        self,
        pairs: Sequence[TokenizedPair],
        reference: npt.NDArray[np.float32],
        clipper: PairClipper,
    ) -> ClippedSum:
        """Sum the gradients, each clipped once and truncated."""
        return clipper.clip_all(self.pair_gradients(pairs, reference), self.objective.dimension)


def engine_plan(objective: Objective, *overrides: str) -> RunPlan:
    """The plan of a run of the real engine; by default full batches without privacy."""
    clients, pairs, dimension = objective.features.shape
    facts = PublicFacts(
        client_names=tuple(f"client-{number:03d}" for number in range(clients)),
        client_pairs=(pairs,) * clients,
        dimension=dimension,
        model_fingerprint="log-linear",
        model_bytes=0,
    )
    return make_plan(parse_config(_PLAIN, [f"data.clients={clients}", *overrides]), facts)


def engine_iterates(objective: Objective, plan: RunPlan, ledger: Path, entropy: Entropy) -> Reals:
    """Train from zero with the real engine.

    Args:
        objective: the clients.
        plan: from `engine_plan`.
        ledger: file to create.
        entropy: secret randomness of all parties.

    Returns:
        The global adapter after every round, [rounds, d].
    """
    coordinator = IdentityKey.generate(entropy)
    identities = [IdentityKey.generate(entropy) for _ in plan.facts.client_names]
    roster = {number: identity.public for number, identity in enumerate(identities)}
    handlers = {
        number: FederatedClient(
            contributor=_contributor(objective, plan, number, entropy),
            run_id=RUN_ID,
            identity=identity,
            roster=roster,
            coordinator=coordinator.public,
            entropy=entropy,
        ).handle
        for number, identity in enumerate(identities)
    }
    saved: list[Checkpoint] = []
    training = FederatedTraining(
        plan=plan,
        run_id=RUN_ID,
        roster=roster,
        ledger=Ledger.create(ledger, _header(plan)),
        sign=coordinator.sign,
        update=ServerUpdate(
            kind="sgd",
            learning_rate=float(str(plan.objective["learning_rate"])),
            momentum=float(str(plan.objective["momentum"])),
        ),
        measure=lambda _: {},
        measure_every=plan.rounds,
        seed=0,
        save=saved.append,
        observer=lambda _: None,
        clock=lambda: 0.0,
    )
    origin = ServerState.start(np.zeros(objective.dimension, dtype=np.float32))
    start = Checkpoint(0, origin, (), plan.plan_hash, "log-linear", 0.0)
    drive(training.script(start), LoopbackCarrier(handlers))
    return np.array([checkpoint.state.weights for checkpoint in saved])


def engine_gossip_iterates(objective: Objective, plan: RunPlan, entropy: Entropy) -> Reals:
    """Play the rounds of a plan without a server from zero: real bytes between real nodes.

    Args:
        objective: the nodes.
        plan: from `engine_plan` with `gossip.enabled=true` and the order atc.
        entropy: secret randomness of all nodes.

    Returns:
        Every node's adapter just before mixing, [rounds, N, d].

    Raises:
        ValueError: the plan has a server.
    """
    if plan.gossip is None:
        raise ValueError("the plan has a server; set gossip.enabled=true")
    identities = [IdentityKey.generate(entropy) for _ in plan.facts.client_names]
    steps_per_unit = plan.grid().steps_per_unit
    origin = np.zeros(objective.dimension, dtype=np.float32)
    nodes = {
        number: GossipNode(
            contributor=_contributor(objective, plan, number, entropy),
            gossip=plan.gossip,
            run_id=RUN_ID,
            identity=identity,
            roster={other: key.public for other, key in enumerate(identities)},
            state=NodeState.start(origin, steps_per_unit),
            entropy=entropy,
            last_round=0,
        )
        for number, identity in enumerate(identities)
    }
    carrier = LoopbackCarrier({number: node.handle for number, node in nodes.items()})
    before = []
    for number in range(1, plan.rounds + 1):
        played = GossipRound(
            plan=plan,
            gossip=plan.gossip,
            run_id=RUN_ID,
            round_number=number,
            observer=lambda _: None,
            lost=no_message_lost,
        )
        result = drive(played.script(watch_mixing=True), carrier)
        before.append([result.before[node] for node in nodes])
    return np.array(before) / (steps_per_unit * WEIGHT_UNIT)


def engine_cohorts(plan: RunPlan) -> Cohorts:
    """The cohorts that `engine_iterates` invites, as the simulator takes them, for one chain."""
    names = plan.facts.client_names
    invitations: dict[str, int] = dict.fromkeys(names, 0)

    def draw(number: int) -> Reals:
        cohort = choose_cohort(names, plan.cohort, invitations, seed=0, round_number=number)
        for name in cohort:
            invitations[name] += 1
        return np.array([[float(name in cohort)] for name in names])

    return draw


def engine_delays(plan: RunPlan) -> Cohorts:
    """The delays of a plan's clients, as the simulator takes them, for one chain."""

    def draw(number: int) -> Reals:
        clients = range(len(plan.facts.client_names))
        ages = [min(plan.drift.delay(number, client), number - 1) for client in clients]
        return np.array(ages, dtype=np.float64)[:, None]

    return draw


def _contributor(objective: Objective, plan: RunPlan, client: int, entropy: Entropy) -> Contributor:
    places = range(1, objective.features.shape[1] + 1)
    tokens = [((client + 1,), (place,), (place + 1,)) for place in places]
    pairs = tuple(TokenizedPair(*ids, key=pair_key(*ids)) for ids in tokens)
    return Contributor(
        plan=plan,
        client=client,
        shard=PrivateShard(pairs, np.zeros((len(pairs), 2), dtype=np.float32)),
        source=LogLinearGradients(objective, client),
        issuer=StreamIssuer(entropy),
    )


def _header(plan: RunPlan) -> LedgerHeader:
    return LedgerHeader(
        run_id=RUN_ID.hex(),
        plan_hash=plan.plan_hash,
        config_hash="log-linear",
        unit=PrivacyUnit.PAIR,
        adjacency=Adjacency.ZERO_OUT,
        budget=plan.budget,
        schedule=plan.schedule,
        clients=len(plan.facts.client_names),
    )
