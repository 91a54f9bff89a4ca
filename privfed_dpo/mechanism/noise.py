"""Discrete Gaussian noise on the integers, from a cipher's keystream.

The sampler follows Canonne, Kamath and Steinke (2020, algorithms 1-3): a discrete Laplace
proposal, accepted with probability exp(-(|y| - s^2/t)^2 / (2 s^2)); see
`privfed_dpo.mechanism.rejection`.

Precision. For |y| <= 12 standard deviations the exponent is at most 72 and is wrong by at most
three roundings of 2^-53 each, and every trial by two more; the probability of each integer is
therefore right up to a factor 1 +- SAMPLER_RELATIVE_ERROR. The plan books that factor. Beyond
12 standard deviations lies less than 2^-100 of the mass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from privfed_dpo.mechanism.keystream import Keystream
from privfed_dpo.mechanism.rejection import bernoulli_exp, discrete_laplace

SAMPLER_RELATIVE_ERROR = 2.0**-45
"""Pointwise relative error of the sampler's probabilities within 12 standard deviations."""

MAX_STDDEV_STEPS = 2.0**40
"""Above this, squares of samples would leave the range where float64 counts exactly."""


class NoiseSampler(Protocol):
    """What a client adds to its integers: independent samples, symmetric around 0."""

    @property
    def stddev_steps(self) -> float:
        """Standard deviation in grid steps."""

    def draw(self, size: int, stream: Keystream) -> npt.NDArray[np.int64]:
        """Return `size` independent samples, shape [size], dtype int64."""


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
        proposal = discrete_laplace(scale, count, stream)
        variance = self.stddev_steps**2
        distance = np.abs(proposal).astype(np.float64) - variance / scale
        exponent = distance * distance / (2.0 * variance)
        accepted: npt.NDArray[np.int64] = proposal[bernoulli_exp(exponent, stream)]
        return accepted
