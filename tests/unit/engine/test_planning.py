import math
import warnings

import pytest

from accounting import Adversary, Mode, calibrate_noise_multiplier
from privfed_dpo.config import parse_config
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.engine.public_facts import PublicFacts
from privfed_dpo.errors import InputNotice, PlanRefused
from tests.support.fake_federation import fake_plan

BASE = """
data: {clients: 20}
privacy:
  noise_multiplier: 1.0
  delta: 1.0e-5
  sample_rate: 0.05
  max_grad_norm: 0.1
  dropout_tolerance: 5
  colluders: 2
federation: {rounds: 200}
"""
SMALL_DELTA = "privacy.delta=1e-12"


def facts(clients=20, pairs=100, dimension=1000):
    return PublicFacts(
        client_names=tuple(f"c{i:03}" for i in range(clients)),
        client_pairs=(pairs,) * clients,
        dimension=dimension,
        model_fingerprint="f",
        model_bytes=4,
    )


def plan_of(*overrides, **changes):
    """The base plan with overrides; `changes` are the public facts the data turned out to have."""
    found = facts(**changes)
    clients = f"data.clients={len(found.client_names)}"
    return make_plan(parse_config(BASE, [clients, *overrides]), found)


def test_the_published_example_is_reproduced():
    """n=20, D=5, K=2, z=1, q=.05, T=200: 4.7659 with colluders, 4.1436 without."""
    plan = plan_of()
    assert plan.epsilons[Adversary.COALITION].pld == pytest.approx(4.7659, rel=1e-3)
    assert plan.epsilons[Adversary.SERVER].pld == pytest.approx(4.1436, rel=1e-3)
    assert plan.epsilons[Adversary.OUTSIDE] == plan.epsilons[Adversary.SERVER]
    assert plan.epsilons[Adversary.NO_SECAGG].pld > 50
    assert plan.threshold == 15


def test_every_part_is_made_from_the_same_numbers():
    plan = plan_of()
    clipper, noise, grid = plan.clipper(), plan.share_noise(), plan.grid()
    assert plan.sampler().sample_rate == plan.schedule.sample_rate == 0.05
    assert plan.noise.sensitivity_steps == clipper.sensitivity_steps
    assert grid.steps_per_unit == clipper.sensitivity_steps / 0.1
    # 13 honest shares of the guaranteed sum carry z * sensitivity, and the smoothing beside it.
    honest = 13 * noise.stddev_steps**2
    assert math.sqrt(honest - 9) / clipper.sensitivity_steps == pytest.approx(1.0, rel=1e-12)
    params = plan.protocol_params(b"r" * 16, {n: bytes([n]) * 32 for n in range(20)})
    assert (params.threshold, params.colluders) == (15, 2)
    assert params.modulus_bits == grid.bits
    assert params.vector_length == 1000


def test_calibration_meets_the_target_and_not_much_more():
    plan = plan_of("privacy.noise_multiplier=null", "privacy.target_epsilon=3")
    spent = plan.epsilons[Adversary.COALITION].pld
    assert 2.99 < spent <= 3
    wasteful = calibrate_noise_multiplier(
        lambda z: plan_of(f"privacy.noise_multiplier={z}").schedule.view(Adversary.COALITION),
        plan.budget,
    )
    assert plan.noise.noise_multiplier == pytest.approx(wasteful.noise_multiplier, rel=2e-3)


def test_cohorts_cap_participation_and_save_budget():
    everyone = plan_of(clients=80)
    part = plan_of("federation.cohort=20", clients=80)
    assert (everyone.participations, part.participations) == (200, 50)
    assert part.epsilons[Adversary.COALITION].pld < everyone.epsilons[Adversary.COALITION].pld


def test_local_mode_books_every_local_step_against_everybody():
    plan = plan_of("privacy.mode=local", "federation.local_steps=2", "federation.rounds=100")
    assert plan.mode is Mode.LOCAL
    assert len(set(plan.epsilons.values())) == 1
    # q=.05, z=1, 200 steps: the same as 200 rounds of one step; privacy.md gives 4.7659.
    assert plan.epsilons[Adversary.SERVER].pld == pytest.approx(4.7659, rel=1e-3)
    assert plan.ring.carries_updates
    assert plan.vector_length == 1001


