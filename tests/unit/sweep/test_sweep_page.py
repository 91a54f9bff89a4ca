"""The report of a sweep: what it draws, the tables behind it, and that it stands alone."""

import html
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from privfed_dpo.report.standalone import standalone_svg
from privfed_dpo.sweep.figures import sweep_figures
from privfed_dpo.sweep.page import render_sweep_page
from privfed_dpo.sweep.price import selection_price
from privfed_dpo.sweep.records import RunState
from privfed_dpo.sweep.results import SweepResults, best_run
from tests.support.sweeps import ended

SWEPT = ("privacy.target_epsilon", "privacy.mode")


def results_of(runs, *, swept=SWEPT, objective="reward_accuracy", refused=()):
    best = best_run(runs, objective)
    return SweepResults(
        name="mine",
        objective=objective,
        swept=swept,
        runs=tuple(runs),
        all_runs=tuple(runs),
        refused=refused,
        best=best,
        price=selection_price(runs, best),
    )


def page_of(results):
    return render_sweep_page(results, sweep_figures(results))


def grid(**facts):
    runs = [
        ended(f"{mode}-{epsilon}-{seed}", 0.7 + 0.02 * epsilon + 0.01 * seed, epsilon=epsilon,
              seed=seed, mode=mode, **facts)
        for mode in ("distributed", "local")
        for epsilon in (1.0, 2.0, 8.0)
        for seed in (0, 1)
    ]  # fmt: skip
    free = [ended(f"free-{seed}", 0.95, epsilon=None, seed=seed) for seed in (0, 1)]
    return [*runs, *free, ended("ref-0", 0.6, epsilon=None, label="alone")]


def by_title(figures):
    return {figure.title: figure for figure in figures}


def test_utility_is_drawn_with_its_spread_and_its_lines_to_compare_with():
    figures = by_title(sweep_figures(results_of(grid())))
    assert list(figures) == ["Held-out accuracy against epsilon", "Pareto front"]
    utility = figures["Held-out accuracy against epsilon"]
    for label in (">distributed<", ">local<", "no privacy, distributed", ">alone<"):
        assert label in utility.svg
    assert len(utility.rows) == 6 + 2
    first = dict(zip(utility.heads, utility.rows[0], strict=True))
    assert first == {
        "setting": "epsilon 1.0, distributed",
        "epsilon": "1.000",
        "each seed": "72.0 %, 73.0 %",
        "mean": "72.5 %",
        "lowest": "72.0 %",
        "highest": "73.0 %",
    }


def test_what_clients_reach_alone_is_a_line_of_its_own_drawn_once_for_shared_runs():
    runs = grid()
    alone = [
        replace(run, result={**run.result, "local_only_accuracy": 0.6 + 0.02 * run.seed})
        if run.name.startswith("free")
        else run
        for run in runs
    ]
    utility = sweep_figures(results_of(alone))[0]
    assert ">each client alone, no privacy<" in utility.svg
    assert utility.rows[-1][1:] == ("none", "60.0 %, 62.0 %", "61.0 %", "60.0 %", "62.0 %")
    assert "alone, no privacy" not in sweep_figures(results_of(runs))[0].svg
    assert "alone, no privacy" not in sweep_figures(results_of(alone, objective="loss"))[0].svg


def test_a_chart_of_its_own_knows_its_colours_and_loads_nothing():
    figure = sweep_figures(results_of(grid()))[0]
    chart = standalone_svg(figure.svg, figure.title)
    ET.fromstring(chart)  # noqa: S314 - our own file
    used = set(re.findall(r"var\((--[\w-]+)\)", chart))
    assert used
    assert used <= set(re.findall(r"(--[\w-]+):", chart))
    assert "prefers-color-scheme: dark" in chart
    assert "http" not in chart.replace("http://www.w3.org/", "")


