"""The pass conditions themselves: the right law is accepted, a wrong exponent is rejected."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.findings import Finding
from experiments.fitting import Interval, log_slope, over_seeds, ratio_over_seeds

X = (1.0, 2.0, 4.0, 8.0)


def finding(measured, accepted=(1.85, 2.15), **more):
    return Finding("claim", "2", "slope", measured, accepted, **more)


def noisy_slopes(exponent, *, seeds=8, scatter=0.1, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    laws = np.array(X) ** exponent * np.exp(scatter * rng.normal(size=(seeds, len(X)))) + offset
    return over_seeds([log_slope(X, row) for row in laws])


@given(st.floats(-4, 4), st.floats(0.01, 100))
def test_a_power_law_gives_its_exponent(exponent, factor):
    assert log_slope(X, [factor * x**exponent for x in X]) == pytest.approx(exponent, abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_the_condition_has_power(seed):
    assert finding(noisy_slopes(2.0, seed=seed)).holds
    for wrong in (1.0, 1.5, 1.75, 2.25, 2.5, 3.0):
        assert not finding(noisy_slopes(wrong, seed=seed)).holds


def test_a_floor_under_the_law_is_noticed():
    """y = x^2 + 1 is no power law; at these x its slope is far from 2."""
    assert not finding(noisy_slopes(2.0, offset=1.0)).holds


def test_a_vague_measurement_does_not_pass():
    """The whole interval must lie inside: not being refuted is not enough."""
    vague = noisy_slopes(2.0, seeds=3, scatter=2.0)
    assert vague.low < 2.0 < vague.high
    assert not finding(vague).holds


def test_the_interval_is_students():
    """Mean 2, s = 1, n = 3: half width 4.302653 / sqrt(3) = 2.484138."""
    measured = over_seeds([1.0, 2.0, 3.0])
    assert (measured.low, measured.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    ratio = ratio_over_seeds(np.exp([1.0, 2.0, 3.0]))
    assert math.log(ratio.high) == pytest.approx(2 + 2.484138, abs=1e-6)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = sum(i.low < 0 < i.high for i in (over_seeds(rng.normal(size=5)) for _ in range(2000)))
    assert abs(hits / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_verdict_and_expectation():
    right, wrong = Interval(2.0, 1.9, 2.1), Interval(1.0, 0.9, 1.1)
    assert finding(right).holds
    assert finding(right).as_expected
    assert not finding(wrong).as_expected
    assert finding(wrong, known_false=True).as_expected
    assert not finding(right, known_false=True).as_expected


@pytest.mark.parametrize("values", [[1.0], [], [1.0, math.nan]])
def test_an_interval_needs_two_figures(values):
    with pytest.raises(ValueError, match="two finite"):
        over_seeds(values)


@pytest.mark.parametrize(("x", "y"), [((1, 2), (0, 1)), ((-1, 2), (1, 1)), ((2, 2), (1, 3))])
def test_no_slope_where_there_is_none(x, y):
    with pytest.raises(ValueError, match=r"positive|different"):
        log_slope(x, y)
