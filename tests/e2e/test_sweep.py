"""Two real runs as a sweep: interrupted in the middle of one, then finished by the command."""

import csv
import json

import pytest

from privfed_dpo import lifecycle
from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.sweep.conduct import prepare
from privfed_dpo.sweep.execution import train_run
from privfed_dpo.sweep.store import Address
from privfed_dpo.sweep.sweep_file import load_sweep
from privfed_dpo.sweep.worker import work
from privfed_dpo.verification import verify_run
from tests.support.command_line import caller
from tests.support.tiny_run import TINY

# Given noise saves the calibration.
SWEEP = """
base: tiny.yaml
set: {evaluation.audit_lanes: 40}
grid: {privacy.noise_multiplier: [1.0, 2.0]}
seeds: [3]
"""


@pytest.fixture
def call(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


def interrupted_in_round_2(job, observers):
    def stop(event):
        if isinstance(event, RoundFinished) and event.row.round == 2:
            raise KeyboardInterrupt

    train_run(job, [*observers, stop])


def write_files(folder, text=SWEEP):
    (folder / "tiny.yaml").write_text(TINY.replace("target_epsilon: 8", "delta: 1.0e-5"))
    (folder / "sweep.yaml").write_text(text)
    return folder / "sweep.yaml"


def test_interrupted_then_finished_by_the_command(tmp_path, call):
    file, folder = write_files(tmp_path), tmp_path / "sweep"
    store = prepare(load_sweep(file), Address(folder), lifecycle.plan, str)
    with pytest.raises(KeyboardInterrupt):
        work(store, interrupted_in_round_2, str)

    done = call("sweep", file, "--dir", folder)

    assert done.code == 0, done.err
    assert "2 runs, 0 of them done" in done.out
    assert "picked as the best of 2 private runs" in done.out
    with (folder / "results.csv").open() as text:
        rows = list(csv.DictReader(text))
    assert [row["status"] for row in rows] == ["finished", "finished"]
    assert [row["privacy.noise_multiplier"] for row in rows] == ["1.0", "2.0"]
    assert float(rows[0]["epsilon_coalition_pld"]) > float(rows[1]["epsilon_coalition_pld"]) > 0
    # What an audit finds is chance: a bound at 95 % may exceed the claim.
    assert all(row["audit_verdict"] in {"pass", "warn", "fail"} for row in rows)
    runs = [folder / row["run_folder"] for row in rows]
    assert sorted(path.name for path in (folder / "runs").iterdir()) == sorted(
        run.name for run in runs
    )
    for run in runs:
        assert verify_run(run).ok
        assert (run / "report.html").is_file()
    begun = [
        line for line in (runs[0] / "ledger.jsonl").read_text().splitlines() if "spend" in line
    ]
    assert len(begun) == 3, "the interrupted run went on after its second round"
    assert len(list((folder / "cache" / "warmup").glob("*.safetensors"))) == 1

    price = json.loads((folder / "summary.json").read_text())["price_of_selection"]
    assert price["private_runs"] == 2
    both = price["views"]["coalition"]["all_runs"]["pld"]
    assert both > float(rows[0]["epsilon_coalition_pld"])
    assert "The price of selection" in (folder / "report.html").read_text()

    again = call("sweep", file, "--dir", folder)
    assert "2 runs, 2 of them done" in again.out


def test_a_bad_value_is_told_before_anything_runs(tmp_path, call):
    file = write_files(tmp_path, SWEEP + "objective: accuracy\n")
    call("sweep", file, "--dir", tmp_path / "s").refused("objective", "not 'accuracy'")
    file = write_files(tmp_path, SWEEP.replace("2.0", "-2.0"))
    call("sweep", file, "--dir", tmp_path / "s").refused(
        "privacy.noise_multiplier", "greater than 0"
    )
    file = write_files(tmp_path, SWEEP + "references: {crowd: {privacy.dropout_tolerance: 5}}\n")
    call("sweep", file, "--dir", tmp_path / "s").refused(
        "(run crowd_seed-3)", "dropout_tolerance=5"
    )
    assert not (tmp_path / "s").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path, call):
    file = write_files(tmp_path)
    call("sweep", file, "--dir", tmp_path).refused("is not empty and holds no sweep")
