"""What the files of a run folder claim beyond its ledger, and what an unclosed ledger vouches for."""

import json
import shutil

import pytest

from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.engine.public_facts import digest
from privfed_dpo.enrolment import Enrolment
from privfed_dpo.lifecycle import KEYS_FILE, train
from privfed_dpo.verification import verify_run
from tests.support import forged_ledgers as forge
from tests.support.tiny_run import tiny_config

NESTED = "[" * 100_000 + "]" * 100_000
ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    home = tmp_path_factory.mktemp("claims")

    def steal(event):
        if isinstance(event, RoundFinished):
            shutil.copy(home / "run" / "checkpoint" / KEYS_FILE, home / "stolen")

    train(tiny_config(home / "run"), observers=[steal])
    return home


@pytest.fixture(scope="module")
def keys(finished):
    return Enrolment.load(finished / "stolen", 6)


@pytest.fixture
def folder(finished, tmp_path):
    ignored = shutil.ignore_patterns("base")
    return shutil.copytree(finished / "run", tmp_path / "run", ignore=ignored)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_rows(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def edit_row(number, **changes):
    def edit(folder, keys):
        rows = rows_of(folder)
        rows[number].update(changes)
        write_rows(folder, rows)

    return edit


def keep_lines(folder, count):
    forge.write_lines(folder, forge.lines_of(folder)[:count])
    (folder / "summary.json").unlink()


def abort_round_2(lines):
    lines[4]["body"]["status"] = "aborted"


def without_receipts(lines):
    lines[0]["body"]["extra"]["secure_aggregation"] = False
    for line in lines[2:7:2]:
        line["body"]["receipts"] = {}


def in_clear(folder, keys):
    """The plan itself says that nobody signs receipts, and the ledger is written anew over it."""
    plan = json.loads((folder / "plan.json").read_text()) | {"secure_aggregation": False}
    (folder / "plan.json").write_text(json.dumps(plan))
    lines = forge.lines_of(folder)
    without_receipts(lines)
    lines[0]["body"]["plan_hash"] = digest(plan)
    forge.write_lines(folder, forge.rechained(lines, keys))


CLAIMS = {
    "rounds the ledger forgot": (
        forge.edit_lines(forge.without_round_2, chain=True),
        "metrics.jsonl tells of round 2, which the ledger never booked",
        "summary.json claims 3 released rounds; the ledger shows 2",
    ),
    "a round the ledger calls aborted": (
        forge.edit_lines(abort_round_2, chain=True),
        "metrics.jsonl calls round 2 released, the ledger does not",
        "summary.json claims 3 released rounds; the ledger shows 2",
    ),
    "an epsilon that falls": (
        edit_row(1, epsilon=100.0),
        "in round 2, less than before it",
        "in round 3, less than before it",
    ),
    "an epsilon that is no number": (
        edit_row(3, epsilon="little"),
        "metrics.jsonl has epsilon little in round 3",
        "metrics.jsonl ends with epsilon little",
    ),
    "a round that is no number": (
        edit_row(3, round=3.5),
        "metrics.jsonl cannot be read",
        "no object with the number of a round",
    ),
    "more rounds in the summary": (
        forge.edit_json("summary.json", lambda s: s.update(rounds_done=4)),
        "summary.json claims 4 released rounds; the ledger shows 3",
    ),
    "an epsilon in the summary that is no number": (
        forge.edit_json("summary.json", lambda s: s["epsilon"]["server"].update(pld="little")),
        "summary.json claims epsilon little (PLD) against server",
    ),
    "receipts that nobody is to ask for": (
        forge.edit_lines(without_receipts, chain=True),
        "the header of the ledger and plan.json disagree about secure_aggregation",
        "line 2: 0 clients signed for round 1, 5 needed",
        "line 6: 0 clients signed for round 3, 5 needed",
    ),
    "a plan without receipts": (
        in_clear,
        "plan.json takes sums in clear, where the noise of mode distributed is too small",
    ),
}

UNREADABLE = {
    "NaN in the plan": (
        forge.edit_json("plan.json", lambda plan: plan.update(delta=float("nan"))),
        "plan.json is not the one this ledger was started with",
    ),
    "a plan with a number without bounds": (
        forge.edit_bytes("plan.json", lambda _: b'{"delta": 1e999}'),
        "plan.json is not the one this ledger was started with",
    ),
    "NaN in a row": (edit_row(3, epsilon=float("nan")), "metrics.jsonl cannot be read"),
    "NaN in the summary": (
        forge.edit_json("summary.json", lambda s: s["epsilon"]["server"].update(pld=float("nan"))),
        "summary.json cannot be read",
    ),
    "a plan nested without end": (
        forge.edit_bytes("plan.json", lambda _: NESTED.encode()),
        "plan.json is not the one this ledger was started with",
    ),
    "a summary nested without end": (
        forge.edit_bytes("summary.json", lambda _: b'{"samples": %b}' % NESTED.encode()),
        "summary.json cannot be read",
    ),
    "a row nested without end": (
        forge.edit_bytes("metrics.jsonl", lambda rows: rows + NESTED.encode() + b"\n"),
        "metrics.jsonl cannot be read",
    ),
    "rounds that cannot be put in order": (edit_row(3, round="3"), "metrics.jsonl cannot be read"),
    "a row that is no text": (
        forge.edit_bytes("metrics.jsonl", lambda rows: rows + b"\xff\n"),
        "metrics.jsonl cannot be read",
    ),
    "an infinite budget in the ledger": (
        forge.edit_lines(
            forge.set_header(budget={"delta": 1e-5, "epsilon": None}),
            chain=True,
        ),
        "disagree about target_epsilon",
    ),
    "an epsilon of four hundred digits": (
        edit_row(2, epsilon=10**400),
        "in round 3, less than before it",
    ),
}


@pytest.mark.parametrize("name", CLAIMS | UNREADABLE)
def test_a_claim_beyond_the_ledger_is_a_problem_and_never_a_crash(folder, keys, name):
    tamper, *sentences = (CLAIMS | UNREADABLE)[name]
    tamper(folder, keys)
    verdict = verify_run(folder)
    assert not verdict.ok
    for sentence in sentences:
        assert any(sentence in problem for problem in verdict.problems), verdict.as_text()


def test_a_round_released_and_lost_in_a_crash_is_in_order(folder, keys):
    """The sum was opened and booked, but the process died before its checkpoint."""
    edit_row(2, status="lost", survivors=None)(folder, keys)
    summary = json.loads((folder / "summary.json").read_text()) | {"rounds_done": 2}
    forge.close_over(folder, forge.lines_of(folder), summary, keys)
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems


def test_a_cut_ledger_beside_a_foreign_adapter_is_not_verified(folder):
    keep_lines(folder, 3)
    (folder / ADAPTER).write_bytes(b"another")
    verdict = verify_run(folder)
    assert "metrics.jsonl tells of round 2, which the ledger never booked" in verdict.problems
    assert verdict.as_text().endswith("NOT verified")


@pytest.mark.parametrize("lines", [3, 7], ids=["rows cut too", "died while ending"])
def test_nothing_vouches_for_results_beside_an_unclosed_ledger(folder, lines):
    """A run that dies between its adapter and the close looks like this, and can be resumed."""
    rounds = (lines - 1) // 2
    keep_lines(folder, lines)
    write_rows(folder, rows_of(folder)[: rounds + 1])
    (folder / ADAPTER).write_bytes(b"another")
    verdict = verify_run(folder)
    assert (verdict.ok, verdict.finished, verdict.rounds) == (True, False, rounds)
    assert verdict.as_dict()["finished"] is False
    assert "nothing vouches for adapter before the ledger is closed" in verdict.notes
    assert "nothing vouches for report.html before the ledger is closed" in verdict.notes
    assert verdict.as_text().endswith("no results of this run are vouched for")


def test_rows_may_lag_behind_an_unclosed_ledger_but_not_understate(folder):
    """Killed after a round's lines and before its row."""
    keep_lines(folder, 6)
    rows = rows_of(folder)[:3]
    write_rows(folder, rows)
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    rows[2]["epsilon"] = rows[1]["epsilon"]
    write_rows(folder, rows)
    (problem,) = verify_run(folder).problems
    assert problem.startswith(f"metrics.jsonl ends with epsilon {rows[1]['epsilon']}; the ledger")
