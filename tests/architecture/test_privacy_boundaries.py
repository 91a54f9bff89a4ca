"""What leaves a client, and what the server divides by: the promises between the layers."""

import numpy as np
import pytest
import torch

from privfed_dpo.assembly import assemble
from privfed_dpo.config import parse_config
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.client import ClientRefused, FederatedClient
from privfed_dpo.engine.contribution import Contributor, PrivateShard
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.engine.public_facts import PublicFacts
from privfed_dpo.errors import ConfigError
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.server_update import ServerState
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import LoopbackCarrier
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import (
    COORDINATOR_KEY,
    fake_ledger,
    fake_start,
    fake_training,
    invitation,
)
from tests.support.tiny_run import tiny_config

CLIENTS, PAIRS, DIMENSION = 4, 30, 3
CLIP = 0.5
RUN_ID = b"boundaries-run-1"
WEIGHTS = np.zeros(DIMENSION, dtype=np.float32)

CONFIG = """
data: {clients: 4}
privacy:
  noise_multiplier: 1.0
  delta: 1.0e-5
  sample_rate: 0.5
  max_grad_norm: 0.5
federation: {rounds: 6, server_optimizer: sgd, learning_rate: 1.0, momentum: 0.0}
"""


class GivenGradients:
    """A model whose pairs are their own gradients."""

    def __init__(self):
        self.asked = 0

    def load(self, weights):
        self.weights = weights

    def pair_gradients(self, pairs, reference):
        self.asked += 1
        yield torch.tensor(np.array(pairs))

    def clipped_sum(self, pairs, reference, clipper):
        return clipper.clip_all(self.pair_gradients(pairs, reference), len(pairs[0]))


def plan_of(*overrides):
    facts = PublicFacts(
        client_names=tuple(f"c{n}" for n in range(CLIENTS)),
        client_pairs=(PAIRS,) * CLIENTS,
        dimension=DIMENSION,
        model_fingerprint="f",
        model_bytes=0,
    )
    return make_plan(parse_config(CONFIG, overrides), facts)


def contributor(plan, rows, *, client=0, source=None):
    return Contributor(
        plan=plan,
        client=client,
        shard=PrivateShard(pairs=tuple(rows), reference=np.zeros((len(rows), 2), np.float32)),
        source=source or GivenGradients(),
        issuer=StreamIssuer(counted_entropy(f"client-{client}")),
    )


def test_an_empty_batch_sends_noise_alone_and_never_reaches_the_model():
    plan = plan_of("privacy.sample_rate=1e-12")
    source = GivenGradients()
    sent = contributor(plan, [[9.0, 9.0, 9.0]] * PAIRS, source=source).contribute(1, WEIGHTS)
    stream = StreamIssuer(counted_entropy("client-0")).issue("round-1/noise")
    assert np.array_equal(sent, plan.share_noise().draw(DIMENSION, stream))
    assert source.asked == 0


def test_a_pair_that_is_not_a_number_leaves_no_trace_in_the_message():
    plan = plan_of("privacy.sample_rate=1.0")
    good = [[0.1, -0.2, 0.3]] * (PAIRS - 1)
    null = contributor(plan, [*good, [0.0, 0.0, 0.0]]).contribute(1, WEIGHTS)
    for bad in (np.nan, np.inf, -np.inf):
        spoilt = contributor(plan, [*good, [0.1, bad, 0.1]]).contribute(1, WEIGHTS)
        assert np.array_equal(spoilt, null), "it must equal the null record of zero-out adjacency"


def clients_of(plan, rows):
    identities = [IdentityKey.generate(counted_entropy(f"identity-{n}")) for n in range(CLIENTS)]
    roster = {n: identity.public for n, identity in enumerate(identities)}
    clients = {
        n: FederatedClient(
            contributor=contributor(plan, rows, client=n),
            run_id=RUN_ID,
            identity=identity,
            roster=roster,
            coordinator=COORDINATOR_KEY.public,
            entropy=counted_entropy(f"keys-{n}"),
        )
        for n, identity in enumerate(identities)
    }
    return clients, roster


