"""Audit bounds: recorded values, hand counts, coverage on correct mechanisms, planted bugs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from accounting import InvalidPrivacyParameter, PoissonGaussianRelease, Repeated, pld_epsilon
from accounting.audit import (
    gaussian_fit_bound,
    one_run_bound,
    one_run_gaussian_bound,
    one_run_p_value,
    rates_bound,
)
from accounting.membership import lane_scores, membership_report

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "accounting.json").read_text())
RATE, NOISE, ROUNDS, DELTA = 0.1, 2.0, 100, 1e-5
CERTIFIED = pld_epsilon([Repeated(PoissonGaussianRelease(RATE, NOISE), ROUNDS)], DELTA)


@pytest.mark.parametrize(("m", "r", "v", "delta", "epsilon"), VECTORS["steinke"])
def test_one_run_reproduces_the_recorded_values(m, r, v, delta, epsilon):
    assert one_run_bound(m, r, v, delta).epsilon == pytest.approx(epsilon, abs=1e-5)


@pytest.mark.parametrize(("m", "r", "v", "delta", "epsilon"), VECTORS["fdp_gaussian"])
def test_one_run_gaussian_reproduces_the_recorded_values(m, r, v, delta, epsilon):
    assert one_run_gaussian_bound(m, r, v, delta).epsilon == pytest.approx(epsilon, abs=1e-5)


@pytest.mark.parametrize("guesses", [10, 50, 100])
def test_perfect_guesses_cap_the_bound_at_a_known_ceiling(guesses):
    """Pure DP, all r right: q^r = 0.05, so epsilon = logit(0.05^(1/r)); r = 100 gives 3.49."""
    rate = 0.05 ** (1 / guesses)
    by_hand = math.log(rate / (1 - rate))
    assert one_run_bound(guesses, guesses, guesses, 0.0).epsilon == pytest.approx(by_hand, abs=1e-9)


def test_p_value_by_hand():
    """r = 3, v = 3, epsilon = ln 3: q = 3/4, P[B >= 3] = 27/64; delta adds 2 m delta max_i(..)/i.

    P[B = 2] = 27/64, P[B >= 1] - P[B = 3] = 36/64, 1 - P[B = 3] = 37/64: the maximum is at i = 1.
    """
    assert one_run_p_value(3, 3, 3, math.log(3), 0.0) == pytest.approx(27 / 64)
    with_delta = one_run_p_value(3, 3, 3, math.log(3), 0.01)
    assert with_delta == pytest.approx(27 / 64 + 2 * 3 * 0.01 * 27 / 64)


def test_guessing_at_random_shows_nothing():
    assert one_run_bound(1000, 100, 50, 1e-5).epsilon == 0.0
    assert one_run_bound(1000, 100, 0, 1e-5).epsilon == 0.0
    assert one_run_gaussian_bound(1000, 100, 50, 1e-5).epsilon < 0.3


def test_bounds_fall_with_confidence_and_rise_with_correct_guesses():
    strict = one_run_bound(1000, 100, 95, 1e-5, confidence=0.999)
    assert strict.epsilon < one_run_bound(1000, 100, 95, 1e-5).epsilon
    values = [one_run_gaussian_bound(1000, 100, v, 1e-5).epsilon for v in (60, 80, 90, 95, 100)]
    assert values == sorted(values)
    assert (strict.canaries, strict.guesses, strict.correct) == (1000, 100, 95)


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "confidence"),
    [
        (0, 0, 0, 0.0, 0.95),
        (10, 11, 5, 0.0, 0.95),
        (10, 5, 6, 0.0, 0.95),
        (10, 5, -1, 0.0, 0.95),
        (10, 5, 5, 1.0, 0.95),
        (10, 5, 5, 0.0, 1.0),
    ],
)
def test_impossible_counts_are_refused(m, r, v, delta, confidence):
    with pytest.raises(InvalidPrivacyParameter):
        one_run_bound(m, r, v, delta, confidence=confidence)


def test_a_gaussian_curve_needs_a_delta():
    with pytest.raises(InvalidPrivacyParameter):
        one_run_gaussian_bound(10, 5, 5, 0.0)


def test_rates_by_hand():
    """All 50 in above, all 50 out below the one threshold: TPR >= 0.025^(1/50) = .9289.

    FPR <= .0711, so epsilon >= ln(.9289 / .0711) = 2.570.
    """
    bound = rates_bound([1.0] * 50, [-1.0] * 50, [0.0], 0.0)
    limit = 0.025 ** (1 / 50)
    assert bound.epsilon == pytest.approx(math.log(limit / (1 - limit)), abs=1e-9)
    more = rates_bound([1.0] * 50, [-1.0] * 50, [-0.5, 0.0, 0.5], 0.0)
    assert more.epsilon < bound.epsilon, "every further threshold has its price"


def lanes(rng, *, canaries=1000, norm=1.0, noise=NOISE, rate=RATE):
    """Released lanes of a run, and which canaries were in; noise in clip norms."""
    included = rng.random(canaries) < 0.5
    drawn = (rng.random((ROUNDS, canaries)) < rate) & included
    return drawn * norm + rng.normal(0, noise, (ROUNDS, canaries)), included


THRESHOLDS = np.linspace(-1.0, 4.0, 11)


def bounds_of(released, included, confidence=0.95):
    scores = lane_scores(released, 1.0, RATE, NOISE)
    inside, outside = scores[included], scores[~included]
    order = np.argsort(-np.abs(scores - np.median(scores)))[:100]
    correct = int(((scores > np.median(scores)) == included)[order].sum())
    options = {"confidence": confidence}
    return {
        "one_run": one_run_bound(scores.size, 100, correct, DELTA, **options).epsilon,
        "one_run_gaussian": one_run_gaussian_bound(
            scores.size, 100, correct, DELTA, **options
        ).epsilon,
        "rates": rates_bound(inside, outside, THRESHOLDS, DELTA, **options).epsilon,
        "rates_gaussian": rates_bound(
            inside, outside, THRESHOLDS, DELTA, gaussian=True, **options
        ).epsilon,
        "gaussian_fit": gaussian_fit_bound(inside, outside, DELTA, **options).epsilon,
    }


def test_a_correct_mechanism_is_not_accused():
    """20 runs at 99.9 %: no bound above the certified epsilon, and the tight ones see something."""
    rng = np.random.default_rng(11)
    seen = [bounds_of(*lanes(rng), confidence=0.999) for _ in range(20)]
    for bounds in seen:
        assert max(bounds.values()) <= CERTIFIED
    assert np.mean([bounds["rates_gaussian"] for bounds in seen]) > 0.3
    assert np.mean([bounds["gaussian_fit"] for bounds in seen]) > 1.0


@pytest.mark.parametrize(
    "bug",
    [{"norm": 4.0}, {"noise": NOISE / math.sqrt(20)}, {"noise": NOISE / 20}, {"rate": 1.0}],
    ids=["clip norm x4", "one client alone adds noise", "share std z/n", "no sampling"],
)
def test_planted_bugs_are_caught(bug):
    rng = np.random.default_rng(12)
    bounds = bounds_of(*lanes(rng, **bug))
    assert max(bounds["rates_gaussian"], bounds["gaussian_fit"]) > CERTIFIED


def test_the_gaussian_fit_covers_the_truth():
    """300 draws at separation 1: the 90 % bound lies above the truth in about 10 %, not more."""
    rng = np.random.default_rng(13)
    truth = float(pld_epsilon([Repeated(PoissonGaussianRelease(1.0, 1.0), 1)], DELTA))
    above = sum(
        gaussian_fit_bound(
            rng.normal(1, 1, 100), rng.normal(0, 1, 120), DELTA, confidence=0.9
        ).epsilon
        > truth
        for _ in range(300)
    )
    assert stats.binomtest(above, 300, 0.1).pvalue > 1e-3


def test_scores_without_signal_give_nothing():
    assert gaussian_fit_bound([0.0, 1.0], [5.0, 6.0], DELTA).epsilon == 0.0
    assert rates_bound([0.0] * 20, [1.0] * 20, [0.5], DELTA).epsilon == 0.0
    assert rates_bound([0.0] * 20, [1.0] * 20, [0.5], DELTA, gaussian=True).epsilon == 0.0


def test_scores_without_noise_leave_no_privacy():
    assert gaussian_fit_bound([2.0, 2.0, 2.0], [1.0, 1.0], DELTA).epsilon > 100
    assert gaussian_fit_bound([1.0, 1.0], [1.0, 1.0], DELTA).epsilon == 0.0


def test_bad_scores_are_refused():
    for inside, outside in (([], [1.0]), ([math.nan], [1.0])):
        with pytest.raises(InvalidPrivacyParameter):
            rates_bound(inside, outside, [0.0], DELTA)
    with pytest.raises(InvalidPrivacyParameter):
        rates_bound([1.0], [0.0], [], DELTA)
    with pytest.raises(InvalidPrivacyParameter):
        gaussian_fit_bound([1.0], [0.0, 1.0], DELTA)


def test_lane_scores_by_hand():
    """Two rounds, C = 2, q = 1/2, z = 1: log(1/2 + 1/2 e^{(2y - 1)/2}) with y = 1, then y = 0."""
    scores = lane_scores([[2.0], [0.0]], 2.0, 0.5, 1.0)
    by_hand = math.log(0.5 + 0.5 * math.exp(0.5)) + math.log(0.5 + 0.5 * math.exp(-0.5))
    assert scores == pytest.approx([by_hand])
    assert lane_scores([[2.0], [0.0]], 2.0, 1.0, 1.0) == pytest.approx([0.0])


def test_the_likelihood_score_beats_the_plain_sum_at_small_noise():
    rng = np.random.default_rng(14)
    included = rng.random(4000) < 0.5
    drawn = (rng.random((100, 4000)) < 0.05) & included
    released = drawn + rng.normal(0, 0.5, (100, 4000))
    best = lane_scores(released, 1.0, 0.05, 0.5)
    plain = released.sum(axis=0)
    aucs = [membership_report(s[included], s[~included]).auc for s in (best, plain)]
    assert aucs[0] > aucs[1] + 0.02


def test_membership_report_by_hand():
    """In 3, 2, 2; out 2, 1, 0, 0: 3 beats 4, each 2 beats 3 and ties once: 4 + 3.5 + 3.5 = 11 / 12."""
    report = membership_report([3.0, 2.0, 2.0], [2.0, 1.0, 0.0, 0.0], fpr=0.25)
    assert report.auc == pytest.approx(11 / 12)
    assert report.tpr_at_fpr == 1.0
    assert membership_report([3.0, 2.0, 2.0], [2.0, 1.0, 0.0, 0.0]).tpr_at_fpr == pytest.approx(
        1 / 3
    )
