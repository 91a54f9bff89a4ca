"""What a guarantee is about: the protected unit, the adjacency, and the budget."""

import math
from dataclasses import dataclass
from enum import StrEnum

from accounting.errors import InvalidPrivacyParameter

DEFAULT_DELTA_CEILING = 1e-5


class PrivacyUnit(StrEnum):
    """What one record is. Everything of one unit is protected together."""

    PAIR = "pair"
    USER = "user"


class Adjacency(StrEnum):
    """Which two data sets have to be hard to tell apart.

    ZERO_OUT: one record is replaced by a null record that contributes nothing; all sizes stay
        public. Its dominating pairs are those of add/remove for the sampled Gaussian mechanism.
    REPLACE_ONE: one record is replaced by any other; up to twice the sensitivity.
    """

    ZERO_OUT = "zero_out"
    REPLACE_ONE = "replace_one"


@dataclass(frozen=True, slots=True)
class Budget:
    """The (epsilon, delta) that a run may spend.

    Attributes:
        epsilon: ceiling, > 0. Infinity means: measure at `delta`, refuse nothing.
        delta: failure probability, in (0, 1).

    Raises:
        InvalidPrivacyParameter: a value lies outside its range.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        """Refuse what is not a budget."""
        if not self.epsilon > 0:
            raise InvalidPrivacyParameter("epsilon", self.epsilon, "give a number above 0")
        require_delta(self.delta)


def require_delta(delta: float) -> float:
    """Return `delta` if it is a usable failure probability.

    Raises:
        InvalidPrivacyParameter: `delta` is not in (0, 1).
    """
    if not 0 < delta < 1:
        raise InvalidPrivacyParameter(
            "delta", delta, "give a probability in (0, 1), well below 1 / (number of records)"
        )
    return delta


def default_delta(record_count: int) -> float:
    """Return min(1e-5, N^-1.1): below 1/N, so that publishing one whole record is no way out.

    Args:
        record_count: N, the public number of protected units, >= 1.

    Raises:
        InvalidPrivacyParameter: `record_count` is below 1.
    """
    if record_count < 1:
        raise InvalidPrivacyParameter("record_count", record_count, "count at least one record")
    return min(DEFAULT_DELTA_CEILING, math.pow(record_count, -1.1))