def test_no_privacy_has_no_noise_and_no_bound():
    plan = plan_of("privacy.mode=none")
    assert plan.share_noise() is None
    assert plan.epsilons[Adversary.OUTSIDE].pld == math.inf
    assert plan.sums_gradients
    free = plan_of("privacy.mode=none", "privacy.max_grad_norm=null")
    assert free.clipper() is None
    assert not free.sums_gradients


@pytest.mark.parametrize(
    ("change", "effect"),
    [
        ("privacy.noise_multiplier=1.1", {}),
        ("privacy.sample_rate=0.06", {}),
        ("dpo.beta=0.2", {}),
        ("run.seed=1", {}),
        ("federation.rounds=199", {}),
        ("run.seed=0", {"pairs": 101}),
        ("run.seed=0", {"dimension": 1001}),
    ],
)
def test_the_hash_covers_every_number(change, effect):
    assert plan_of(change, **effect).plan_hash != plan_of().plan_hash


def test_the_hash_does_not_depend_on_how_the_run_is_shown():
    assert plan_of("evaluation.every=7", "run.dir=x").plan_hash == plan_of().plan_hash


@pytest.mark.parametrize(
    ("overrides", "changes", "message"),
    [
        (["data.clients=20"], {"clients": 12}, "both be signed"),
        (["privacy.dropout_tolerance=0", "privacy.colluders=0"], {"clients": 2}, "hides nobody"),
        (["secure_agg.modulus_bits=32", SMALL_DELTA], {"pairs": 2**30}, "does not fit"),
        (["privacy.mode=local", "secure_agg.modulus_bits=32"], {}, "64 bits"),
        (["secure_agg.modulus_bits=32", "privacy.noise_multiplier=0.3", SMALL_DELTA],
         {"pairs": 2**22}, "finer grid"),
        ([], {"clients": 16_385}, "more than the protocol's 16384"),
        (["evaluation.audit_lanes=1000"], {"dimension": 2**31 - 1000}, "words of a message"),
        (["privacy.delta=0.001"], {"clients": 20, "pairs": 50}, "not below 1 / 1000"),
        (["privacy.target_epsilon=0.5", "privacy.noise_multiplier=0.5"], {}, "a first round costs"),
    ],
)  # fmt: skip
def test_plans_that_cannot_keep_their_promise_are_refused(overrides, changes, message):
    with pytest.raises(PlanRefused, match=message) as refusal:
        plan_of(*overrides, **changes)
    assert refusal.value.advice


def test_only_a_cohort_beyond_the_protocol_is_refused_and_not_a_large_population():
    found = plan_of("federation.cohort=100", SMALL_DELTA, clients=16_385)
    assert found.cohort == 100


def test_a_delta_just_below_one_over_the_records_goes():
    assert plan_of("privacy.delta=0.00099", pairs=50).delta == 0.00099


def test_a_budget_that_ends_the_run_early_is_said_so_beforehand():
    """All 200 rounds cost 4.766, a first one far less than 2."""
    with pytest.warns(
        InputNotice, match=r"would cost epsilon 4\.77.*budget of 2 ends the run early"
    ):
        plan = plan_of("privacy.target_epsilon=2")
    assert plan.budget.epsilon == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan_of("privacy.target_epsilon=5")


@pytest.mark.parametrize(
    ("overrides", "advice"),
    [
        (["secure_agg.modulus_bits=32", "privacy.noise_multiplier=1e-6"], "raise privacy.noise_"),
        (["privacy.noise_multiplier=1e9"], "privacy.noise_multiplier"),
    ],
)
def test_a_number_that_nobody_has_typed_is_traced_to_keys(overrides, advice):
    with pytest.raises(PlanRefused) as refusal:
        plan_of(*overrides)
    assert advice in refusal.value.advice


