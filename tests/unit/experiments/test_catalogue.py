"""Every experiment runs, is written down, and on a small scale the laws already show."""

import json
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from experiments import setting
from experiments.__main__ import main
from experiments.catalogue import EXPERIMENTS
from experiments.e02_drift import drift_floor
from experiments.e06_topology import settled_consensus
from experiments.figures import draw
from experiments.findings import Effort
from experiments.fitting import log_slope
from experiments.graphs import mixing_matrices
from experiments.simulate import GossipRun
from experiments.table import BEGIN, END, put_table, record, rows
from tests.architecture.documents import ROOT, text_of

KEYS = [experiment.key for experiment in EXPERIMENTS]
SMALL = Effort(seeds=2, share=0.02)


def test_keys_are_unique_and_every_key_is_in_the_page():
    assert len(set(KEYS)) == len(KEYS)
    page = text_of("docs/paper.md")
    for experiment in EXPERIMENTS:
        assert f"\n| {experiment.key} |" in page, experiment.key
        assert f"figures/{experiment.key.lower()}.svg" in page, experiment.key


QUICK = [experiment for experiment in EXPERIMENTS if not experiment.long]


@pytest.mark.parametrize("experiment", QUICK, ids=lambda experiment: experiment.key)
def test_an_experiment_runs_and_is_written_down(experiment):
    outcome = experiment.run(SMALL)
    assert outcome.findings
    written = json.loads(json.dumps(record(experiment, outcome), allow_nan=False))
    assert written["key"] == experiment.key
    for finding, row in zip(outcome.findings, rows(experiment, outcome).splitlines(), strict=True):
        assert np.isfinite(finding.measured.mean)
        assert row.replace("\\|", "").count("|") == 8
    drawing = draw(outcome.chart, experiment.key)
    assert drawing == draw(outcome.chart, experiment.key)
    assert ET.fromstring(drawing).tag.endswith("svg")  # noqa: S314 - our own drawing
    assert "prefers-color-scheme:dark" in drawing
    assert "#01010" not in drawing


def test_the_exponents_show_in_one_small_run():
    """Drift over K - 1 and eta, consensus over eta; a neighbour's exponent is far away."""
    objective = setting.objective(3)
    by_steps = log_slope([1, 2, 4], [drift_floor(objective, 0.125, k) for k in (2, 3, 5)])
    by_rate = log_slope([0.125, 0.25], [drift_floor(objective, e, 2) for e in (0.125, 0.25)])
    ring = mixing_matrices(setting.CLIENTS)["ring"]
    errors = [
        settled_consensus(objective, ring, GossipRun(rate=rate, rounds=600, local_noise=1.0))
        for rate in (0.01, 0.03)
    ]
    for slope in (by_steps, by_rate, log_slope([0.01, 0.03], errors)):
        assert abs(slope - 2.0) < 0.2


def test_the_documented_table_has_no_unexpected_verdict():
    table = text_of("docs/paper.md").partition(BEGIN)[2].partition(END)[0]
    assert table.count("holds |") > 40
    assert "not as expected" not in table


def test_the_command_writes_results_and_figures(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n")
    options = ["--only", "E1", "--seeds", "2", "--out", str(tmp_path / "out"), "--page", str(page)]
    assert main([*options, "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| E1 |" in printed
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [e["key"] for e in results["experiments"]] == ["E1"]
    assert (tmp_path / "figures/e1.svg").is_file()
    text = page.read_text()
    assert "stale" not in text
    assert text.startswith("before")
    assert "| E1 |" in text


def test_an_unexpected_verdict_is_an_exit_code(tmp_path):
    """Twenty rounds settle nothing."""
    options = ["--only", "E5", "--seeds", "2", "--share", "0.01", "--out", str(tmp_path)]
    assert main([*options, "--processes", "1"]) == 1


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="no table between"):
        put_table("nothing here", "table")


@pytest.mark.slow
def test_the_whole_table_holds(tmp_path):
    """The command of `make experiments`; minutes."""
    assert (ROOT / "Makefile").is_file()
    assert main(["--out", str(tmp_path)]) == 0
