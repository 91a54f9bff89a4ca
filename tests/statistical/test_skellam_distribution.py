"""Skellam noise has the law the accountant prices: right parameters pass, wrong ones fail.

Threshold 1e-9 both ways; samples from fixed keystreams, so the outcome never changes. With 400,000
samples a variance that is 2 % wrong lies 9 standard deviations off; the test of the whole law, by
counts in bins, takes three times as many.
"""

import numpy as np
import pytest
from scipy import stats

from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.mechanism.skellam import SMALLEST_POISSON_MEAN, Skellam
from tests.support.entropy import counted_entropy

SAMPLES = 400_000
THRESHOLD = 1e-9
BINS = 60


def draw(mean, label="noise", size=SAMPLES):
    return Skellam(mean).draw(size, StreamIssuer(counted_entropy(label)).issue(label))


def variance_p_value(samples, variance):
    """Two-sided chi-square test of sum x^2 / variance; the excess kurtosis is below 2e-6."""
    statistic = float((samples.astype(float) ** 2).sum() / variance)
    law = stats.chi2(len(samples))
    return 2 * min(law.cdf(statistic), law.sf(statistic))


def law_p_value(samples, mean):
    """Chi-square test of the counts in bins against the exact probabilities of each integer."""
    reach = int(7 * np.sqrt(2 * mean))
    support = np.arange(-reach, reach + 1)
    mass = stats.skellam.pmf(support, mean, mean)
    assert mass.sum() == pytest.approx(1.0, abs=1e-9)
    cumulated = np.cumsum(mass)
    last = np.searchsorted(cumulated, np.arange(1, BINS) / BINS)
    expected = np.diff(cumulated[last], prepend=0.0, append=1.0)
    observed = np.bincount(np.searchsorted(support[last], samples), minlength=BINS)
    return stats.chisquare(observed, expected * len(samples)).pvalue


@pytest.mark.parametrize("mean", [SMALLEST_POISSON_MEAN, 10**6 + 1, 2**39, 10**12, 2**70])
def test_variance_accepts_the_right_parameter_and_rejects_two_percent(mean):
    samples = draw(mean)
    assert variance_p_value(samples, 2.0 * mean) > THRESHOLD
    assert variance_p_value(samples, 2.0 * mean * 1.02) < THRESHOLD
    assert variance_p_value(samples, 2.0 * mean * 0.98) < THRESHOLD


def test_frequencies_follow_the_exact_law():
    mean = SMALLEST_POISSON_MEAN
    samples = draw(mean, label="law", size=3 * SAMPLES)
    assert law_p_value(samples, mean) > THRESHOLD
    assert law_p_value(samples, mean * 1.02) < THRESHOLD
    assert law_p_value(samples, mean * 0.98) < THRESHOLD
    assert law_p_value(samples + 15, mean) < THRESHOLD, "a shift of 2 % of a std is seen"


def test_the_last_digits_are_uniform():
    """Noise this wide hides the remainder modulo 16; a coarser lattice would not."""
    samples = draw(2**30, label="digits")
    counts = np.bincount(samples % 16, minlength=16)
    assert stats.chisquare(counts).pvalue > THRESHOLD
    assert stats.chisquare(np.bincount(2 * samples % 16, minlength=16)).pvalue < THRESHOLD


def test_a_sum_of_shares_is_the_same_noise_with_the_mean_of_all():
    mean, clients = SMALLEST_POISSON_MEAN, 5
    total = sum(draw(mean, label=f"client-{number}") for number in range(clients))
    assert law_p_value(total, clients * mean) > THRESHOLD
    assert law_p_value(total, clients * mean * 1.03) < THRESHOLD
    one_missing = total - draw(mean, label="client-0")
    assert law_p_value(one_missing, (clients - 1) * mean) > THRESHOLD


def test_streams_and_neighbours_are_unrelated():
    mean = 2**36
    samples = draw(mean, label="a").astype(float)
    chance = 6.5 / np.sqrt(SAMPLES)
    assert abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < chance
    assert abs(np.corrcoef(samples, draw(mean, label="b"))[0, 1]) < chance
    same = np.corrcoef(samples, draw(mean, label="a"))[0, 1]
    assert same > 0.99, "the test must be able to see a repeated keystream"


def test_nothing_asked_nothing_drawn():
    issuer = StreamIssuer(counted_entropy("edges"))
    stream = issuer.issue("a")
    assert draw(2**20, size=0).tolist() == []
    untouched = StreamIssuer(counted_entropy("edges")).issue("a")
    Skellam(2**20).draw(0, stream)
    assert stream.words(4).tolist() == untouched.words(4).tolist()
