"""Every command in README and pages is run: as it is typed, and the long ones short as well."""

import json
import os
import shlex
import shutil
import subprocess

import pytest

from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.lifecycle import train
from tests.architecture.documents import ROOT
from tests.support import preference_files as files
from tests.support.checkpoints import write_checkpoint
from tests.support.command_line import caller
from tests.support.documented_commands import PROGRAM, put_programs, typed_commands
from tests.support.tiny_run import tiny_config

RUN = tuple(typed for typed in typed_commands() if typed.is_run and not typed.elsewhere)
QUICK = tuple(typed for typed in RUN if not typed.slow)
LONG = tuple(typed for typed in RUN if typed.slow)
SHORT = tuple(typed for typed in LONG if typed.shrunk and typed.words[0] == PROGRAM)
MEASURED = tuple(typed for typed in LONG if typed.words[0] == "python")
RUNS = {"RUN": "finished", "run": "finished", "runs/audited": "finished"}
READING = ("verify", "report", "audit", "resume")


def line_of(typed):
    return f"{typed.page}: {' '.join(typed.words)[:70]}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What a reader brings: pairs, a model, a finished run and an interrupted one."""
    home = tmp_path_factory.mktemp("reader")
    rows = files.preference_rows(users=45, per_user=2)
    files.write_jsonl_gz(home / "pairs.jsonl.gz", rows)
    held_out = files.unseen(files.preference_rows(users=9, per_user=2, seed=1), rows)
    files.write_jsonl_gz(home / "held_out.jsonl.gz", held_out)
    write_checkpoint(home / "path-or-hub-id", "llama", files.texts_of(rows))
    given = ("privacy.noise_multiplier=1.0", "evaluation.audit_lanes=200")
    train(tiny_config(home / "finished", *given))

    def stop(event):
        if isinstance(event, RoundFinished) and event.row.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(home / "interrupted", *given), observers=[stop])
    return home


@pytest.fixture
def checkout(prepared, tmp_path, monkeypatch):
    """A folder that looks like a checkout with these data; runs are put where a page has them."""
    for name in ("configs", "examples", "benchmarks", "experiments", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("pairs.jsonl.gz", "held_out.jsonl.gz", "path-or-hub-id"):
        (tmp_path / name).symlink_to(prepared / name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(prepared / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def place_runs(prepared, checkout, words):
    if words[1] in READING:
        for name, run in RUNS.items():
            run = "interrupted" if words[1] == "resume" else run
            shutil.copytree(prepared / run, checkout / name)


def filled(prepared, words):
    """The page's HASH is the head of the reader's run."""
    head = json.loads((prepared / "finished" / "summary.json").read_text())["ledger_head"]
    return [head if word == "HASH" else word for word in words]


def call(prepared, checkout, run, typed, more):
    place_runs(prepared, checkout, typed.words)
    ended = run(*filled(prepared, typed.words[1:]), *more)
    assert ended.code == (2 if typed.refused else 0), ended.err


@pytest.fixture
def run(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


@pytest.mark.parametrize("typed", QUICK, ids=line_of)
def test_as_it_is_typed(prepared, checkout, run, typed):
    call(prepared, checkout, run, typed, typed.needs or [])


@pytest.mark.parametrize("typed", SHORT, ids=line_of)
def test_as_it_is_typed_but_short(prepared, checkout, run, typed):
    call(prepared, checkout, run, typed, typed.shrunk)


def in_a_shell(checkout, line):
    """The line itself, by a shell, with the programs where the page has them."""
    programs = put_programs(checkout)
    return subprocess.run(
        ["bash", "-c", line],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        },
    )


def test_a_shell_finds_the_program_where_the_pages_have_it(checkout):
    done = in_a_shell(checkout, f".venv/bin/{PROGRAM} --help && .venv/bin/python -c 'print(7)'")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "7"


@pytest.mark.slow
@pytest.mark.parametrize("typed", MEASURED, ids=line_of)
def test_a_measurement_but_short(checkout, typed):
    done = in_a_shell(checkout, f"{typed.line} {shlex.join(typed.shrunk)}")
    assert done.returncode == 0, done.stderr
    assert "|" in done.stdout, "it prints a table"


@pytest.mark.slow
@pytest.mark.parametrize("typed", [t for t in LONG if t not in MEASURED], ids=line_of)
def test_a_long_one_as_it_is_typed(prepared, checkout, typed):
    """A page that needs a GPU's model gets a small one; all else is as it stands there."""
    if " configs/users.yaml " in typed.line or " configs/llm.yaml " in typed.line:
        line = f"{typed.line} {shlex.join(typed.shrunk)}"
    else:
        line = typed.line
    place_runs(prepared, checkout, typed.words)
    done = in_a_shell(checkout, line)
    assert done.returncode == 0, done.stderr
