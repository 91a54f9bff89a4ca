r"""Symmetric Skellam noise on the integers, from a cipher's keystream.

A sample is the difference of two independent Poisson variables of the same whole mean m, so its
variance is 2 m, and a sum of n such samples is the same noise with mean n m, exactly.

Each Poisson variable is drawn by rejection, as its deviation j from m. Let p be its probabilities,
psi(j) = log p(m) - log p(m + j) = log((m + j)! / (m! m^j)), and t = floor(sqrt(m)) + 1. A discrete
Laplace proposal of scale t is accepted with probability exp(-E(j)),

    E(j) = psi(j) - |j| / t + (m / t + 1/2)^2 / (2 m).

E >= 0, so the result is Poisson: for j = -k < 0, psi is the sum of -log(1 - i/m) >= i/m over i < k,
at least k (k - 1) / (2 m), and k (k - 1) / (2 m) - k / t >= -(m / t + 1/2)^2 / (2 m). For j >= 0,
psi is the sum of log(1 + i/m) over i <= j, at least m G(j / m) with G(r) = (1 + r) log(1 + r) - r
(the integral), and m G(j / m) - j / t >= -m (e^{1/t} - 1 - 1/t), which is smaller in size since
m <= t^2 and t > 512.

By Stirling's series, whose error is below its first omitted term (Whittaker and Watson 1927,
12.33), with r = j / m and up to 2 / (360 (m + j)^3) < 2^-60:

    psi(j) = m G(r) + log(1 + r) / 2 - j / (12 m (m + j)),
    m G(r) = j r (1/2 - r/6 + r^2/12 - r^3/20 + ...).

Nothing of size m is ever subtracted, so large means lose no precision. Deviations beyond 42
standard deviations are rejected, which keeps |r| <= 0.083; the series is cut where its tail is
below 2^-55 of it.

Precision. Let u = 2^-53. Up to 12 standard deviations psi <= 73. Its main term is wrong by at most
6 u relatively (r, j r, the series, their product), 438 u; the four sums by 73 u each; the small
terms by less than 20 u; the trials by less than 150 u. So each weight is right up to a factor
1 +- 911 u, the normaliser too, and every probability up to 1 +- POISSON_RELATIVE_ERROR. Farther out
the error grows no faster than psi, that is with the square of the distance, by 3 % at most.
Bennett's inequality bounds the mass beyond 12 standard deviations by e^-72 (e^{288 / sqrt(m)} + 1),
less than 3 e^-72 from m = 2^18 on, and beyond 41.5 by 2 e^-838 there: what `sampler_slack` in the
accounting asks for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privfed_dpo.mechanism.keystream import Keystream
from privfed_dpo.mechanism.rejection import bernoulli_exp, discrete_laplace

POISSON_RELATIVE_ERROR = 2.0**-42
"""Pointwise relative error of each Poisson variable within 12 standard deviations."""

SMALLEST_POISSON_MEAN = 1 << 18
LARGEST_POISSON_MEAN = 1 << 78

_REACH_STDDEVS = 42
_SERIES_BITS = 55
_BLOCK = 1 << 15  # samples drawn at a time: their arrays stay in the cache


@dataclass(frozen=True, slots=True)
class Skellam:
    """The difference of two Poisson variables with the same mean.

    Attributes:
        poisson_mean: mean m of each, a whole number in [2^18, 2^78].
    """

    poisson_mean: int

    def __post_init__(self) -> None:
        if not SMALLEST_POISSON_MEAN <= self.poisson_mean <= LARGEST_POISSON_MEAN:
            raise ValueError(f"poisson_mean must be in [2^18, 2^78], not {self.poisson_mean}")

    @property
    def stddev_steps(self) -> float:
        """Standard deviation in grid steps: sqrt(2 m)."""
        return math.sqrt(2 * self.poisson_mean)

    def draw(self, size: int, stream: Keystream) -> npt.NDArray[np.int64]:
        """Return `size` independent samples, shape [size], dtype int64.

        Args:
            size: how many samples, >= 0.
            stream: secret randomness, used for nothing else.
        """
        deviations = self._deviations(2 * size, stream)
        return deviations[:size] - deviations[size:]

    def _deviations(self, size: int, stream: Keystream) -> npt.NDArray[np.int64]:
        """Draw independent Poisson variables, less their mean."""
        out = np.empty(size, dtype=np.int64)
        filled = 0
        while filled < size:
            wanted = min(size - filled, _BLOCK)
            accepted = self._propose(wanted + wanted // 2 + 16, stream)[:wanted]
            out[filled : filled + accepted.size] = accepted
            filled += accepted.size
        return out

    def _propose(self, count: int, stream: Keystream) -> npt.NDArray[np.int64]:
        """Draw `count` Laplace proposals and return those the Poisson law accepts."""
        root = math.isqrt(self.poisson_mean)
        proposal = discrete_laplace(root + 1, count, stream)
        proposal = proposal[np.abs(proposal) <= _REACH_STDDEVS * root]
        accepted: npt.NDArray[np.int64] = proposal[bernoulli_exp(self.exponent(proposal), stream)]
        return accepted

    def exponent(self, deviation: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return E(j), >= 0, for deviations j of up to 42 standard deviations."""
        mean = float(self.poisson_mean)
        scale = math.isqrt(self.poisson_mean) + 1
        j = deviation.astype(np.float64)
        ratio = j / mean
        surprise = j * ratio * _series(ratio, _terms(_REACH_STDDEVS * (scale - 1) / mean))
        surprise += np.log1p(ratio) / 2
        surprise -= ratio / (12.0 * (mean + j))
        surprise -= np.abs(j) / scale
        surprise += (mean / scale + 0.5) ** 2 / (2.0 * mean)
        exponent: npt.NDArray[np.float64] = np.maximum(surprise, 0.0)
        return exponent


def _terms(largest_ratio: float) -> int:
    """How many terms of the series leave out less than 2^-55 of it."""
    return math.ceil(_SERIES_BITS / -math.log2(largest_ratio)) + 1


def _series(ratio: npt.NDArray[np.float64], terms: int) -> npt.NDArray[np.float64]:
    """Return 1/2 - r/6 + r^2/12 - ..., the first `terms` of sum (-r)^n / ((n + 1) (n + 2))."""
    total = np.full(ratio.shape, 1.0 / (terms * (terms + 1)))
    for n in range(terms - 1, 0, -1):
        total *= -ratio
        total += 1.0 / (n * (n + 1))
    return total
