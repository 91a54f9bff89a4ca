"""The deltas of a sampled Gaussian, by numpy, are those the library computes one by one."""

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from accounting.events import PoissonGaussianRelease, Repeated
from accounting.mixture import hockey_sticks, loss, sampled_group
from accounting.pld import pld_epsilon

NOISE = st.floats(0.05, 30)
RATE = st.one_of(st.floats(1e-9, 1), st.floats(-20, 0).map(math.exp), st.just(1.0))


@settings(deadline=None, max_examples=60)
@given(rate=RATE, noise=NOISE)
@example(rate=1.0, noise=0.05)  # losses far beyond the largest exponent of a double
@example(rate=1e-9, noise=0.05)
@example(rate=1 - 2**-53, noise=1.0)
@example(rate=0.5, noise=30.0)
def test_both_directions_are_the_librarys(rate, noise):
    width = (1 + 24 * noise) / noise**2
    interval = width / 200
    first, remove, first_added, add = hockey_sticks(sampled_group(1, rate, noise), interval)
    for direction, start, deltas in (
        (AdjacencyType.REMOVE, first, remove),
        (AdjacencyType.ADD, first_added, add),
    ):
        library = GaussianPrivacyLoss(noise, sampling_prob=rate, adjacency_type=direction)
        epsilon = np.arange(start, start + deltas.size) * interval
        with np.errstate(over="ignore", divide="ignore"):
            expected = library.get_delta_for_epsilon(epsilon)
        assert deltas == pytest.approx(expected, rel=1e-9, abs=4e-15)


@settings(deadline=None, max_examples=3)
@given(rate=st.floats(0.001, 0.6), noise=st.floats(0.5, 4), count=st.integers(1, 60))
def test_epsilon_is_the_librarys_or_a_hundred_thousandth_more(rate, noise, count):
    """The step that `pld_epsilon` takes is 1e-4 or more, the library's here 1e-4 and 5e-5."""

    def by_library(step):
        one = privacy_loss_distribution.from_gaussian_mechanism(
            noise, sampling_prob=rate, value_discretization_interval=step
        )
        return one.self_compose(count).get_epsilon_for_delta(1e-6)

    fine = by_library(5e-5)
    ours = pld_epsilon([Repeated(PoissonGaussianRelease(rate, noise), count)], 1e-6)
    assert fine - 1e-7 <= ours <= max(by_library(1e-4) + 1e-7, fine * (1 + 1e-5))


@pytest.mark.parametrize(("rate", "noise"), [(0.3, 0.8), (1e-6, 0.5), (0.999, 2.0), (1.0, 1.0)])
def test_a_delta_is_a_difference_of_two_tails_where_the_loss_is_epsilon(rate, noise):
    pair = sampled_group(1, rate, noise)
    x = np.array([1.2])
    (epsilon,) = loss(pair, x)
    upper = rate * stats.norm.sf(1.2, 1, noise) + (1 - rate) * stats.norm.sf(1.2, 0, noise)
    expected = upper - math.exp(epsilon) * stats.norm.sf(1.2, 0, noise)
    first, remove, _, _ = hockey_sticks(pair, float(epsilon))
    assert remove[1 - first] == pytest.approx(expected, rel=1e-9)


def test_a_loss_by_hand():
    """q = 0.3, z = 0.8: at x = 1.2 the loss is log(0.7 + 0.3 exp(1.4 / 1.28)) = 0.4673."""
    (epsilon,) = loss(sampled_group(1, 0.3, 0.8), np.array([1.2]))
    assert epsilon == pytest.approx(0.46727, abs=1e-5)
