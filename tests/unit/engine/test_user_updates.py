"""User mode: one clipped update per client and round, noise for it, a public divisor."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from accounting import Adversary, Mode, default_delta
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.contribution import Contributor, PrivateShard
from privfed_dpo.engine.drift_state import Departure
from privfed_dpo.errors import ConfigError, ModelError
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.server_update import ServerState
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import LoopbackCarrier
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import (
    DIMENSION,
    NullGradients,
    fake_clients,
    fake_coordinator,
    fake_ledger,
    fake_plan,
    fake_start,
    fake_training,
    invitation,
)

WEIGHTS = np.zeros(3, dtype=np.float32)


def user_plan(*overrides, **changes):
    fixed = (
        "privacy.mode=user",
        "privacy.max_update_norm=0.25",
        "privacy.max_grad_norm=null",
        "privacy.sample_rate=1",
        "federation.rounds=4",
        "federation.local_learning_rate=0.1",
    )
    return fake_plan(*fixed, *overrides, **changes)


class GivenGradients:
    """A model whose pairs are their own gradients, wherever it stands."""

    def load(self, weights):
        if not np.isfinite(weights).all():
            raise ModelError("as a real adapter does")
        self.weights = weights

    def pair_gradients(self, pairs, reference):
        yield torch.tensor(np.array(pairs), dtype=torch.float64)

    def clipped_sum(self, pairs, reference, clipper):
        return clipper.clip_all(self.pair_gradients(pairs, reference), len(pairs[0]))


def update_of(plan, rows):
    """What client 0 sends, without its noise."""

    def issuer():
        return StreamIssuer(counted_entropy("client-0"))

    shard = PrivateShard(pairs=tuple(rows), reference=np.zeros((len(rows), 2), np.float32))
    source = GivenGradients()
    sent = Contributor(plan, 0, shard, source, issuer()).contribute(1, WEIGHTS)
    noise = plan.share_noise().draw(sent.size, issuer().issue("round-1/noise"))
    return sent - noise


def test_the_update_is_clipped_once_as_a_whole():
    """Ten pairs of gradient (3, 4, 0) have that mean. Two steps of 0.1 go to -(0.6, 0.8, 0).

    That is 1 long and the bound is 0.25, so a quarter is left: (0.15, 0.2, 0) / 0.25 of all steps.
    """
    plan = user_plan("federation.local_steps=2", dimension=3)
    steps = plan.ring.clipper_steps
    assert plan.grid().steps_per_unit == 4 * steps
    sent = update_of(plan, [[3.0, 4.0, 0.0]] * 10)
    assert np.abs(sent - [-0.6 * steps, -0.8 * steps, 0]).max() <= 1
    assert sum(int(v) ** 2 for v in sent) <= steps**2


def test_a_short_update_is_cut_off_toward_zero_and_not_stretched():
    """One step of 0.1 along -(0.3, -0.7, 0) in units of 2^-20 of the bound: 0.76 steps at most."""
    plan = user_plan(dimension=3)
    unit = 10 * 0.25 / plan.ring.clipper_steps
    assert update_of(plan, [[2.9 * unit, -1.7 * unit, 0.2 * unit]] * 10).tolist() == [-2, 1, 0]


def test_pairs_may_be_clipped_inside_and_nothing_is_added_there():
    """Pairs clipped to 0.5 in direction (0.6, 0.8): one step of 0.1 goes 0.05, under the bound."""
    plan = user_plan("privacy.max_grad_norm=0.5", dimension=3)
    sent = update_of(plan, [[3.0, 4.0, 0.0]] * 10) / plan.grid().steps_per_unit
    assert sent == pytest.approx([-0.03, -0.04, 0.0], abs=1e-6)


numbers = st.floats(width=64, allow_nan=True, allow_infinity=True)


@settings(deadline=None, max_examples=120)
@given(
    rows=st.lists(st.tuples(numbers, numbers, numbers), min_size=10, max_size=10),
    local_steps=st.integers(1, 3),
    bound=st.sampled_from(["null", "0.5"]),
)
def test_whatever_all_pairs_of_a_client_are_the_sum_moves_by_at_most_the_sensitivity(
    rows, local_steps, bound
):
    """Against the null client, which sends zero; checked in integers of any size."""
    overrides = (f"federation.local_steps={local_steps}", f"privacy.max_grad_norm={bound}")
    plan = user_plan(*overrides, dimension=3)
    moved = update_of(plan, rows)
    assert sum(int(v) ** 2 for v in moved) <= plan.ring.clipper_steps**2
    assert plan.noise.sensitivity_steps == plan.ring.clipper_steps


@pytest.mark.parametrize(
    ("bad", "local_steps"), [(math.nan, 1), (math.inf, 1), (1e308, 1), (math.nan, 3), (1e200, 3)]
)
def test_an_update_that_is_not_finite_is_the_null_client_s(bad, local_steps):
    """On the way there too: that a client does not answer would be seen by everybody."""
    steps = f"federation.local_steps={local_steps}"
    plan = user_plan("federation.local_learning_rate=10", steps, dimension=3)
    assert update_of(plan, [[bad, bad, 1.0]] * 10).tolist() == [0, 0, 0]


def test_masked_equals_plain_bit_for_bit():
    plan = user_plan("federation.local_steps=3", "federation.cohort=6")
    clients, roster = fake_clients(plan)
    script = fake_coordinator(plan, roster).script(Departure(np.zeros(DIMENSION, np.float32)))
    result = drive(script, LoopbackCarrier({n: c.handle for n, c in clients.items()}))
    again, _ = fake_clients(plan)
    plain = sum(
        again[n]._contributor.contribute(1, np.zeros(DIMENSION, np.float32)) for n in range(6)
    )
    assert result.survivors == (0, 1, 2, 3, 4, 5)
    assert np.array_equal(result.total, plan.grid().to_ring(plain))


def test_the_noise_of_an_opened_sum_is_what_was_booked_and_nothing_else():
    """Null clients: 8 shares, of which the plan sells 5 (two lost, one colluding)."""
    plan = user_plan(dimension=20_000)
    clients, roster = fake_clients(plan, source=NullGradients)
    script = fake_coordinator(plan, roster).script(Departure(np.zeros(20_000, np.float32)))
    result = drive(script, LoopbackCarrier({n: c.handle for n, c in clients.items()}))
    noise = plan.grid().to_units(plan.grid().from_ring(result.total))

    def p_value(stddev):
        below = stats.chi2.cdf(float((noise**2).sum()) / stddev**2, noise.size)
        return 2 * min(below, 1 - below)

    booked = 1.0 * 0.25 * math.sqrt(8 / 5)
    assert p_value(booked) > 1e-9
    for wrong in (booked * 1.05, booked / 1.05, 0.25, 0.25 * math.sqrt(8)):
        assert p_value(wrong) < 1e-9


def test_the_server_divides_by_the_cohort_and_not_by_the_survivors(tmp_path):
    """Hardly any noise; all updates are clipped to 0.25 in one direction, and one client is lost.

    7 of 8 clients move the model by 7/8 of 0.25. A mean over the survivors would give 0.25.
    """
    plan = user_plan(
        "privacy.noise_multiplier=1e-4",
        "privacy.delta=1e-5",
        "federation.local_learning_rate=100",
    )
    clients, roster = fake_clients(plan, source=_Uphill)
    saved = []
    training = fake_training(
        plan, roster, fake_ledger(plan, tmp_path / "ledger.jsonl"), save=saved.append
    )
    zero = np.zeros(DIMENSION, np.float32)
    start = Checkpoint(0, ServerState.start(zero), (), plan.plan_hash, "d", 0.0)
    handlers = {n: c.handle for n, c in clients.items() if n}
    drive(training.script(start), _Without(0, LoopbackCarrier(handlers)))
    places = np.array([0.0, *(checkpoint.state.weights[0] for checkpoint in saved)])
    assert -np.diff(places) == pytest.approx([7 / 8 * 0.25] * 4, rel=1e-2)


class _Uphill(NullGradients):
    """Every gradient is (1, 0, ...)."""

    def pair_gradients(self, pairs, reference):
        rows = torch.zeros(len(pairs), DIMENSION)
        rows[:, 0] = 1.0
        yield rows


class _Without:
    """A carrier that never reaches one client."""

    def __init__(self, lost, carrier):
        self.lost, self.carrier = lost, carrier

    def exchange(self, exchange):
        there = {n: m for n, m in exchange.messages.items() if n != self.lost}
        return self.carrier.exchange(type(exchange)(exchange.round, exchange.step, there))


def test_a_client_refuses_to_take_part_more_often_than_the_plan_allows():
    plan = user_plan("federation.cohort=6", "federation.rounds=4")
    assert plan.participations == 3
    clients, _ = fake_clients(plan)
    for number in range(1, 5):
        start = fake_start(plan, range(6), np.zeros(DIMENSION), number)
        message = invitation(start, number)
        if number <= 3:
            assert clients[0].handle(message)
        else:
            with pytest.raises(ClientRefused, match="took part in 3 rounds"):
                clients[0].handle(message)


def test_the_plan_speaks_of_users():
    plan = user_plan("privacy.sample_rate=0.3", "federation.local_steps=4")
    facts = plan.describe()
    assert (facts["mode"], facts["unit"], facts["max_update_norm"]) == ("user", "user", 0.25)
    assert plan.schedule.mode is Mode.USER
    assert plan.schedule.sample_rate == 1.0, "sampling inside a client amplifies nothing"
    assert plan.sampler().sample_rate == 0.3
    assert plan.delta == default_delta(8), "8 users, not 80 pairs"
    many = user_plan("federation.cohort=1000", clients=50_000, pairs=20, dimension=3)
    assert many.delta == default_delta(50_000) < 1e-5
    assert plan.epsilons[Adversary.OUTSIDE] == plan.epsilons[Adversary.SERVER]
    assert plan.vector_length == DIMENSION


def test_sampling_and_local_steps_change_no_price():
    one, other = user_plan(), user_plan("privacy.sample_rate=0.1", "federation.local_steps=5")
    assert one.epsilons == other.epsilons


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("privacy.max_update_norm=null", r"needs privacy\.max_update_norm"),
        ("secure_agg.enabled=false", r"needs secure_agg\.enabled=true"),
        ("evaluation.audit_lanes=8", "audits the summed noise"),
        ("evaluation.audit_pairs=8", "tests what is promised to one pair"),
        ("privacy.mode=distributed", "bounds the updates of privacy.mode=user"),
        ("privacy.noise_multiplier=null", r"needs privacy\.target_epsilon"),
    ],
)
def test_what_user_mode_cannot_do_is_refused_by_a_sentence(override, reason):
    with pytest.raises(ConfigError, match=reason):
        user_plan(override)


def test_the_target_is_met_with_users_counted():
    plan = user_plan("privacy.noise_multiplier=null", "privacy.target_epsilon=4")
    assert 3.99 < plan.epsilons[Adversary.COALITION].pld <= 4