def test_where_a_secure_sum_lacks_clients_the_way_out_works():
    with pytest.raises(PlanRefused, match="no more than 1 that hold enough pairs") as refusal:
        plan_of("privacy.dropout_tolerance=0", "privacy.colluders=0", clients=1)
    assert "privacy.mode=local with secure_agg.enabled=false" in refusal.value.advice
    way_out = ("privacy.mode=local", "secure_agg.enabled=false")
    plan_of("privacy.dropout_tolerance=0", "privacy.colluders=0", *way_out, clients=1)


def test_a_large_cohort_gets_a_sparse_graph_and_noise_for_its_weaker_threshold():
    plan = plan_of(
        "data.clients=400", "privacy.dropout_tolerance=80", "privacy.colluders=8", clients=400
    )
    assert plan.neighbours < 150
    assert plan.threshold <= 320
    assert plan.noise.dropout_tolerance == 400 - plan.threshold
    params = plan.protocol_params(b"r" * 16, {n: n.to_bytes(32, "big") for n in range(400)})
    assert params.degree == plan.neighbours
    assert params.threshold == plan.threshold


def test_a_small_cohort_keeps_the_complete_graph():
    plan = plan_of()
    assert plan.neighbours == 19
    assert plan.protocol_params(b"r" * 16, {n: bytes([n]) * 32 for n in range(20)}).degree is None


def test_skellam_takes_a_finer_ring_where_its_shares_would_be_too_narrow():
    """13 honest shares of 2^11 steps: 568 grid steps each, and Skellam needs 724."""
    many = {"pairs": 40_000}
    coarse = plan_of("privacy.accounting=rdp", SMALL_DELTA, **many)
    assert (coarse.ring.bits, coarse.ring.clipper_steps) == (32, 2**11)
    skellam = ("privacy.noise=skellam", "privacy.accounting=rdp", SMALL_DELTA)
    fine = plan_of(*skellam, **many)
    assert (fine.ring.bits, fine.ring.clipper_steps) == (64, 2**30)
    assert fine.noise.share_stddev_steps > 724
    with pytest.raises(PlanRefused, match="at least 724 grid steps"):
        plan_of(*skellam, "secure_agg.modulus_bits=32", **many)


def test_noise_is_calibrated_to_what_certifies():
    targets = ("privacy.noise_multiplier=null", "privacy.target_epsilon=5")
    reduced = plan_of(*targets)
    by_rdp = plan_of(*targets, "privacy.accounting=rdp")
    skellam = plan_of(*targets, "privacy.accounting=rdp", "privacy.noise=skellam")
    for plan in (reduced, by_rdp, skellam):
        assert 4.97 < plan.epsilons[Adversary.COALITION].certified <= 5
    assert reduced.noise.noise_multiplier < 0.95 * by_rdp.noise.noise_multiplier
    assert skellam.noise.noise_multiplier == pytest.approx(by_rdp.noise.noise_multiplier, rel=2e-3)
    assert by_rdp.epsilons[Adversary.COALITION].pld < 4.7
    assert skellam.epsilons[Adversary.COALITION].pld == math.inf
    assert skellam.describe()["epsilon"]["coalition"]["pld"] is None


def test_noise_beyond_what_the_sampler_draws_gets_a_coarser_grid_or_is_refused():
    """Such plans used to book a round before the sampler refused them."""
    plan = fake_plan("privacy.noise_multiplier=20000", "secure_agg.modulus_bits=64", clients=6)
    assert 2.0**36 < plan.noise.share_stddev_steps <= 2.0**39
    assert plan.share_noise().stddev_steps == plan.noise.share_stddev_steps
    with pytest.raises(PlanRefused, match="at most 2\\^40 grid steps"):
        fake_plan(
            "privacy.mode=local",
            "privacy.noise_multiplier=2000000",
            "privacy.colluders=0",
            clients=6,
        )


def test_a_clip_bound_too_small_for_its_grid_is_refused():
    with pytest.raises(PlanRefused, match="too small for a grid"):
        fake_plan("privacy.max_grad_norm=1e-305", "secure_agg.modulus_bits=64", clients=6)
