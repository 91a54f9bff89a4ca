"""Data at the edge of what is possible: refused before anything is spent, or trained on."""

import json

import pytest

from tests.support import preference_files as files
from tests.support.command_line import assert_nothing_spent, caller, own_data, write_inputs

ROWS = files.preference_rows(users=5, per_user=4)
DEALT = ("data.partition=iid",)


@pytest.fixture
def run(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("edges"))


@pytest.fixture
def train(run, home, tmp_path):
    """Train on rows; the run folder is `folder` below the test's own."""

    def on(rows, *overrides):
        path = files.write_jsonl(tmp_path / "rows.jsonl", rows)
        told = own_data(home, f"data.train={path}", *overrides)
        return run("train", *told, "--run-dir", tmp_path / "run")

    return on


REFUSED = {
    "missing column": (
        files.without(ROWS, "chosen"),
        (),
        ("column 'chosen' is missing (columns present: prompt, rejected", "and 15 more"),
    ),
    "nobody named": (
        files.without(ROWS, "user"),
        (),
        ("20 of 20 pairs have no 'user'", "data.columns.user", "'iid'"),
    ),
    "empty file": ([], (), ("no rows", "at least one preference pair")),
    "empty name of a client": (
        [{**ROWS[0], "user": " "}, *ROWS[1:]],
        (),
        ("row 1: column 'user' is empty",),
    ),
    "clients without a pair": (
        ROWS,
        (*DEALT, "data.clients=30"),
        ("20 pairs cannot be dealt to 30 clients with 1 each", "fewer clients"),
    ),
    "clients below the floor": (
        ROWS,
        ("data.min_pairs=5",),
        ("no client has the minimum of 5 pairs", "Lower the floor"),
    ),
    "chosen is rejected": (
        [*ROWS, {**ROWS[0], "rejected": f"{ROWS[0]['chosen']} "}],
        (),
        ("1 of 21 rows cannot be used", "row 21: chosen and rejected are the same"),
    ),
    "a pair twice": (
        [*ROWS, ROWS[7]],
        (),
        (
            "records stand more than once in the training data: 1 in all, one of them 2 times",
            "Remove repeated rows",
            "privacy.record_copies=2",
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_data_that_cannot_be_used_cost_nothing(train, tmp_path, case):
    rows, overrides, said = REFUSED[case]
    train(rows, *overrides).refused(*said)
    assert_nothing_spent(tmp_path / "run")


def test_held_out_pairs_that_are_trained_on_cost_nothing(train, tmp_path):
    copied = files.write_jsonl(tmp_path / "eval.jsonl", files.without(ROWS[:3], "user"))
    train(ROWS, f"data.eval={copied}").refused(
        "3 of 3 held-out pairs stand in data.train too", "Take them out of data.eval"
    )
    assert_nothing_spent(tmp_path / "run")


def test_without_privacy_held_out_pairs_that_are_trained_on_are_a_note(train, tmp_path):
    copied = files.write_jsonl(tmp_path / "eval.jsonl", ROWS[:3])
    unprotected = ("privacy.mode=none", "privacy.noise_multiplier=null")
    ended = train(ROWS, f"data.eval={copied}", *unprotected).succeeded()
    assert "note: 3 of 3 held-out pairs stand in data.train too" in " ".join(ended.err.split())


def test_one_pair_per_client_is_enough(train, run, tmp_path):
    rows = files.preference_rows(users=5, per_user=1)
    ended = train(rows, "evaluation.audit_held_back=1").succeeded()
    assert "5 clients, 5 pairs" in ended.out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    run("verify", tmp_path / "run").succeeded()


def test_who_is_left_out_is_said_once_by_plan_and_by_train(train, run, tmp_path):
    small = [{**row, "user": f"small-{row['user']}", "prompt": "And now?"} for row in ROWS[:8:4]]
    rows = [*ROWS, *small]
    ended = train(rows, "data.min_pairs=4").succeeded()
    assert ended.err.count("note: 2 of 7 clients are left out") == 1
    planned = run("plan", tmp_path / "run" / "config.yaml").succeeded()
    assert "note: 2 of 7 clients are left out" in planned.err


def long_prompts(rows):
    return [{**row, "prompt": f"{row['prompt']} " * 40} for row in rows]


def test_prompts_longer_than_the_window_are_cut_and_it_is_said(train, run, tmp_path):
    held_out = long_prompts(files.preference_rows(users=2, per_user=3, seed=2))
    path = files.write_jsonl(tmp_path / "eval.jsonl", [*held_out, ROWS[0]])
    ended = train(long_prompts(ROWS), f"data.eval={path}", "data.max_length=4096").succeeded()
    said = " ".join(ended.err.split())
    assert "note: 6 of 7 held-out pairs fill the whole window of 128 tokens" in said
    assert "prompts first and on the left" in said
    assert "data.max_length" in said
    assert "equal answers" not in said
    run("verify", tmp_path / "run").succeeded()


def test_answers_that_a_window_makes_equal_are_counted(train, tmp_path):
    alike = [
        {**row, "chosen": " so" * 60 + row["chosen"], "rejected": " so" * 60 + row["rejected"]}
        for row in files.preference_rows(users=2, per_user=3, seed=1)
    ]
    path = files.write_jsonl(tmp_path / "eval.jsonl", alike)
    ended = train(ROWS, f"data.eval={path}", "data.max_length=16").succeeded()
    assert "6 of them end with two equal answers" in " ".join(ended.err.split())
