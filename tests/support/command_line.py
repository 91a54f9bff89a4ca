"""The installed program as tests call it: in this process, or in one of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import yaml

from privfed_dpo import cli
from tests.support import preference_files as files
from tests.support.checkpoints import write_checkpoint
from tests.support.tiny_run import TINY

_ESCAPE = "\x1b["
_FORCING_COLOUR = ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS")
_LIBRARIES = ("HF_", "TRANSFORMERS_", "TOKENIZERS_", "PYTHONWARNINGS")
# A test run in the background may have Ctrl-C ignored, which a child would inherit.
_PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from privfed_dpo.cli import main
main()
"""


class Ended:
    """What a command left behind: exit code, standard output, standard error."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in out + err, err
        assert _ESCAPE not in out + err, "colour codes where there is no terminal"

    def succeeded(self):
        """It did what it should."""
        assert self.code == 0, self.err
        return self

    def refused(self, *parts, code=2):
        """It failed as it should, saying all of `parts`, and printed no result."""
        assert self.code == code, self.err
        assert self.out == "", self.out
        said = re.sub(r"\s+", " ", self.err)
        for part in parts:
            assert part in said
        return self


def caller(capsys, monkeypatch):
    """A function that calls the entry point in this process and returns how it `Ended`."""
    for name in _FORCING_COLOUR:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["privfed-dpo", *map(str, arguments)])
        with monkeypatch.context() as environment:
            environment.setattr(os, "environ", os.environ.copy())
            with pytest.raises(SystemExit) as stop:
                cli.main()
        caught = capsys.readouterr()
        return Ended(stop.value.code, caught.out, caught.err)

    return call


def start_process(folder, *arguments, **more):
    """Starts the program in `folder`, with no setting that would quieten its libraries.

    `more` goes to the process, its environment over the one of the tests.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_LIBRARIES) and name not in _FORCING_COLOUR
    }
    environment |= more.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
        text=True,
        cwd=folder,
        env=environment,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
    )


def assert_nothing_spent(folder):
    """No release was booked: there is no run, or none of its rounds began."""
    ledger = folder / "ledger.jsonl"
    assert not ledger.exists() or '"kind":"spend"' not in ledger.read_text()


def write_inputs(folder):
    """A config of the embedded task, a preference file and a checkpoint for `own_data`."""
    config = yaml.safe_load(TINY)
    config["run"]["cache_dir"] = str(folder / "cache")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    rows = files.preference_rows(users=5, per_user=4)
    files.write_jsonl(folder / "pairs.jsonl", rows)
    write_checkpoint(folder / "base", "llama", files.texts_of(rows))
    return folder


def own_data(folder, *more):
    """Arguments that train on the preference file and checkpoint of `write_inputs`."""
    return [
        folder / "tiny.yaml",
        f"data.train={folder / 'pairs.jsonl'}",
        "data.clients=null",
        f"model.base={folder / 'base'}",
        # Given noise saves the calibration.
        "privacy.noise_multiplier=1.0",
        *more,
    ]
