"""Drawing points with their spread: what was measured at each x, its mean and its range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from privfed_dpo.report.drawing import (
    DASHES,
    LINES,
    MARKERS,
    MUTED,
    STYLE,
    Reference,
    new_axes,
    svg_text,
)

_REFERENCE_DASHES = ((0, (4, 2.5)), (0, (1, 2.5)), (0, (7, 2, 1, 2)), (0, (2, 5)))
_DODGE = 0.05
"""Relative distance between series at the same x, so that their ranges stay apart."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What was measured at one x.

    Attributes:
        x: where it stands, above zero.
        values: one for each seed, at least one.
    """

    x: float
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return sum(self.values) / len(self.values)


@dataclass(frozen=True, slots=True)
class SpreadSeries:
    """Points that belong together.

    Attributes:
        label: what they are, for the legend.
        points: in the order of x.
        joined: whether a line joins the means.
    """

    label: str
    points: tuple[Spread, ...]
    joined: bool = True


def spread_chart(
    name: str,
    series: Sequence[SpreadSeries],
    *,
    x_label: str,
    unit: str,
    y_label: str = "",
    references: Sequence[Reference] = (),
    logarithmic: bool = True,
    diagonal: str = "",
) -> str:
    """Draw means, ranges and single values against x.

    Args:
        name: unique on the page.
        series: as many as there are LINES; told apart by colour, dash and marker.
        x_label: label of the x axis.
        unit: of the y axis.
        y_label: its label; the unit if empty.
        references: horizontal dashed lines, named in the legend.
        logarithmic: whether the x axis is logarithmic.
        diagonal: label of a line y = x; empty draws none.

    Returns:
        An `<svg>` element without a fixed width.
    """
    with rc_context(STYLE):
        figure, axes = new_axes(unit)
        for place, one in enumerate(series):
            shift = (place - (len(series) - 1) / 2) * _DODGE if len(series) > 1 else 0.0
            _draw(axes, one, place, 1 + shift if logarithmic else 1.0)
        for number, reference in enumerate(references):
            axes.axhline(
                reference.value,
                label=reference.label,
                color=MUTED,
                linewidth=1.1,
                linestyle=_REFERENCE_DASHES[number % len(_REFERENCE_DASHES)],
                zorder=1,
            )
        places = sorted({point.x for one in series for point in one.points})
        if logarithmic:
            _logarithmic(axes, places)
        if diagonal and places:
            ends = [places[0] * 0.9, places[-1] * 1.1]
            axes.plot(
                ends, ends, color=MUTED, linewidth=1.1, linestyle=(0, (4, 2.5)), label=diagonal
            )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label or unit)
        handles, _ = axes.get_legend_handles_labels()
        if len(handles) > 1:
            figure.legend(loc="outside upper left", ncols=3, fontsize=8.5, columnspacing=1.2)
        return svg_text(figure, name)


def _draw(axes: Any, series: SpreadSeries, place: int, shift: float) -> None:
    places = [point.x * shift for point in series.points]
    colour = LINES[place % len(LINES)]
    axes.plot(
        places,
        [point.mean for point in series.points],
        label=series.label,
        color=colour,
        linestyle=DASHES[place % len(DASHES)] if series.joined else "none",
        marker=MARKERS[place % len(MARKERS)],
        markersize=5,
        zorder=3,
    )
    for x, point in zip(places, series.points, strict=True):
        if len(point.values) > 1:
            axes.plot(
                [x, x],
                [min(point.values), max(point.values)],
                color=colour,
                linewidth=1.2,
                zorder=2,
            )
            axes.plot(
                [x] * len(point.values),
                point.values,
                linestyle="none",
                marker="_",
                markersize=5,
                color=colour,
                zorder=2,
            )


def _logarithmic(axes: Any, places: Sequence[float]) -> None:
    """A logarithmic axis whose marks are the values that were used."""
    axes.set_xscale("log")
    shown: list[float] = []
    for place in places:
        if not shown or place > shown[-1] * 1.12:
            shown.append(place)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
