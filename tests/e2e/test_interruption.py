"""Killed at chosen moments, then resumed: nothing is forgotten, nothing random is used twice."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from privfed_dpo.config import dump_config
from privfed_dpo.coordination import alone_in
from privfed_dpo.engine.events import PhaseClosed, RoundFinished, RoundStarted
from privfed_dpo.enrolment import Enrolment
from privfed_dpo.errors import ConfigError, ResumeMismatch
from privfed_dpo.exclusive import sole_process
from privfed_dpo.lifecycle import KEYS_FILE, resume, train
from privfed_dpo.verification import verify_run
from tests.support import forged_ledgers as forge
from tests.support.tiny_run import tiny_config

KILLED_PROCESS = """
import os, signal, sys
from privfed_dpo.config import parse_config
from privfed_dpo.engine import events
from privfed_dpo.lifecycle import train

kind, round_number, phase = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def observer(event):
    if type(event).__name__ != kind:
        return
    number = event.row.round if kind == "RoundFinished" else event.round
    if number == round_number and getattr(event, "phase", "") == phase:
        os.kill(os.getpid(), signal.SIGKILL)

train(parse_config(sys.stdin.read()), observers=[observer])
"""


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def ledger_of(folder):
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def kill_at(config, kind, number, phase=""):
    process = subprocess.run(
        [sys.executable, "-c", KILLED_PROCESS, kind, str(number), phase],
        input=dump_config(config),
        text=True,
        capture_output=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.parametrize(
    ("kind", "number", "phase", "lost"),
    [
        ("PhaseClosed", 2, "Unmask", {2}),
        ("RoundFinished", 2, "", set()),
        ("RoundStarted", 1, "", {1}),
        pytest.param("RoundStarted", 2, "", {2}, marks=pytest.mark.slow),
        pytest.param("PhaseClosed", 2, "MaskedInput", {2}, marks=pytest.mark.slow),
        pytest.param("RoundFinished", 0, "", set(), marks=pytest.mark.slow),
    ],
)
def test_kill_9_then_resume(tmp_path, kind, number, phase, lost):
    folder = tmp_path / "run"
    kill_at(tiny_config(folder), kind, number, phase)
    before = [line for line in ledger_of(folder) if line["kind"] == "spend"]
    assert verify_run(folder).ok, "the ledger must be sound at the moment of death"
    resume(folder)
    lines = ledger_of(folder)
    spends = [line["body"]["round"] for line in lines if line["kind"] == "spend"]
    assert spends == [1, 2, 3], "every round is booked once, lost ones included"
    assert [line for line in lines if line["kind"] == "spend"][: len(before)] == before
    rows = rows_of(folder)
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert {row["round"] for row in rows if row["status"] == "lost"} == lost
    assert rows[-1]["epsilon"] <= 8
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    assert verdict.rounds == 3


class Stop:
    """An observer that behaves like Ctrl-C at one event."""

    def __init__(self, matches):
        self.matches = matches

    def __call__(self, event):
        if self.matches(event):
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "matches",
    [
        lambda e: isinstance(e, PhaseClosed) and (e.round, e.phase) == (2, "ShareKeys"),
        lambda e: isinstance(e, RoundFinished) and e.row.round == 1,
    ],
)
def test_ctrl_c_then_resume(tmp_path, matches):
    config = tiny_config(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(config, observers=[Stop(matches)])
    resume(tmp_path / "run")
    assert rows_of(tmp_path / "run")[-1]["round"] == 3
    assert verify_run(tmp_path / "run").ok


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(KeyboardInterrupt):
        train(
            tiny_config(folder),
            observers=[Stop(lambda e: isinstance(e, RoundStarted) and e.round == 2)],
        )
    return folder


def test_a_changed_config_is_refused(interrupted):
    path = interrupted / "config.yaml"
    original = path.read_text()
    try:
        path.write_text(original.replace("learning_rate: 0.005", "learning_rate: 0.5"))
        with pytest.raises(ResumeMismatch) as caught:
            resume(interrupted)
        assert "the plan" in str(caught.value)
        path.write_text(original.replace("every: 1", "every: 2"))
        with pytest.raises(ResumeMismatch, match=r"config\.yaml"):
            resume(interrupted)
    finally:
        path.write_text(original)


def test_changed_data_are_refused(interrupted):
    path = interrupted / "config.yaml"
    original = path.read_text()
    try:
        path.write_text(original.replace("eval_pairs: 24", "eval_pairs: 25"))
        with pytest.raises(ResumeMismatch, match="the data"):
            resume(interrupted)
    finally:
        path.write_text(original)


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory):
    """Stopped with two of three rounds released and saved."""
    folder = tmp_path_factory.mktemp("two-rounds") / "run"
    with pytest.raises(KeyboardInterrupt):
        train(
            tiny_config(folder),
            observers=[Stop(lambda e: isinstance(e, RoundFinished) and e.row.round == 2)],
        )
    return folder


def rewritten(folder):
    """As many rounds as before, signed by the coordinator, but not the lines the run wrote."""
    lines = forge.lines_of(folder)
    forge.drop_one_survivor(lines)
    keys = Enrolment.load(folder / "checkpoint" / KEYS_FILE, 6)
    forge.write_lines(folder, forge.rechained(lines, keys))


@pytest.mark.parametrize(
    ("tamper", "booked"),
    [
        (lambda folder: forge.write_lines(folder, forge.lines_of(folder)[:3]), 1),
        (lambda folder: forge.write_lines(folder, forge.lines_of(folder)[:1]), 0),
        (rewritten, 2),
    ],
    ids=["an older copy", "nothing but the header", "other lines"],
)
def test_a_ledger_that_forgot_what_was_released_is_not_resumed(
    two_rounds, tmp_path, tamper, booked
):
    """Or the rounds it lost would be missing from every epsilon of the run."""
    folder = shutil.copytree(two_rounds, tmp_path / "run")
    whole = (folder / "ledger.jsonl").read_bytes()
    tamper(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ResumeMismatch, match=f"whose last round is {booked}$") as caught:
        resume(folder)
    assert "Put the whole ledger.jsonl back" in caught.value.advice
    assert {path: path.read_bytes() for path in before} == before
    (folder / "ledger.jsonl").write_bytes(whole)
    resume(folder)
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    assert verdict.rounds == 3


def test_keys_of_an_unfinished_run_are_its_owners_alone(interrupted):
    (secret,) = interrupted.rglob("*secret*")
    assert secret.stat().st_mode & 0o077 == 0
    content = secret.read_bytes()
    try:
        secret.write_bytes(content[:-1])
        with pytest.raises(ResumeMismatch, match="key file"):
            resume(interrupted)
    finally:
        secret.write_bytes(content)


def test_a_folder_without_a_run_and_a_finished_run_are_refused(tmp_path, interrupted):
    with pytest.raises(ResumeMismatch, match="no such file"):
        resume(tmp_path)
    folder = tmp_path / "done"
    train(tiny_config(folder, "federation.rounds=1"))
    with pytest.raises(ConfigError, match="has ended with status finished"):
        resume(folder)


def test_two_processes_do_not_go_on_with_one_run(interrupted):
    """The second would take the first one's unfinished line for torn, and cut it off."""
    before = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    with sole_process(interrupted / "lock") as first:
        assert first
        with pytest.raises(ConfigError, match="another process is at work"):
            resume(interrupted)
    assert {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()} == before
    (interrupted / "lock").touch()  # what a killed process leaves is no lock
    with alone_in(interrupted):
        pass