def test_the_step_is_divided_by_a_public_number_and_not_by_the_batch(tmp_path):
    """Equal gradients: a mean over the batch would step by exactly the clip norm every time."""
    plan = plan_of("privacy.mode=none", "privacy.noise_multiplier=null", "secure_agg.enabled=false")
    clients, roster = clients_of(plan, [[5.0, 0.0, 0.0]] * PAIRS)
    saved = []
    training = fake_training(
        plan,
        roster,
        fake_ledger(plan, tmp_path / "ledger.jsonl"),
        run_id=RUN_ID,
        save=saved.append,
    )
    start = Checkpoint(0, ServerState.start(WEIGHTS), (), plan.plan_hash, "d", 0.0)
    drive(training.script(start), LoopbackCarrier({n: c.handle for n, c in clients.items()}))
    places = np.array([0.0, *(checkpoint.state.weights[0] for checkpoint in saved)])
    expected_pairs = 0.5 * CLIENTS * PAIRS
    batches = -np.diff(places) * expected_pairs / CLIP
    assert batches == pytest.approx(np.rint(batches), abs=1e-3), "a whole number of clipped pairs"
    assert len(set(np.rint(batches))) > 1, "the batch varies, the divisor does not"
    assert abs(batches.mean() - expected_pairs) < 6 * np.sqrt(0.25 * CLIENTS * PAIRS / 6)


def invited(plan, number, **changes):
    start = fake_start(plan, range(CLIENTS), WEIGHTS, number, run_id=RUN_ID, **changes)
    return invitation(start, number, RUN_ID)


def test_a_client_answers_each_round_once_and_only_its_own_plan():
    plan = plan_of("privacy.mode=local", "secure_agg.enabled=false")
    clients, _ = clients_of(plan, [[0.1, 0.0, 0.0]] * PAIRS)
    client = clients[0]
    assert client.handle(invited(plan, 2))
    moved = (WEIGHTS + 1).astype("<f4").tobytes()
    for number, changes, reason in (
        (2, {}, "each round once"),
        (2, {"weights": moved}, "each round once"),
        (1, {}, "each round once"),
        (7, {}, "no round 7"),
        (0, {}, "no round 0"),
        (3, {"weights": moved}, "not the one that all clients were told of"),
        (3, {"plan_hash": bytes(32)}, "another plan"),
        (3, {"cohort": (0, 1)}, "not one that the plan"),
        (3, {"cohort": (1, 2, 3, 4)}, "not one that the plan"),
    ):
        with pytest.raises(ClientRefused, match=reason):
            client.handle(invited(plan, number, **changes))
    assert client.handle(invited(plan, 3)), "a refusal is not an answer"


def test_distributed_mode_without_secure_aggregation_is_refused():
    with pytest.raises(ConfigError, match=r"needs secure_agg\.enabled=true"):
        parse_config(CONFIG, ["secure_agg.enabled=false"])


def test_metrics_do_not_move_with_private_pairs(tmp_path):
    """Other tastes, the same held-out pairs: every figure of a round's row stays bit for bit."""
    runs = [
        assemble(
            tiny_config(
                tmp_path / f"{share}", f"data.heterogeneity={share}", "model.warmup_steps=0"
            )
        )
        for share in (0.0, 0.5)
    ]
    first, second = runs
    assert any(a.pairs != b.pairs for a, b in zip(first.shards, second.shards, strict=True))
    assert first.held_out.pairs == second.held_out.pairs
    generator = np.random.default_rng(1)
    weights = first.adapter.read() + generator.normal(0, 0.02, first.adapter.dimension)
    measured = [dict(run.measure(weights.astype(np.float32))) for run in runs]
    assert measured[0] == measured[1]
    assert measured[0]["clip_fraction"] is not None
