r"""Exact and analytic bounds for Gaussian releases, without discretisation.

Two facts are used.

1. R Gaussian releases with multipliers z_1..z_R on the same record are one Gaussian release with
   separation mu = sqrt(sum 1/z_r^2), and its trade-off is known in closed form (Balle and Wang
   2018, Theorem 8): delta(eps) = Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2).
2. Hand the adversary, for free, the set of rounds in which the sampler drew the record. Both
   neighbours are then mixtures, with the same weights, of plain Gaussian compositions, and the
   hockey-stick divergence is jointly convex: delta(eps) is at most the average of (1) over the
   number of rounds in which the record took part, a Binomial(T, q). This bound never needs a grid,
   so it stays finite and cheap where privacy-loss distributions grow too wide.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from accounting.errors import UnsupportedMechanism
from accounting.events import (
    CappedPoissonGaussianRelease,
    Event,
    GaussianRelease,
    GroupPoissonGaussianRelease,
    PoissonGaussianRelease,
    Repeated,
    UnprotectedRelease,
)
from accounting.units import Adjacency, require_delta

_BISECTIONS = 200
_RELATIVE_WIDTH = 1e-12
_PARTICIPATION_TAIL_FRACTION = 1e-3
_PARTICIPATION_BINS = 8192


def sensitivity_factor(adjacency: Adjacency) -> float:
    """Return how far apart two neighbours can be, in clip norms: 1 (zero-out) or 2 (replace)."""
    return 2.0 if adjacency is Adjacency.REPLACE_ONE else 1.0


def gaussian_delta(epsilon: float, separation: ArrayLike) -> NDArray[np.float64]:
    """Return delta of N(0, 1) against N(separation, 1) at `epsilon`, elementwise.

    Args:
        epsilon: >= 0.
        separation: mu >= 0, any shape, in standard deviations of the noise.
    """
    mu = np.asarray(separation, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_left = special.log_ndtr(-epsilon / mu + mu / 2)
        log_right = epsilon + special.log_ndtr(-epsilon / mu - mu / 2)
        delta = np.exp(log_left) * -np.expm1(np.minimum(log_right - log_left, 0.0))
    return np.where(mu > 0, delta, 0.0)


def gaussian_epsilon(separation: float, delta: float) -> float:
    """Return epsilon of N(0, 1) against N(separation, 1), to 1e-12 relative, from above.

    Raises:
        InvalidPrivacyParameter: `delta` is not in (0, 1).
    """
    require_delta(delta)
    return _smallest_epsilon(np.array([separation]), np.array([1.0]), 0.0, delta)


def participation_epsilon(
    spends: Sequence[Repeated], delta: float, adjacency: Adjacency = Adjacency.ZERO_OUT
) -> float:
    """Return a valid epsilon by fact 2 above, for any number of rounds and any noise.

    Exact when nothing is sampled. Several sampled mechanisms are first replaced by as many rounds
    of one that dominates each of them (the largest rate, the smallest noise multiplier).

    Args:
        spends: what was released on one record.
        delta: failure probability, in (0, 1).
        adjacency: zero-out, or replace-one at twice the separation.

    Raises:
        InvalidPrivacyParameter: `delta` is not in (0, 1).
    """
    require_delta(delta)
    unsampled = 0.0
    rounds, rate, noise = 0, 0.0, math.inf
    for spend in spends:
        event = spend.event
        if isinstance(event, UnprotectedRelease):
            return math.inf
        if isinstance(event, GaussianRelease):
            unsampled += spend.count / event.noise_multiplier**2
        else:
            rounds += spend.count
            one = _dominating(event)
            rate = max(rate, one.sample_rate)
            noise = min(noise, one.noise_multiplier)
    participations, weights, tail = _participations(rounds, rate, delta)
    separation = np.sqrt(unsampled + participations / noise**2) * sensitivity_factor(adjacency)
    return _smallest_epsilon(separation, weights, tail, delta)


def _dominating(event: Event) -> PoissonGaussianRelease:
    """Return a plain sampled Gaussian that is no more private than a sampled event."""
    match event:
        case PoissonGaussianRelease():
            return event
        case GroupPoissonGaussianRelease():
            # Whenever any of the k records is drawn, pretend that all of them are.
            missing = math.log1p(-event.sample_rate) if event.sample_rate < 1 else -math.inf
            some = -math.expm1(event.group_size * missing)
            return PoissonGaussianRelease(some, event.noise_multiplier / event.group_size)
        case CappedPoissonGaussianRelease():
            # Drawn, or another one pushed out: two clip norms apart, in at most every round.
            return PoissonGaussianRelease(1.0, event.noise_multiplier / 2)
    raise UnsupportedMechanism(event, "it is not a sampled Gaussian")


def _participations(
    rounds: int, rate: float, delta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return counts, their probabilities, and the (tiny) upper tail that is booked as delta.

    Many counts are put into few bins, each standing for its largest count: an upper bound.
    """
    if rounds == 0:
        return np.zeros(1), np.ones(1), 0.0
    law = stats.binom(rounds, rate)
    most = int(min(rounds, law.isf(delta * _PARTICIPATION_TAIL_FRACTION) + 1))
    if most < _PARTICIPATION_BINS:
        counts = np.arange(most + 1, dtype=np.float64)
    else:
        least = max(0, int(law.ppf(delta * _PARTICIPATION_TAIL_FRACTION)) - 1)
        counts = np.unique(np.floor(np.linspace(least, most, _PARTICIPATION_BINS)))
    weights = np.diff(law.cdf(counts), prepend=0.0)
    return counts, weights, float(law.sf(most))


def _smallest_epsilon(
    separation: NDArray[np.float64], weights: NDArray[np.float64], tail: float, delta: float
) -> float:
    def exceeds(epsilon: float) -> bool:
        return float(weights @ gaussian_delta(epsilon, separation)) + tail > delta

    if not exceeds(0.0):
        return 0.0
    widest = float(separation.max())
    # At this epsilon the first term of `gaussian_delta` alone is already below delta - tail.
    high = widest**2 / 2 - widest * float(special.ndtri(delta - tail))
    high = max(high, 1e-300)
    low = 0.0
    for _ in range(_BISECTIONS):
        if high - low <= _RELATIVE_WIDTH * high:
            break
        middle = (low + high) / 2
        if exceeds(middle):
            low = middle
        else:
            high = middle
    return high
