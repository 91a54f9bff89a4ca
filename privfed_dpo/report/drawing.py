"""Drawing one chart as inline SVG that follows the page's light or dark theme.

Charts are drawn in stand-in colours, which become CSS variables of the page. Text stays text, so
it takes the page's font and can be searched, and nothing is loaded from anywhere.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

INK, MUTED, GRID = "#010101", "#020202", "#030303"
LINES = ("#040404", "#050505", "#060606", "#070707", "#080808", "#090909")
"""Stand-in colours; the page defines what they mean."""

_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    **{line: f"--line-{place}" for place, line in enumerate(LINES, start=1)},
}
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), "solid", (0, (5, 2)), (0, (1.5, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P")
_SIZE_INCHES = (5.0, 3.0)
_MANY_POINTS = 40
STYLE = {
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.7,
}


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        label: what it is, for the legend.
        values: one per round, None where nothing was measured; None is drawn as a gap.
    """

    label: str
    values: Sequence[float | None]

    @property
    def measured(self) -> bool:
        """True if there is at least one value to draw."""
        return any(value is not None for value in self.values)


@dataclass(frozen=True, slots=True)
class Reference:
    """A horizontal line to compare with.

    Attributes:
        label: what it stands for.
        value: where it is.
    """

    label: str
    value: float


def line_chart(
    name: str,
    rounds: Sequence[int],
    series: Sequence[Series],
    *,
    unit: str,
    references: Sequence[Reference] = (),
    logarithmic: bool = False,
    from_zero: bool = False,
    marked_rounds: Sequence[int] = (),
) -> str:
    """Draw lines over rounds.

    Args:
        name: unique on the page; keeps the identifiers of several charts apart.
        rounds: the x values, increasing by one.
        series: up to three lines, told apart by colour, dash and marker.
        unit: label of the y axis.
        references: horizontal dashed lines, named in the legend.
        logarithmic: whether the y axis is logarithmic; values must then be positive.
        from_zero: whether the y axis begins at zero.
        marked_rounds: rounds to mark with a cross on the x axis.

    Returns:
        An `<svg>` element without a fixed width.
    """
    with rc_context(STYLE):
        figure, axes = new_axes(unit)
        for place, one in enumerate(line for line in series if line.measured):
            _draw_line(axes, rounds, one, place)
        for reference in references:
            axes.axhline(
                reference.value,
                label=reference.label,
                color=MUTED,
                linewidth=1.1,
                linestyle=(0, (4, 2.5)),
                zorder=1,
            )
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        elif from_zero:
            axes.set_ylim(bottom=0)
        if marked_rounds:
            axes.plot(
                marked_rounds,
                [0.0] * len(marked_rounds),
                linestyle="none",
                marker="x",
                markersize=7,
                markeredgewidth=1.8,
                color=INK,
                clip_on=False,
                label="aborted",
                transform=axes.get_xaxis_transform(),
            )
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        handles, _ = axes.get_legend_handles_labels()
        if len(handles) > 1:
            figure.legend(loc="outside upper left", ncols=4, fontsize=8.5, columnspacing=1.2)
        return svg_text(figure, name)


def bar_chart(name: str, values: Sequence[float], *, unit: str, x_label: str) -> str:
    """Draw one bar per value.

    Args:
        name: unique on the page.
        values: heights, in the order to draw.
        unit: label of the y axis.
        x_label: label of the x axis.

    Returns:
        An `<svg>` element without a fixed width.
    """
    with rc_context(STYLE):
        figure, axes = new_axes(unit)
        axes.bar(range(1, len(values) + 1), values, color=LINES[0], width=0.8)
        axes.set_xlabel(x_label)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        return svg_text(figure, name)


def dot_chart(name: str, series: Sequence[Series], *, unit: str, x_label: str) -> str:
    """Draw points over places 1, 2, ...: several values of the same things.

    Args:
        name: unique on the page.
        series: up to four, told apart by colour and marker.
        unit: label of the y axis.
        x_label: label of the x axis.

    Returns:
        An `<svg>` element without a fixed width.
    """
    with rc_context(STYLE):
        figure, axes = new_axes(unit)
        for place, one in enumerate(series):
            values = [math.nan if value is None else value for value in one.values]
            axes.plot(
                range(1, len(values) + 1),
                values,
                label=one.label,
                color=LINES[place],
                linestyle="none",
                marker=MARKERS[place],
                markersize=4.5,
            )
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        figure.legend(loc="outside upper left", ncols=4, fontsize=8.5, columnspacing=1.2)
        return svg_text(figure, name)


def new_axes(unit: str) -> tuple[Figure, Any]:
    """An empty chart whose y axis is in `unit`; call it, and all drawing, within STYLE."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylabel(unit)
    if unit == "share":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    elif unit == "clients":
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _draw_line(axes: Any, rounds: Sequence[int], series: Series, place: int) -> None:
    values = [math.nan if value is None else value for value in series.values]
    marker = MARKERS[place] if len(values) <= _MANY_POINTS else None
    axes.plot(
        rounds,
        values,
        label=series.label,
        color=LINES[place],
        linestyle=DASHES[place],
        marker=marker,
        markersize=3.2,
        zorder=3 - place / 10,
    )
    if marker is None:
        alone = [index for index in range(len(values)) if _stands_alone(values, index)]
        axes.plot(
            [rounds[index] for index in alone],
            [values[index] for index in alone],
            linestyle="none",
            marker=MARKERS[place],
            markersize=3.2,
            color=LINES[place],
        )


def _stands_alone(values: Sequence[float], index: int) -> bool:
    """A measured point between gaps, which a line alone would not show."""
    around = (values[index - 1] if index else math.nan, *values[index + 1 : index + 2])
    return not math.isnan(values[index]) and all(math.isnan(value) for value in around)


def svg_text(figure: Figure, name: str) -> str:
    """A finished chart as an `<svg>` element in the page's colours, without a fixed width."""
    with rc_context({"svg.hashsalt": name}):
        canvas = FigureCanvasSVG(figure)
        buffer = io.StringIO()
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)
    text = re.sub(r'\b(id="|url\(#|href="#)(?=[\w.])', rf"\1{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1).strip()
