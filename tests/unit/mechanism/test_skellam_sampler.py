"""The Poisson sampler's acceptance against the exact law, to the last booked digit."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from accounting import SMALLEST_SKELLAM_STDDEV_STEPS, skellam_shares
from accounting.sampler_slack import SAMPLER_FAILURE
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.mechanism.skellam import (
    LARGEST_POISSON_MEAN,
    POISSON_RELATIVE_ERROR,
    SMALLEST_POISSON_MEAN,
    Skellam,
)
from tests.support.entropy import counted_entropy

ROUNDING = 2.0**-53
BERNOULLI = ("1/6", "-1/30", "1/42", "-1/30", "5/66", "-691/2730", "7/6")


def stirling_correction(n):
    """Sum over k of B_2k / (2k (2k - 1) n^(2k - 1)), to 60 digits for n >= 2^17."""
    total = Decimal(0)
    for k, fraction in enumerate(BERNOULLI, start=1):
        above, below = map(Decimal, [*fraction.split("/"), "1"][:2])
        total += above / below / (2 * k * (2 * k - 1)) / n ** (2 * k - 1)
    return total


def exact_exponent(mean, deviation):
    """E(j) of the module's docstring, in 80 digits."""
    with localcontext() as context:
        context.prec = 80
        m, j, t = Decimal(mean), Decimal(deviation), Decimal(math.isqrt(mean) + 1)
        n = m + j
        surprise = (n + Decimal("0.5")) * (n / m).ln() - j
        surprise += stirling_correction(n) - stirling_correction(m)
        return surprise - abs(j) / t + (m / t + Decimal("0.5")) ** 2 / (2 * m)


def found_exponent(mean, deviation):
    return float(Skellam(mean).exponent(np.array([deviation]))[0])


def test_the_reference_is_the_product_of_factors():
    """log((m + j)! / (m! m^j)) is a sum of log(1 + i/m), whatever Stirling says."""
    mean, scale = SMALLEST_POISSON_MEAN, math.isqrt(SMALLEST_POISSON_MEAN) + 1
    for deviation in (1, 700, 6144, -1, -700, -6144):
        steps = np.arange(1, deviation + 1) if deviation > 0 else -np.arange(0, -deviation)
        surprise = math.copysign(math.fsum(np.log1p(steps / mean)), deviation * math.fsum(steps))
        surprise = abs(surprise)
        surprise += -abs(deviation) / scale + (mean / scale + 0.5) ** 2 / (2 * mean)
        assert float(exact_exponent(mean, deviation)) == pytest.approx(surprise, abs=1e-12)


means = st.one_of(
    st.just(SMALLEST_POISSON_MEAN),
    st.integers(SMALLEST_POISSON_MEAN, 2**24),
    st.integers(18, 77).flatmap(lambda bits: st.integers(2**bits, 2 ** (bits + 1))),
)


@given(mean=means, stddevs=st.floats(-12.0, 12.0))
@settings(deadline=None, max_examples=300)
def test_acceptance_is_right_to_the_booked_error(mean, stddevs):
    """The docstring proves 911 roundings with the trials, 750 without; both are more than found."""
    deviation = int(stddevs * math.sqrt(mean))
    exact = exact_exponent(mean, deviation)
    assert exact >= 0, "the proposal must cover the law"
    assert abs(Decimal(found_exponent(mean, deviation)) - exact) < Decimal(750 * ROUNDING)
    assert 2 * 911 * ROUNDING < POISSON_RELATIVE_ERROR


@given(mean=means, stddevs=st.floats(12.0, 42.0), sign=st.sampled_from([-1, 1]))
@settings(deadline=None, max_examples=200)
def test_farther_out_the_error_grows_with_the_square(mean, stddevs, sign):
    deviation = sign * min(int(stddevs * math.sqrt(mean)), 42 * math.isqrt(mean))
    exact = exact_exponent(mean, deviation)
    allowed = 750 * ROUNDING * (stddevs / 12) ** 2
    assert exact >= 0
    assert abs(Decimal(found_exponent(mean, deviation)) - exact) < Decimal(allowed)


def test_mass_far_out_is_what_the_slack_allows():
    mean = SMALLEST_POISSON_MEAN
    reach = 12 * math.sqrt(mean)
    law = stats.poisson(mean)
    assert law.sf(mean + reach - 1) + law.cdf(mean - reach) < 3 * math.exp(-72)

    def bennett(stddevs):
        r = stddevs / math.sqrt(mean)
        return mean * ((1 + r) * math.log1p(r) - r)

    assert 1e15 * 2 * math.exp(-bennett(41.5) / 2) ** 2 < SAMPLER_FAILURE
    assert math.exp(-bennett(12)) + math.exp(-72) < 3 * math.exp(-72)


def test_the_accountant_and_the_sampler_agree_on_the_range():
    assert skellam_shares.SMALLEST_POISSON_MEAN == SMALLEST_POISSON_MEAN
    assert skellam_shares.LARGEST_POISSON_MEAN == LARGEST_POISSON_MEAN
    assert Skellam(SMALLEST_POISSON_MEAN).stddev_steps == SMALLEST_SKELLAM_STDDEV_STEPS


@given(
    mean=means,
    size=st.integers(0, 40),
    label=st.integers(0, 10**6).map(str),
)
@settings(deadline=None, max_examples=60)
def test_samples_are_whole_and_within_reach(mean, size, label):
    stream = StreamIssuer(counted_entropy(label)).issue("noise")
    samples = Skellam(mean).draw(size, stream)
    assert samples.shape == (size,)
    assert samples.dtype == np.int64
    assert np.all(np.abs(samples) <= 84 * math.sqrt(mean))


@pytest.mark.parametrize("mean", [0, SMALLEST_POISSON_MEAN - 1, LARGEST_POISSON_MEAN + 1])
def test_means_outside_the_proof_are_refused(mean):
    with pytest.raises(ValueError, match="poisson_mean"):
        Skellam(mean)
