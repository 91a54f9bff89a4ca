"""The noise that is left after drop-outs and collusion, on the line and on the grid."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from accounting import (
    GridNoise,
    InvalidPrivacyParameter,
    NoiseShares,
    PoissonGaussianRelease,
    Repeated,
    pld_epsilon,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "accounting.json").read_text())
TABLE = VECTORS["dropout"]
SHARES = NoiseShares(1.0, 20, 5, 2)


def epsilon_at(noise):
    event = PoissonGaussianRelease(TABLE["sample_rate"], noise)
    return pld_epsilon([Repeated(event, TABLE["rounds"])], TABLE["delta"])


def grid(**changes):
    fields = {
        "noise_multiplier": 1.0,
        "sensitivity_steps": 2.0**14,
        "cohort": 20,
        "dropout_tolerance": 5,
        "colluders": 2,
        "dimension": 10**6,
        "releases": 200,
    }
    return GridNoise(**{**fields, **changes})


@pytest.mark.parametrize(("dropped", "colluding", "epsilon"), TABLE["epsilon"])
def test_the_drop_out_table(dropped, colluding, epsilon):
    seen = SHARES.seen_noise_multiplier(dropped, colluding)
    assert epsilon_at(seen) == pytest.approx(epsilon, rel=1e-3)


@pytest.mark.parametrize(("dropped", "epsilon"), TABLE["naive_share_epsilon"])
def test_shares_of_z2_over_n_silently_overspend(dropped, epsilon):
    """What the design avoids: with naive shares, 5 drop-outs turn 4.77 into 6.45."""
    naive = math.sqrt((20 - dropped) / 20)
    assert epsilon_at(naive) == pytest.approx(epsilon, rel=1e-3)


def test_one_share():
    assert SHARES.threshold == 15
    assert SHARES.share_noise_multiplier**2 == pytest.approx(TABLE["share_variance"])
    assert SHARES.seen_noise_multiplier(5, 2) == pytest.approx(1.0)
    assert SHARES.seen_noise_multiplier(0, 0) == pytest.approx(math.sqrt(20 / 13))


@pytest.mark.parametrize(("dropped", "colluding"), [(20, 0), (18, 2), (19, 5), (0, -1)])
def test_without_honest_noise_there_is_no_multiplier(dropped, colluding):
    with pytest.raises(InvalidPrivacyParameter):
        SHARES.seen_noise_multiplier(dropped, colluding)


@pytest.mark.parametrize(
    ("cohort", "dropouts", "colluders"),
    [(0, 0, 0), (20, -1, 0), (20, 5, -1), (20, 10, 0), (20, 9, 2), (3, 1, 1), (2, 1, 0)],
)
def test_two_disjoint_survivor_sets_are_never_planned(cohort, dropouts, colluders):
    with pytest.raises(InvalidPrivacyParameter):
        NoiseShares(1.0, cohort, dropouts, colluders)
    with pytest.raises(InvalidPrivacyParameter):
        grid(cohort=cohort, dropout_tolerance=dropouts, colluders=colluders)


def test_the_advice_names_the_most_drop_outs_that_work():
    with pytest.raises(InvalidPrivacyParameter, match="at most 8 may drop out") as caught:
        NoiseShares(1.0, 20, 9, 2)
    assert caught.value.parameter == "dropout_tolerance"
    NoiseShares(1.0, 20, 8, 2)


@pytest.mark.parametrize("anchor", sorted(VECTORS["discrete_gaussian"]))
def test_the_price_of_the_grid(anchor):
    """Recorded: noise of std s z on the integers, worth sqrt((s z)^2 - 9) / s."""
    setting = VECTORS["anchors"][anchor]
    for bits, epsilon in VECTORS["discrete_gaussian"][anchor].items():
        steps = 2.0 ** int(bits)
        sum_stddev = steps * setting["noise_multiplier"]
        guaranteed = math.sqrt(sum_stddev**2 - 9) / steps
        noise = grid(
            noise_multiplier=guaranteed,
            sensitivity_steps=steps,
            cohort=1,
            dropout_tolerance=0,
            colluders=0,
            dimension=1,
        )
        assert noise.share_stddev_steps == pytest.approx(sum_stddev, rel=1e-12)
        event = PoissonGaussianRelease(
            setting["sample_rate"], noise.effective_noise_multiplier(1, 0)
        )
        found = pld_epsilon([Repeated(event, setting["rounds"])], setting["delta"])
        assert found == pytest.approx(epsilon, rel=2e-6 if anchor != "A4" else 1e-5)


def test_the_guaranteed_sum_on_the_grid_is_worth_exactly_z():
    noise = grid()
    assert noise.effective_noise_multiplier(15, 2) == 1.0
    by_formula = math.sqrt(13 * noise.share_stddev_steps**2 - 9) / 2**14
    assert by_formula == pytest.approx(1.0, rel=1e-12)
    assert noise.sum_stddev_steps(15) == pytest.approx(math.sqrt(15) * noise.share_stddev_steps)


def test_the_grid_never_promises_more_than_the_line_where_it_should_not():
    """More survivors are worth a little less than on the line, a lone share too: b^2 is lost."""
    noise = grid(sensitivity_steps=64.0)
    assert noise.share_noise_multiplier < SHARES.share_noise_multiplier
    ratio = noise.effective_noise_multiplier(20, 0) / SHARES.effective_noise_multiplier(20, 0)
    assert ratio == pytest.approx(1.0, abs=2e-3)
    by_formula = math.sqrt(20 * noise.share_stddev_steps**2 - 9) / 64
    assert noise.effective_noise_multiplier(20, 0) == pytest.approx(by_formula)


def test_tau_and_kappa_by_hand():
    """n = 3 shares of std s: tau = 10 (e^{-pi^2 s^2} + e^{-4 pi^2 s^2 / 3}); kappa = 2 e^{-2 pi^2 b^2}."""
    noise = grid(sensitivity_steps=10.0, cohort=3, dropout_tolerance=0, colluders=0, dimension=1)
    s = noise.share_stddev_steps
    assert s == pytest.approx(math.sqrt((100 + 9) / 3))
    by_hand = 10 * (math.exp(-((math.pi * s) ** 2)) + math.exp(-4 / 3 * (math.pi * s) ** 2))
    assert noise.tau == pytest.approx(by_hand, rel=1e-9)
    assert noise.kappa == pytest.approx(2 * math.exp(-18 * math.pi**2), rel=1e-9)


def test_the_slack_counts_every_coordinate_release_and_share():
    """N = 200 x 1e6 x 20 samples; by hand N h^2 / 2 + h sqrt(2 N ln 1e300), far below N h."""
    h, samples = 2.0**-45, 200 * 10**6 * 20
    slack = grid(sampler_relative_error=h).slack
    by_hand = samples * h * h / 2 + h * math.sqrt(2 * samples * 300 * math.log(10))
    # (4e9 * 3 e^-72)^m <= 1e-300 first at m = 15: 48.79 nats each. Fifteen samples at 12 h each.
    by_hand += 15 * 12 * h
    assert slack.log_ratio == pytest.approx(by_hand, rel=1e-6)
    assert slack.certain_log_ratio == pytest.approx(12 * samples * h, rel=1e-6)
    assert slack.failure == pytest.approx(4e-300)
    noise = grid(sampler_relative_error=h)
    assert noise.slack_epsilon == 2 * slack.log_ratio
    assert math.exp(by_hand) < noise.slack_delta_factor < 1.1e-6 + math.exp(by_hand)
    assert grid().slack.log_ratio < 1e-60
    assert grid().slack.failure == 0


def test_few_samples_are_bounded_by_the_sum_of_their_worst_cases():
    few = grid(dimension=1, releases=1, cohort=1, dropout_tolerance=0, colluders=0)
    exact = type(few)(
        **{name: getattr(few, name) for name in few.__slots__ if name != "sampler_relative_error"},
        sampler_relative_error=1e-6,
    )
    assert exact.slack.log_ratio == pytest.approx(12e-6, rel=1e-3)
    assert exact.slack.failure == 0


@pytest.mark.parametrize("stddev", [4.0, 37.3, 1000.0])
def test_the_mass_beyond_twelve_standard_deviations(stddev):
    far = np.arange(math.floor(12 * stddev) + 1, math.ceil(14 * stddev))
    near = np.arange(1, math.ceil(12 * stddev))
    weights = np.exp(-(far**2) / (2 * stddev**2)).sum() * 2
    total = 1 + 2 * np.exp(-(near**2) / (2 * stddev**2)).sum()
    assert weights / total <= 3 * math.exp(-72)


def test_how_often_the_likely_ratio_is_exceeded():
    """The bound at f = 0.05 instead of 1e-300, on signs of fair coins: the worst case for Azuma.

    A sampler that is right up to e^{+-h} and always errs by h has log ratio h times a sum of signs.
    """
    h, samples, failure = 1e-3, 400, 0.05
    rng = np.random.default_rng(5)
    up = 1 / (1 + math.exp(-h))
    sums = h * (2 * rng.binomial(samples, up, size=20_000) - samples)
    bound = samples * h * h / 2 + h * math.sqrt(2 * samples * math.log(1 / failure))
    assert (sums > bound).mean() <= failure
    assert (sums > bound / 2).mean() > failure / 2, "the check must be able to fail"


@pytest.mark.parametrize(
    ("changes", "parameter"),
    [
        ({"sensitivity_steps": 10.0}, "share_stddev_steps"),
        ({"smoothing_steps": 1.0}, "share_stddev_steps"),
        ({"sampler_relative_error": 1e-6}, "sampler_relative_error"),
        ({"sampler_relative_error": -1.0}, "sampler_relative_error"),
        ({"sensitivity_steps": 0.0}, "sensitivity_steps"),
        ({"smoothing_steps": math.inf}, "smoothing_steps"),
        ({"dimension": 0}, "dimension"),
        ({"releases": 0}, "releases"),
        ({"noise_multiplier": 2.0**40}, "share_stddev_steps"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
    ],
)
def test_grids_on_which_the_model_fails_are_refused(changes, parameter):
    with pytest.raises(InvalidPrivacyParameter) as caught:
        grid(**changes)
    assert caught.value.parameter == parameter


def test_local_noise_is_a_cohort_of_one():
    noise = grid(cohort=1, dropout_tolerance=0, colluders=0)
    assert noise.threshold == 1
    assert noise.tau == 0.0
    assert noise.share_noise_multiplier == 1.0
