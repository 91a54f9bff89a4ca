"""Secret Poisson sampling of a client's pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privfed_dpo.mechanism.keystream import Keystream

_WORD_SPAN = 1 << 64


@dataclass(frozen=True, slots=True)
class PoissonSampler:
    """Includes every pair independently with the same probability.

    The batch it draws, and the batch's size, must stay inside the client: amplification by
    sampling (Balle, Barthe and Gaboardi 2018) holds only while nobody else learns who was in.

    Attributes:
        sample_rate: inclusion probability in (0, 1]. What is really used is the largest multiple
            of 2^-64 not above it, so that the accounted rate is never exceeded.
    """

    sample_rate: float

    def __post_init__(self) -> None:
        if not 0.0 < self.sample_rate <= 1.0:
            raise ValueError(f"sample_rate must be in (0, 1], not {self.sample_rate}")

    def draw(self, population: int, stream: Keystream) -> npt.NDArray[np.intp]:
        """Return the indexes of the sampled pairs, ascending, shape [batch], possibly empty.

        Args:
            population: how many pairs the client holds.
            stream: secret randomness; one word is used per pair, whatever the outcome.
        """
        words = stream.words(population)
        if self.sample_rate == 1.0:
            return np.arange(population, dtype=np.intp)
        threshold = np.uint64(int(self.sample_rate * _WORD_SPAN))
        return np.flatnonzero(words < threshold)