def test_the_front_table_says_who_is_on_it():
    front = by_title(sweep_figures(results_of(grid())))["Pareto front"]
    assert {row[-1] for row in front.rows} == {"yes"}
    worse = [replace(run, result={**run.result, "reward_accuracy": 0.1}) if "local" in run.name
             else run for run in grid()]  # fmt: skip
    front = by_title(sweep_figures(results_of(worse)))["Pareto front"]
    assert [row[-1] for row in front.rows] == ["yes", "yes", "yes", "no", "no", "no"]


def test_audits_stand_beside_the_claim():
    figures = by_title(sweep_figures(results_of(grid(audit_epsilon=0.5, audit_verdict="pass"))))
    audit = figures["Empirical audit beside the claim"]
    assert len(audit.rows) == 12
    assert audit.rows[0][1:] == ("0.500", "1.000", "pass")
    assert ">claim<" in audit.svg


def test_other_numeric_keys_are_drawn_against_their_values():
    runs = [
        replace(ended(f"r{rounds}", 0.7 + rounds / 100), cells=({"federation.rounds": rounds},))
        for rounds in (1, 10, 20)
    ]
    figures = by_title(sweep_figures(results_of(runs, swept=("federation.rounds",))))
    assert "Held-out accuracy against federation.rounds" in figures


def test_more_lines_than_colours_stay_in_the_table():
    runs = [
        replace(ended(f"r{n}", 0.7), cells=({"data.train": f"set{n}"},), key=f"r{n}")
        for n in range(9)
    ]
    utility = sweep_figures(results_of(runs, swept=("data.train",)))[0]
    assert "3 more lines" in utility.caption
    assert len(utility.rows) == 9


@pytest.mark.parametrize("objective", ["reward_margin", "loss", "kl"])
def test_any_objective_can_be_drawn(objective):
    assert page_of(results_of(grid(), objective=objective))


def test_every_figure_has_its_table_and_the_page_stands_alone():
    page = page_of(results_of(grid(audit_epsilon=0.5, audit_verdict="pass")))
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(figures) == 3
    assert all("<table" in figure and "<svg" in figure for figure in figures)
    outside = re.findall(r'(?:src|href)="(?!#)([^"]*)"|url\((?!#)', page)
    assert not outside
    assert "<script" not in page
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_the_price_and_the_alarm_are_on_the_page():
    page = page_of(results_of(grid()))
    price = results_of(grid()).price
    assert price.sentence in html.unescape(page)
    assert "added no noise" in page
    private = page_of(results_of(grid()[:12]))
    assert "added no noise" not in private


def test_text_of_runs_is_escaped():
    bad = ended("<b>", None, status="failed", exit_code=1, reason="<script>alert(1)</script>")
    refused = ({"name": "<i>", "reason": "<u>"},)
    cell = {"data.train": "<img>"}
    odd = replace(ended("odd", 0.5), cells=(cell,))
    page = page_of(results_of([bad, odd], swept=("data.train",), refused=refused))
    for raw in ("<b>", "<script>", "<i>", "<u>", "<img>"):
        assert raw not in page
    assert "&lt;script&gt;alert(1)" in page


def test_an_empty_sweep_has_a_page():
    waiting = replace(ended("w", None), state=RunState.WAITING, result=None, attempts=())
    page = page_of(results_of([waiting]))
    assert "unfinished" in page
    assert "nothing to draw" in page


def test_a_sweep_without_privacy_shows_what_its_settings_reached():
    runs = [ended(f"free-{seed}", 0.9 + seed / 50, epsilon=None, seed=seed) for seed in (0, 1)]
    results = results_of(runs, swept=("federation.rounds",))
    assert sweep_figures(results) == ()
    page = page_of(results)
    assert "nothing to draw" not in page
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "none 90.0 %, 92.0 % 91.0 % 90.0 % 92.0 %" in words
    assert "best held-out accuracy, private –" in words
    assert "its own epsilon –" in words, "no run is no run without a bound"
    assert "added no noise" in words
