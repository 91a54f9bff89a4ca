"""Ctrl-C at a terminal: once, twice, held down, and with processes that share the work."""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from tests.support.command_line import Ended, caller, own_data, start_process, write_inputs
from tests.support.tiny_run import TINY

# A tidy end that never comes: only a second Ctrl-C can end this.
_STUCK = """
import signal, sys
from pathlib import Path
from privfed_dpo.commands.resumption import resumable
signal.signal(signal.SIGINT, signal.default_int_handler)
with resumable(Path(sys.argv[1])):
    try:
        print("at work", flush=True)
        signal.pause()
    finally:
        print("tidying up", flush=True)
        while True:
            signal.pause()
"""


_STUCK_SWEEP = """
import signal, sys
from pathlib import Path
from privfed_dpo.commands import sweep
from privfed_dpo.sweep.store import Address
def workers_that_will_not_end(*_):
    try:
        print("at work", flush=True)
        signal.pause()
    finally:
        print("tidying up", flush=True)
        while True:
            signal.pause()
sweep.conduct = workers_that_will_not_end
signal.signal(signal.SIGINT, signal.default_int_handler)
home = Path(sys.argv[1])
sweep.run_sweep(
    home / "sweep.yaml", Address(home / "a sweep", None, "other"), ["federation.rounds=3"],
    workers=1, retry_failed=False, give_up_elsewhere=False,
)
"""


@pytest.fixture
def run(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("ctrl-c"))


def interrupted_at_round_1(home, folder, press, *overrides, **more):
    """Start a run, call `press` with its process when round 1 is done, and return how it ended."""
    told = own_data(home, "federation.rounds=200", *overrides)
    process = start_process(home, "train", *told, "--run-dir", folder, **more)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("round 1/"):
            press(process)
            break
    out, err = process.communicate()
    return Ended(process.returncode, "".join(lines) + out, err)


def test_ctrl_c_held_down_ends_a_run_that_goes_on_as_it_says(home, run):
    folder = home / "a run with spaces"

    def hold_down(process):
        while process.poll() is None:
            process.send_signal(signal.SIGINT)

    ended = interrupted_at_round_1(home, folder, hold_down)
    assert ended.code == 1
    (advised,) = set(re.findall(r"Go on with: privfed-dpo (.+)", ended.err))
    assert shlex.split(advised) == ["resume", str(folder)]
    run("verify", folder).succeeded()
    # The same command goes on; a second one is enough to see that it does.
    resumed = start_process(home, *shlex.split(advised))
    for line in resumed.stdout:
        if line.startswith("round "):
            resumed.send_signal(signal.SIGINT)
            break
    out, err = resumed.communicate()
    assert Ended(resumed.returncode, out, err).code == 1
    assert int(re.match(r"round (\d+)/200", line).group(1)) > 1
    run("verify", folder).succeeded()


def interrupted_twice(program, folder):
    """Press Ctrl-C while it works, and again while it tidies up for ever; how it ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    awaited = ["at work\n", "tidying up\n"]
    for line in process.stdout:
        if line == awaited[0]:
            process.send_signal(signal.SIGINT)
            awaited.pop(0)
        if not awaited:
            break
    out, err = process.communicate()
    ended = Ended(process.returncode, out, err)
    assert ended.code == 1
    assert "stopped at once" in ended.err
    return ended


@pytest.mark.parametrize("began", [True, False])
def test_a_second_ctrl_c_ends_at_once_what_will_not_end_tidily(tmp_path, began):
    if began:
        (tmp_path / "ledger.jsonl").write_text("{}\n")
    ended = interrupted_twice(_STUCK, tmp_path)
    goes_on = f"Go on with: privfed-dpo resume {tmp_path}"
    starts = f"Start again with the same command. Remove {tmp_path} first."
    assert (goes_on if began else starts) in ended.err


def test_a_second_ctrl_c_ends_a_sweep_whose_workers_will_not(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "sweep.yaml").write_text("base: tiny.yaml\nseeds: [0]\n")
    ended = interrupted_twice(_STUCK_SWEEP, tmp_path)
    (advised,) = set(re.findall(r"Go on with the same command: privfed-dpo (.+)", ended.err))
    assert shlex.split(advised) == [
        *("sweep", str(tmp_path / "sweep.yaml"), "--dir", str(tmp_path / "a sweep")),
        *("--study", "other", "federation.rounds=3"),
    ]


def test_a_process_that_ignores_ctrl_c_keeps_ignoring_it(tmp_path):
    """As under nohup: nobody's setting is taken over."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from privfed_dpo.commands.resumption import resumable\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with resumable(Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "still here\n"


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_all_processes_and_only_one_speaks(home, run):
    """A terminal sends the signal to the whole group."""
    ended = interrupted_at_round_1(
        home,
        home / "shared",
        lambda process: os.killpg(process.pid, signal.SIGINT),
        "run.processes=2",
        "dpo.micro_batch_pairs=1",
        start_new_session=True,
    )
    assert ended.code == 1
    assert ended.err.count("interrupted") == 1
    assert "Go on with: privfed-dpo resume" in ended.err
    run("verify", home / "shared").succeeded()
