"""What an experiment says: claims, predictions, measurements, and whether they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy.typing as npt

from experiments.fitting import Interval


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table.

    Attributes:
        claim: what is claimed, and by whom if not by the paper.
        prediction: the figure that would be measured if it held.
        quantity: what was measured.
        measured: over seeds.
        accepted: the claim holds if the whole interval lies within these bounds.
        known_false: stated beforehand not to hold; it is here so that everybody sees it fail.
    """

    claim: str
    prediction: str
    quantity: str
    measured: Interval
    accepted: tuple[float, float]
    known_false: bool = False

    @property
    def holds(self) -> bool:
        """Whether the interval lies within the accepted bounds."""
        return self.measured.within(*self.accepted)

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the one that stands in the documents."""
        return self.holds != self.known_false


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a figure.

    Attributes:
        label: for the legend.
        x: abscissae.
        y: mean over seeds.
        seeds: all figures, one row a seed, for the error bars; empty if there are none.
        drawn: as `points` (measured) or as a `line` (predicted).
    """

    label: str
    x: npt.ArrayLike
    y: npt.ArrayLike
    seeds: npt.ArrayLike = ()
    drawn: Literal["points", "line"] = "points"


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure on logarithmic axes, or with a linear abscissa.

    Attributes:
        title: what it shows.
        x_label: with unit.
        y_label: with unit.
        curves: measured points and predicted lines.
        linear_x: whether the abscissa is linear.
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    linear_x: bool = False


@dataclass(frozen=True, slots=True)
class Effort:
    """How much an experiment may compute.

    Attributes:
        seeds: populations drawn anew.
        share: of the rounds of the full experiment, in (0, 1].
    """

    seeds: int = 8
    share: float = 1.0

    def rounds(self, full: int) -> int:
        """Rounds to play where the full experiment plays `full`."""
        return max(20, round(full * self.share))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an experiment found.

    Attributes:
        findings: rows of the table.
        chart: the figure; None if there is nothing to draw.
        notes: sentences a reader should know.
    """

    findings: tuple[Finding, ...]
    chart: Chart | None = None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment.

    Attributes:
        key: E1 to E11, and D for the decomposition.
        title: what is claimed.
        setting: clients, pairs, dimension, steps, in words.
        source: where the claim stands.
        run: measures it.
        long: takes longest, so it is begun first.
    """

    key: str
    title: str
    setting: str
    source: str
    run: Callable[[Effort], Outcome]
    long: bool = False
