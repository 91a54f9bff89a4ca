"""Slopes and ratios with their confidence intervals over seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and its confidence interval.

    Attributes:
        mean: the estimate.
        low: lower end.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    def within(self, low: float, high: float) -> bool:
        """Whether the whole interval lies in [low, high]: a test of equivalence, not of chance."""
        return low <= self.low and self.high <= high


def over_seeds(values: npt.ArrayLike) -> Interval:
    """Student's t interval of the mean, at 95 %.

    Args:
        values: one figure a seed, at least two; equal figures give an interval of no width.

    Raises:
        ValueError: fewer than two, or one that is not finite.
    """
    figures = np.asarray(values, dtype=np.float64)
    if figures.size < len("ab") or not np.isfinite(figures).all():
        raise ValueError("an interval over seeds needs two finite figures or more")
    mean = float(figures.mean())
    error = float(figures.std(ddof=1) / np.sqrt(figures.size))
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2.0, figures.size - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


def ratio_over_seeds(values: npt.ArrayLike) -> Interval:
    """The same for the geometric mean of positive figures."""
    logs = over_seeds(np.log(np.asarray(values, dtype=np.float64)))
    return Interval(*(float(np.exp(v)) for v in (logs.mean, logs.low, logs.high)))


def log_slope(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Least-squares slope of log y against log x: the exponent of a power law.

    Raises:
        ValueError: a value is not positive, or all x are equal.
    """
    abscissae, ordinates = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if abscissae.min() <= 0.0 or ordinates.min() <= 0.0:
        raise ValueError("a power law has positive values only")
    if np.ptp(abscissae) == 0.0:
        raise ValueError("a slope needs two different x")
    return float(np.polyfit(np.log(abscissae), np.log(ordinates), 1)[0])
