"""The noise has the distribution the accountant assumes: right parameters pass, wrong ones fail.

Threshold 1e-9 both ways; 200,000 samples from a fixed keystream, so the outcome never changes.
"""

import numpy as np
import pytest
from scipy import stats

from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.mechanism.noise import DiscreteGaussian
from privfed_dpo.mechanism.sampler import PoissonSampler
from tests.support.entropy import counted_entropy

SAMPLES = 200_000
THRESHOLD = 1e-9


def draw(stddev, label="noise", size=SAMPLES):
    return DiscreteGaussian(stddev).draw(size, StreamIssuer(counted_entropy(label)).issue(label))


def variance_p_value(samples, stddev):
    """Two-sided chi-square test of sum x^2 / s^2 on len(samples) degrees of freedom."""
    statistic = float((samples.astype(float) ** 2).sum() / stddev**2)
    below = stats.chi2.cdf(statistic, len(samples))
    return 2 * min(below, 1 - below)


@pytest.mark.parametrize("stddev", [4.0, 37.5, 1024.0, 3.3e6, 2.0**36])
def test_variance_accepts_the_right_parameter_and_rejects_two_percent(stddev):
    samples = draw(stddev)
    assert variance_p_value(samples, stddev) > THRESHOLD
    assert variance_p_value(samples, stddev * 1.02) < THRESHOLD
    assert variance_p_value(samples, stddev / 1.02) < THRESHOLD


@pytest.mark.parametrize("stddev", [0.7, 1.0, 4.0, 9.3])
def test_frequencies_follow_the_discrete_gaussian(stddev):
    samples = draw(stddev, label="pmf")
    reach = int(4 * stddev) + 1
    support = np.arange(-reach, reach + 1)

    def p_value(true_stddev):
        weights = np.exp(-(support.astype(float) ** 2) / (2 * true_stddev**2))
        far = np.arange(-60 * reach, 60 * reach + 1)
        total = np.exp(-(far.astype(float) ** 2) / (2 * true_stddev**2)).sum()
        inside = weights / total
        counts = np.array([(samples == x).sum() for x in support])
        expected = np.append(inside, 1 - inside.sum()) * SAMPLES
        observed = np.append(counts, SAMPLES - counts.sum())
        return stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue

    assert p_value(stddev) > THRESHOLD
    assert p_value(stddev * 1.03) < THRESHOLD


def test_large_noise_is_gaussian_in_shape():
    samples = draw(1e5, label="shape") / 1e5
    assert stats.kstest(samples, "norm").pvalue > THRESHOLD
    assert stats.kstest(samples, "logistic", args=(0, np.sqrt(3) / np.pi)).pvalue < THRESHOLD


def test_neighbouring_samples_are_uncorrelated():
    samples = draw(50.0, label="lag").astype(float)
    correlation = np.corrcoef(samples[:-1], samples[1:])[0, 1]
    assert abs(correlation) < 6.5 / np.sqrt(SAMPLES)
    assert abs(np.corrcoef(samples, draw(50.0, label="other"))[0, 1]) < 6.5 / np.sqrt(SAMPLES)
    same = np.corrcoef(samples, draw(50.0, label="lag"))[0, 1]
    assert same > 0.99, "the test must be able to see a repeated keystream"


def test_poisson_sampler_includes_at_its_rate_and_independently():
    rate, population, rounds = 0.07, 500, 800
    issuer = StreamIssuer(counted_entropy("sampler"))
    included = np.zeros((rounds, population), dtype=bool)
    for r in range(rounds):
        batch = PoissonSampler(rate).draw(population, issuer.issue(f"round-{r}"))
        included[r, batch] = True

    def total_p_value(assumed):
        return stats.binomtest(int(included.sum()), included.size, assumed).pvalue

    assert total_p_value(rate) > THRESHOLD
    assert total_p_value(rate * 1.05) < THRESHOLD
    # Batch sizes are binomial: a fixed-size sampler would have no spread at all.
    sizes = included.sum(axis=1)
    statistic = float(((sizes - rate * population) ** 2).sum() / (rate * (1 - rate) * population))
    assert THRESHOLD < stats.chi2.sf(statistic, rounds) < 1 - THRESHOLD
    assert stats.chi2.cdf(0.0, rounds) < THRESHOLD


def test_rate_one_takes_everything_and_empty_batches_happen():
    issuer = StreamIssuer(counted_entropy("edges"))
    assert PoissonSampler(1.0).draw(9, issuer.issue("a")).tolist() == list(range(9))
    assert PoissonSampler(1e-6).draw(9, issuer.issue("b")).size == 0
    with pytest.raises(ValueError):
        PoissonSampler(0.0)
