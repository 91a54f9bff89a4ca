from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from accounting import (
    Adjacency,
    Adversary,
    GridNoise,
    Mode,
    PoissonGaussianRelease,
    ReleaseSchedule,
    Repeated,
    gaussian_epsilon,
    pld_epsilon,
)
from privfed_dpo.audit.findings import Verdict
from privfed_dpo.audit.pair_audit import Claim, audit_pairs, membership
from privfed_dpo.audit.pair_canaries import PairCoins

DELTA = 1e-5
NOISE = GridNoise(1.5, 1 << 20, 4, 1, 0, dimension=10, releases=30)
SCHEDULE = ReleaseSchedule(Mode.DISTRIBUTED, 0.2, NOISE, participations=30)


def gaussian_claim(separation):
    """What a Gaussian mechanism with this separation promises, under either adjacency."""
    epsilon = gaussian_epsilon(separation, DELTA)
    return SimpleNamespace(epsilon=lambda *_: epsilon, delta=DELTA)


def released(rng, form, separation, canaries=300):
    """Coins, and one score per coin from an exactly Gaussian mechanism."""
    heads = rng.random(canaries) < 0.5
    centre = np.where(heads, separation, 0.0) - (separation / 2 if form == "swap" else 0.0)
    return PairCoins(form, heads), centre + rng.normal(0, 1, canaries)


@pytest.mark.parametrize("form", ["in_out", "swap"])
def test_a_mechanism_as_claimed_is_accused_no_more_often_than_stated(form):
    rng = np.random.default_rng(4)
    bounds = [
        judged
        for _ in range(30)
        for judged in audit_pairs(*released(rng, form, 0.6), gaussian_claim(0.6), confidence=0.95)
    ]
    for method in ("one_run", "one_run_gaussian"):
        above = sum(j.verdict is Verdict.FAIL for j in bounds if j.bound.method == method)
        assert stats.binomtest(above, 30, 0.05, alternative="greater").pvalue > 1e-3
    assert np.mean([judged.bound.epsilon for judged in bounds]) > 0.1, "it sees something"


@pytest.mark.parametrize("form", ["in_out", "swap"])
def test_a_mechanism_that_gives_away_more_is_refuted(form):
    rng = np.random.default_rng(5)
    bounds = audit_pairs(*released(rng, form, 4.0), gaussian_claim(0.6), confidence=0.95)
    assert {judged.verdict for judged in bounds} == {Verdict.FAIL}


def test_each_form_is_held_against_its_own_adjacency():
    claim = Claim(SCHEDULE, 30, 30, DELTA)
    rng = np.random.default_rng(6)
    for form, adjacency in (
        ("in_out", Adjacency.ZERO_OUT),
        ("swap", Adjacency.REPLACE_ONE),
    ):
        for judged in audit_pairs(*released(rng, form, 0.5), claim, confidence=0.95):
            assert judged.adjacency is adjacency
            assert judged.adversary is Adversary.OUTSIDE
            assert judged.certified == claim.epsilon(Adversary.OUTSIDE, adjacency)


def test_the_claim_is_that_of_the_booked_rounds():
    whole, half = (Claim(SCHEDULE, count, count, DELTA) for count in (30, 15))
    assert whole.epsilon(Adversary.OUTSIDE) == pytest.approx(
        SCHEDULE.epsilon(Adversary.OUTSIDE, DELTA).pld, rel=1e-9
    )
    model = pld_epsilon([Repeated(PoissonGaussianRelease(0.2, 1.5), 15)], DELTA)
    assert half.epsilon(Adversary.OUTSIDE) == pytest.approx(model, rel=1e-6)


def test_replacing_a_pair_costs_between_once_and_twice_what_removing_it_does():
    claim = Claim(SCHEDULE, 30, 30, DELTA)
    removed = claim.epsilon(Adversary.OUTSIDE)
    replaced = claim.epsilon(Adversary.OUTSIDE, Adjacency.REPLACE_ONE)
    assert 1.2 * removed < replaced < 2.5 * removed


def test_without_noise_nothing_is_promised():
    claim = Claim(ReleaseSchedule(Mode.NONE, 0.2, None, participations=5), 5, 5, DELTA)
    for adjacency in Adjacency:
        assert claim.epsilon(Adversary.OUTSIDE, adjacency) == float("inf")
    rng = np.random.default_rng(7)
    bounds = audit_pairs(*released(rng, "in_out", 4.0), claim, confidence=0.95)
    assert {judged.verdict for judged in bounds} == {Verdict.PASS}
    assert bounds[0].as_dict()["epsilon_certified"] is None


def test_membership_by_hand():
    """Two of three members beat both others, the third beats one: AUC 5/6."""
    report = membership("x", np.array([3.0, 2.0, 0.5]), np.array([1.0, 0.0]))
    assert report.auc == pytest.approx(5 / 6)
    assert report.tpr_at_fpr == pytest.approx(2 / 3)
    assert (report.members, report.others, report.fpr) == (3, 2, 0.01)
