"""Charts: every measured value is drawn, nothing else is, and lines differ without colour."""

from __future__ import annotations

import re
from dataclasses import asdict
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.report.drawing import Reference, Series, bar_chart, line_chart
from privfed_dpo.report.figures import report_figures
from tests.support.run_folder import metrics_rows, plan_facts

SVG = "{http://www.w3.org/2000/svg}"


def elements(svg):
    return ET.fromstring(svg)  # noqa: S314 - made by the code under test


def data_paths(svg, line):
    """Path data drawn in the colour of a line, inside the axes (the legend is outside)."""
    axes = next(
        group for group in elements(svg).iter(f"{SVG}g") if group.get("id", "").endswith("axes_1")
    )
    return [
        path.get("d")
        for path in axes.iter(f"{SVG}path")
        if f"stroke: var(--line-{line})" in path.get("style", "") and path.get("clip-path")
    ]  # fmt: skip


def markers(svg, line):
    axes = next(
        group for group in elements(svg).iter(f"{SVG}g") if group.get("id", "").endswith("axes_1")
    )
    return [
        use for use in axes.iter(f"{SVG}use") if f"fill: var(--line-{line})" in use.get("style", "")
    ]  # fmt: skip


def chart(values, **options):
    return line_chart("c", range(len(values)), [Series("a", values)], unit="nats", **options)


def test_a_gap_breaks_the_line():
    whole = data_paths(chart([1.0, 2.0, 3.0, 2.5, 1.0]), 1)
    broken = data_paths(chart([1.0, 2.0, None, 2.5, 1.0]), 1)
    assert [path.count("M") for path in whole] == [1]
    assert [path.count("M") for path in broken] == [2]


@settings(max_examples=30)
@given(st.lists(st.none() | st.floats(-100, 100), min_size=1, max_size=40).filter(any))
def test_there_is_one_marker_for_each_measured_value_and_no_more(values):
    measured = sum(value is not None for value in values)
    assert len(markers(chart(values), 1)) == measured


def test_in_a_long_chart_points_between_gaps_are_still_visible():
    values = [1.0 if index % 5 == 0 else None for index in range(100)]
    assert len(markers(chart(values), 1)) == 20
    assert markers(chart([1.0] * 100), 1) == []


def test_a_series_that_was_never_measured_is_not_in_the_legend():
    series = [Series("here", [1.0, 2.0]), Series("absent", [None, None]), Series("too", [2.0, 1.0])]
    svg = line_chart("c", [0, 1], series, unit="nats")
    text = "".join(elements(svg).itertext())
    assert "here" in text
    assert "too" in text
    assert "absent" not in text


def test_lines_differ_in_dash_and_marker_and_not_only_in_colour():
    series = [Series(name, [1.0, 2.0]) for name in "abc"]
    svg = line_chart("c", [0, 1], series, unit="nats")
    styles = [
        re.findall(rf'stroke-dasharray: ([^;"]+)[^"]*stroke: var\(--line-{line}\)', svg)[:1]
        for line in (1, 2, 3)
    ]
    assert styles[0] == []
    assert styles[1] != styles[2]
    shapes = {
        marker.get("{http://www.w3.org/1999/xlink}href")
        for n in (1, 2, 3)
        for marker in markers(svg, n)
    }
    assert len(shapes) == 3  # fmt: skip


def test_charts_follow_the_theme_and_carry_text():
    svg = chart([1.0, 2.0], references=(Reference("chance", 0.5),), marked_rounds=[1])
    assert not re.findall(r"#[0-9a-f]{6}", svg)
    assert "var(--ink)" in svg
    assert "var(--grid)" in svg
    root = elements(svg)
    assert root.get("viewBox")
    assert root.get("width") is None
    assert root.get("height") is None
    text = " ".join("".join(root.itertext()).split())
    for part in ("round", "nats", "chance", "aborted"):
        assert part in text
    assert "DejaVu" not in svg


@pytest.mark.parametrize("options", [{"logarithmic": True}, {"from_zero": True}, {}])
def test_the_same_values_give_the_same_bytes(options):
    assert chart([1.0, 20.0, 3.0], **options) == chart([1.0, 20.0, 3.0], **options)


def test_logarithmic_ticks_are_plain_numbers():
    svg = chart([0.02, 0.01, 0.0021], logarithmic=True)
    assert "0.005" in "".join(elements(svg).itertext())


def test_bars_are_as_many_as_clients():
    svg = bar_chart("b", [0.5, 0.75, 0.9], unit="share", x_label="clients")
    bars = [
        path for path in elements(svg).iter(f"{SVG}path")
        if "fill: var(--line-1)" in path.get("style", "")
    ]  # fmt: skip
    assert len(bars) == 3
    assert "80 %" in "".join(elements(svg).itertext())


def titles(rows, plan=None, per_client=None):
    return [figure.title for figure in report_figures(rows, plan or {}, per_client)]


def test_no_rows_no_charts():
    assert report_figures((), plan_facts(), {"a": 0.5}) == ()


def test_only_what_was_measured_is_drawn():
    bare = [{"round": number, "status": "released", "loss": 0.6} for number in range(3)]
    assert titles(bare) == ["Held-out loss"]
    assert titles(bare, per_client={"a": None}) == ["Held-out loss"]
    assert titles(bare, per_client={"a": 0.5, "b": None}) == ["Held-out loss", "Accuracy by client"]
    rows = [asdict(row) | {"drift": 0.1} for row in metrics_rows(3)]
    assert "Client drift" in titles(rows)


def test_a_missing_round_is_a_gap_and_not_a_bridge():
    rows = [
        {"round": number, "status": "released", "loss": 0.6 - number / 100}
        for number in (0, 1, 3, 4)
    ]
    (figure,) = report_figures(rows, {}, None)
    assert [path.count("M") for path in data_paths(figure.svg, 1)] == [2]


def test_budget_threshold_and_aborted_rounds_are_marked():
    rows = [asdict(row) for row in metrics_rows(10, aborted=(4,))]
    figures = {figure.title: figure.svg for figure in report_figures(rows, plan_facts(10), None)}
    assert "budget" in "".join(elements(figures["Privacy spent"]).itertext())
    survivors = "".join(elements(figures["Survivors of each round"]).itertext())
    assert "threshold" in survivors
    assert "aborted" in survivors
    calm = [asdict(row) for row in metrics_rows(10, aborted=())]
    without = {figure.title: figure.svg for figure in report_figures(calm, {}, None)}
    text = "".join(elements(without["Survivors of each round"]).itertext())
    assert "threshold" not in text
    assert "aborted" not in text


def test_a_zero_gradient_norm_keeps_a_linear_axis():
    rows = [
        {"round": n, "status": "released", "grad_norm_sq": value}
        for n, value in enumerate((0.1, 0.0))
    ]
    (figure,) = report_figures(rows, {}, None)
    assert len(markers(figure.svg, 1)) == 2
