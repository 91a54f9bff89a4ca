"""A federation without a language model: gradients are made up, everything else is real."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from accounting import Adjacency, Ledger, LedgerHeader
from privfed_dpo.config import parse_config
from privfed_dpo.data.tokenize import TokenizedPair, pair_key
from privfed_dpo.engine.client import FederatedClient
from privfed_dpo.engine.contribution import Contributor, PrivateShard
from privfed_dpo.engine.control_variates import ControlVariate
from privfed_dpo.engine.federated import FederatedTraining
from privfed_dpo.engine.invitations import invitation_message
from privfed_dpo.engine.messages import (
    COORDINATOR,
    START,
    WIRE_VERSION,
    Envelope,
    RoundStart,
    encode,
)
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.engine.public_facts import PublicFacts
from privfed_dpo.engine.rounds import RoundCoordinator
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.server_update import ServerUpdate
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy

RUN_ID = b"fake-run-of-16-b"
DIMENSION = 12
COORDINATOR_KEY = IdentityKey.generate(counted_entropy("the coordinator"))

CONFIG = """
privacy:
  noise_multiplier: 1.0
  max_grad_norm: 1.0
  sample_rate: 0.5
  dropout_tolerance: 2
  colluders: 1
federation: {rounds: 50}
"""


class FakeGradients:
    """Each pair's gradient follows from its key and the weights; long enough to be clipped."""

    def __init__(self) -> None:
        self.weights = np.zeros(DIMENSION, dtype=np.float32)

    def load(self, weights: np.ndarray) -> None:
        self.weights = weights

    def pair_gradients(self, pairs, reference) -> Iterator[torch.Tensor]:
        assert len(pairs) == len(reference)
        rows = [
            np.random.default_rng(int(pair.key[:8], 16)).normal(size=DIMENSION) for pair in pairs
        ]
        for start in range(0, len(rows), 3):
            yield torch.from_numpy(np.array(rows[start : start + 3]) - self.weights)

    def clipped_sum(self, pairs, reference, clipper):
        return clipper.clip_all(self.pair_gradients(pairs, reference), self.weights.size)


class NullGradients(FakeGradients):
    """Pairs that teach nothing: what is summed is noise alone."""

    def pair_gradients(self, pairs, reference) -> Iterator[torch.Tensor]:
        yield torch.zeros(len(pairs), self.weights.size)


def fake_plan(
    *overrides: str, clients: int = 8, pairs: int = 10, dimension: int = DIMENSION
) -> RunPlan:
    """The plan of a fake federation; overrides as on the command line."""
    facts = PublicFacts(
        client_names=tuple(f"client-{i}" for i in range(clients)),
        client_pairs=(pairs,) * clients,
        dimension=dimension,
        model_fingerprint="fake",
        model_bytes=0,
    )
    return make_plan(parse_config(CONFIG, [f"data.clients={clients}", *overrides]), facts)


def fake_clients(
    plan: RunPlan,
    seed: str = "fake",
    source: type[FakeGradients] = FakeGradients,
    controls: Sequence[ControlVariate] = (),
) -> tuple[dict[int, FederatedClient], dict[int, bytes]]:
    """All clients of the plan with deterministic keys, and their roster."""
    entropy = counted_entropy(seed)
    count = len(plan.facts.client_names)
    identities = [IdentityKey.generate(entropy) for _ in range(count)]
    roster = {number: identity.public for number, identity in enumerate(identities)}
    clients = {}
    for number in range(count):
        clients[number] = FederatedClient(
            contributor=fake_contributor(plan, number, seed, source),
            run_id=RUN_ID,
            identity=identities[number],
            roster=roster,
            coordinator=COORDINATOR_KEY.public,
            entropy=entropy,
            control=controls[number] if controls else None,
        )
    return clients, roster


def fake_contributor(
    plan: RunPlan, number: int, seed: str, source: type[FakeGradients] = FakeGradients
) -> Contributor:
    """One client's pairs, model and randomness."""
    pairs = tuple(_pair(number, i) for i in range(plan.facts.client_pairs[number]))
    return Contributor(
        plan=plan,
        client=number,
        shard=PrivateShard(pairs, np.zeros((len(pairs), 2), dtype=np.float32)),
        source=source(),
        issuer=StreamIssuer(counted_entropy(f"{seed}/noise/{number}")),
    )


def fake_coordinator(
    plan: RunPlan, roster: Mapping[int, bytes], observer=lambda _: None, round_number: int = 1
) -> RoundCoordinator:
    """A coordinator that invites the first clients of the roster."""
    cohort = dict(list(roster.items())[: plan.cohort])
    return RoundCoordinator(
        plan=plan,
        run_id=RUN_ID,
        round_number=round_number,
        cohort=cohort,
        sign=COORDINATOR_KEY.sign,
        observer=observer,
    )


def fake_start(
    plan: RunPlan,
    cohort: Sequence[int],
    weights: np.ndarray,
    round_number: int = 1,
    /,
    run_id: bytes = RUN_ID,
    **changes,
) -> RoundStart:
    """What the coordinator would send to clients that are all up to date; changes before signing."""
    sent = weights.astype("<f4").tobytes()
    fields = {
        "plan_hash": bytes.fromhex(plan.plan_hash),
        "cohort": tuple(cohort),
        "weights": sent,
        "adapters": (hashlib.sha256(sent).digest(),),
        "signature": b"",
    }
    return signed_start(RoundStart(**{**fields, **changes}), round_number, run_id=run_id)


def signed_start(
    start: RoundStart,
    round_number: int,
    key: IdentityKey = COORDINATOR_KEY,
    run_id: bytes = RUN_ID,
) -> RoundStart:
    """An invitation under the coordinator's signature, or somebody else's."""
    message = invitation_message(run_id, round_number, start)
    return msgspec.structs.replace(start, signature=key.sign(message))


def invitation(start: RoundStart, round_number: int = 1, run_id: bytes = RUN_ID) -> bytes:
    """The message that carries it."""
    return encode(Envelope(WIRE_VERSION, run_id, round_number, START, COORDINATOR, encode(start)))


def fake_ledger(plan: RunPlan, path: Path) -> Ledger:
    """A new ledger of a run of the plan."""
    header = LedgerHeader(
        run_id=RUN_ID.hex(),
        plan_hash=plan.plan_hash,
        config_hash="c",
        unit=plan.schedule.unit,
        adjacency=Adjacency.ZERO_OUT,
        budget=plan.budget,
        schedule=plan.schedule,
        clients=len(plan.facts.client_names),
    )
    return Ledger.create(path, header)


def fake_training(
    plan: RunPlan, roster: Mapping[int, bytes], ledger: Ledger, **changes
) -> FederatedTraining:
    """A coordinator with plain steps of length 1, that measures and tells nothing."""
    fields = {
        "plan": plan,
        "run_id": RUN_ID,
        "roster": roster,
        "ledger": ledger,
        "sign": COORDINATOR_KEY.sign,
        "update": ServerUpdate(kind="sgd", learning_rate=1.0, momentum=0.0),
        "measure": lambda weights: {},
        "measure_every": 1,
        "seed": 0,
        "save": lambda checkpoint: None,
        "observer": lambda event: None,
        "clock": lambda: 0.0,
    }
    return FederatedTraining(**{**fields, **changes})


def _pair(client: int, place: int) -> TokenizedPair:
    ids = ((client + 1,), (place + 1,), (place + 2,))
    return TokenizedPair(*ids, key=pair_key(*ids))
