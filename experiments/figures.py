"""Figures as SVG files that follow the reader's light or dark theme."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from experiments.findings import Chart, Curve
from experiments.fitting import ratio_over_seeds

_INK, _GRID = "#010101", "#020202"
_COLOURS = ("#030303", "#040404", "#050505", "#060606", "#070707", "#080808", "#090909")
_LIGHT = "#1f2328 #d0d7de #0b62c4 #b4531a #1a7f4b #7a3fb5 #a3245f #5b6b00 #3d6a7d"
_DARK = "#e6edf3 #3d444d #6cb0ff #f0a070 #5fd39a #c39bf5 #f287b7 #c3d25a #8fc6dc"
_MARKERS = "os^Dv<>"
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def draw(chart: Chart, name: str) -> str:
    """Draw a chart as a stand-alone SVG document.

    Points are geometric means over seeds with 95 % intervals; lines are predictions. The same chart
    always gives the same text.

    Args:
        chart: what to draw.
        name: keeps the identifiers of several charts apart.
    """
    with rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label, yscale="log")
        if not chart.linear_x:
            axes.set_xscale("log")
        points = 0
        for curve in chart.curves:
            points += curve.drawn == "points"
            _draw_curve(axes, curve, max(0, points - 1) % len(_COLOURS))
        figure.legend(loc="outside right upper", fontsize=8)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return _themed(buffer.getvalue())


def _draw_curve(axes: Any, curve: Curve, place: int) -> None:
    """Draw measured points with error bars, or a prediction in the colour of the points before."""
    colour = _COLOURS[place]
    if curve.drawn == "line":
        axes.plot(curve.x, curve.y, color=colour, linewidth=1.3, linestyle="--", label=curve.label)
        return
    seeds = np.asarray(curve.seeds, dtype=np.float64)
    reach = None
    if seeds.ndim == len("xy") and len(seeds) > 1 and (seeds > 0.0).all():
        spans = [ratio_over_seeds(column) for column in seeds.T]
        means = np.asarray(curve.y, dtype=np.float64)
        low, high = np.array([span.low for span in spans]), np.array([span.high for span in spans])
        reach = np.maximum(0.0, [means - low, high - means])
    axes.errorbar(
        curve.x,
        curve.y,
        yerr=reach,
        color=colour,
        marker=_MARKERS[place],
        markersize=4.5,
        linestyle="none",
        capsize=2.5,
        label=curve.label,
    )


def _themed(text: str) -> str:
    """Turn stand-in colours into variables with a light and a dark value."""
    stand_ins = (_INK, _GRID, *_COLOURS)
    for place, colour in enumerate(stand_ins):
        text = text.replace(colour, f"var(--c{place})")
    light, dark = (
        "".join(f"--c{place}:{colour};" for place, colour in enumerate(colours.split()))
        for colours in (_LIGHT, _DARK)
    )
    style = f"svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}"
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    return re.sub(r"(<svg\b[^>]*>)", rf"\1<style>{style}</style>", text, count=1)
