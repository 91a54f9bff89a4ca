"""Discrete Gaussian noise on the integers, from a cipher's keystream.

The sampler follows Canonne, Kamath and Steinke (2020, algorithms 1-3): a discrete Laplace
proposal, accepted with probability exp(-(|y| - s^2/t)^2 / (2 s^2)). Bernoulli trials compare a
64-bit word with a probability computed in float64; exponents above one are split into unit steps,
so that rare events keep their relative precision.

Precision. For |y| <= 12 standard deviations the exponent is at most 72 and is wrong by at most
three roundings of 2^-53 each, and every trial by two more; the probability of each integer is
therefore right up to a factor 1 +- SAMPLER_RELATIVE_ERROR. The plan books that factor. Beyond
12 standard deviations lies less than 2^-100 of the mass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privfed_dpo.mechanism.keystream import Keystream

SAMPLER_RELATIVE_ERROR = 2.0**-45
"""Pointwise relative error of the sampler's probabilities within 12 standard deviations."""

MAX_STDDEV_STEPS = 2.0**40
"""Above this, squares of samples would leave the range where float64 counts exactly."""

_WORD_SPAN = 2.0**64
_UNIT_STEP_THRESHOLD = np.uint64(int(np.exp(-1.0) * _WORD_SPAN))


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """N_Z(0, s^2): an integer y with probability proportional to exp(-y^2 / (2 s^2)).

    Attributes:
        stddev_steps: s in grid steps, > 0. For s >= 1 the true standard deviation equals s up to
            a relative 1e-7 (Canonne, Kamath and Steinke 2020, section 3).
    """

    stddev_steps: float

    def __post_init__(self) -> None:
        if not 0.0 < self.stddev_steps <= MAX_STDDEV_STEPS:
            raise ValueError(f"stddev_steps must be in (0, 2^40], not {self.stddev_steps}")

    def draw(self, size: int, stream: Keystream) -> npt.NDArray[np.int64]:
        """Return `size` independent samples, shape [size], dtype int64.

        Args:
            size: how many samples, >= 0.
            stream: secret randomness, used for nothing else.
        """
        out = np.empty(size, dtype=np.int64)
        filled = 0
        while filled < size:
            wanted = size - filled
            accepted = self._propose(wanted + wanted // 2 + 16, stream)[:wanted]
            out[filled : filled + accepted.size] = accepted
            filled += accepted.size
        return out

    def _propose(self, count: int, stream: Keystream) -> npt.NDArray[np.int64]:
        """Draw `count` Laplace proposals and return those the Gaussian accepts."""
        scale = int(self.stddev_steps) + 1
        proposal = _discrete_laplace(scale, count, stream)
        variance = self.stddev_steps**2
        distance = np.abs(proposal).astype(np.float64) - variance / scale
        exponent = distance * distance / (2.0 * variance)
        accepted: npt.NDArray[np.int64] = proposal[_bernoulli_exp(exponent, stream)]
        return accepted


def _discrete_laplace(scale: int, count: int, stream: Keystream) -> npt.NDArray[np.int64]:
    """Integers with probability proportional to exp(-|x| / scale); at most `count` of them."""
    offset = _uniform_below(scale, count, stream)
    offset = offset[_bernoulli_exp(offset / scale, stream)]
    steps = _geometric(offset.size, stream)
    magnitude = offset + scale * steps
    negative = (stream.words(magnitude.size) & np.uint64(1)).astype(bool)
    keep = ~(negative & (magnitude == 0))
    signed: npt.NDArray[np.int64] = np.where(negative, -magnitude, magnitude)[keep]
    return signed


def _uniform_below(bound: int, count: int, stream: Keystream) -> npt.NDArray[np.int64]:
    """Exactly uniform integers in [0, bound), by rejecting words above the last full multiple."""
    limit = np.uint64((1 << 64) // bound * bound - 1)
    words = stream.words(count)
    while bool((rejected := words > limit).any()):
        words[rejected] = stream.words(int(rejected.sum()))
    return (words % np.uint64(bound)).astype(np.int64)


def _geometric(count: int, stream: Keystream) -> npt.NDArray[np.int64]:
    """How many unit steps, each taken with probability 1/e, succeed before the first failure."""
    total = np.zeros(count, dtype=np.int64)
    alive = np.arange(count)
    while alive.size:
        alive = alive[stream.words(alive.size) < _UNIT_STEP_THRESHOLD]
        total[alive] += 1
    return total


def _bernoulli_exp(exponent: npt.NDArray[np.float64], stream: Keystream) -> npt.NDArray[np.bool_]:
    """Independent trials that succeed with probability exp(-exponent), exponent >= 0."""
    whole = np.floor(exponent)
    threshold = np.exp(whole - exponent) * _WORD_SPAN
    certain = threshold >= _WORD_SPAN
    words = stream.words(exponent.size)
    limit = np.where(certain, 0.0, threshold).astype(np.uint64)
    success = certain | (words < limit)
    remaining = np.flatnonzero(success & (whole >= 1.0))
    steps = whole[remaining]
    while remaining.size:
        lucky = stream.words(remaining.size) < _UNIT_STEP_THRESHOLD
        success[remaining[~lucky]] = False
        remaining, steps = remaining[lucky], steps[lucky] - 1.0
        remaining, steps = remaining[steps >= 1.0], steps[steps >= 1.0]
    return success
