"""The run folder survives crashes, repeats and numbers JSON cannot hold."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import pytest

from privfed_dpo.engine.events import (
    MetricsRow,
    PhaseClosed,
    PlanReady,
    RoundFinished,
    RoundStarted,
    RunFinished,
)
from privfed_dpo.errors import DataError
from privfed_dpo.observe.environment import PACKAGES, environment_facts
from privfed_dpo.observe.recorder import RunRecorder
from privfed_dpo.observe.run_folder import read_json, read_rows, write_text_atomic
from tests.support.run_folder import metrics_rows, plan_facts, summary_facts

ROWS = metrics_rows(4, aborted=(2,))


def played(path, rows=ROWS):
    recorder = RunRecorder(path)
    recorder(PlanReady(plan_facts(4)))
    for row in rows:
        recorder(RoundStarted(row.round, 4, 16))
        recorder(PhaseClosed(row.round, "MaskedInput", 15, 1))
        recorder(RoundFinished(row))
    recorder(RunFinished(summary_facts(rows)))
    return path


def test_events_become_files_that_read_back(tmp_path):
    folder = played(tmp_path / "deep" / "run")
    assert read_json(folder / "plan.json") == plan_facts(4)
    assert read_rows(folder / "metrics.jsonl") == tuple(asdict(row) for row in ROWS)
    assert read_json(folder / "summary.json") == summary_facts(ROWS)
    assert sorted(file.name for file in folder.iterdir()) == [
        "metrics.jsonl", "plan.json", "summary.json",
    ]  # fmt: skip


def test_a_row_is_one_line_with_every_field_and_null_for_what_was_not_measured(tmp_path):
    recorder = RunRecorder(tmp_path)
    recorder(RoundFinished(MetricsRow(round=1, status="aborted", dropped={"ShareKeys": 5})))
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert set(row) == {field.name for field in fields(MetricsRow)}
    measured = {"round": 1, "status": "aborted", "dropped": {"ShareKeys": 5}}
    assert row == dict.fromkeys(row, None) | measured


def test_rows_are_on_the_disk_before_the_engine_goes_on(tmp_path):
    recorder = RunRecorder(tmp_path)
    for row in ROWS:
        recorder(RoundFinished(row))
        assert read_rows(tmp_path / "metrics.jsonl")[-1] == asdict(row)


def test_a_last_row_that_is_measured_late_takes_its_place(tmp_path):
    for row in (*ROWS[:3], replace(ROWS[2], loss=0.25)):
        RunRecorder(tmp_path)(RoundFinished(row))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert [row["loss"] for row in read_rows(tmp_path / "metrics.jsonl")][-1] == 0.25


def test_numbers_without_a_json_form_become_null(tmp_path):
    recorder = RunRecorder(tmp_path)
    recorder(RoundFinished(replace(ROWS[1], loss=float("nan"), kl=float("inf"))))
    recorder(RunFinished({"epsilon": {"server": {"pld": float("inf")}}, "list": [float("-inf")]}))
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert (row["loss"], row["kl"], row["reward_margin"]) == (None, None, ROWS[1].reward_margin)
    summary = read_json(tmp_path / "summary.json")
    assert summary == {"epsilon": {"server": {"pld": None}}, "list": [None]}


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_cut_short_by_a_crash_is_dropped_and_the_next_row_is_whole(tmp_path, cut):
    played(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [row["round"] for row in read_rows(path)] == [0, 1, 2, 3]
    RunRecorder(tmp_path)(RoundFinished(ROWS[4]))
    assert read_rows(path) == tuple(asdict(row) for row in ROWS)


def test_restore_makes_the_file_agree_with_the_checkpoint(tmp_path):
    played(tmp_path)
    recorder = RunRecorder(tmp_path)
    recorder.restore(ROWS[:3])
    recorder(RoundFinished(replace(ROWS[3], status="lost")))
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert rows[3]["status"] == "lost"


def test_of_two_rows_for_one_round_the_last_counts(tmp_path):
    played(tmp_path, rows=(*ROWS, replace(ROWS[2], loss=0.1)))
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["round"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[2]["loss"] == 0.1


@pytest.mark.parametrize("line", ["{not json}", "[1]", '{"loss": 1}', "7"])
def test_a_whole_line_that_is_no_row_is_an_error(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"round": 0}}\n{line}\n')
    with pytest.raises(DataError, match="line 2 is not a metrics row"):
        read_rows(path)


def test_missing_files_are_empty_and_broken_ones_are_errors(tmp_path):
    assert read_rows(tmp_path / "metrics.jsonl") == ()
    assert read_json(tmp_path / "summary.json") == {}
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(DataError, match="not a JSON object"):
        read_json(tmp_path / "list.json")
    (tmp_path / "torn.json").write_text('{"a":')
    with pytest.raises(DataError, match="not JSON"):
        read_json(tmp_path / "torn.json")


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_text_atomic(path, "old")

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"


def test_the_environment_names_versions_but_no_host_or_user(monkeypatch):
    monkeypatch.setenv("USER", "somebody-private")
    monkeypatch.setattr("platform.node", lambda: "host-private")
    facts = environment_facts()
    assert set(facts["versions"]) == set(PACKAGES)
    assert facts["versions"]["torch"]
    assert "private" not in json.dumps(facts)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr("privfed_dpo.observe.environment.PACKAGES", ("no-such-package",))
    facts = environment_facts()
    assert facts["versions"] == {"no-such-package": None}
