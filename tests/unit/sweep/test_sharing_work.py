"""Workers share a sweep: real processes, kills included, on the journal; runs are made up."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from privfed_dpo.errors import ConfigError
from privfed_dpo.exclusive import FileLock
from privfed_dpo.sweep import workforce
from privfed_dpo.sweep.conduct import conduct
from privfed_dpo.sweep.execution import train_run
from privfed_dpo.sweep.records import Booked, RunState
from privfed_dpo.sweep.store import Address, SweepStore
from privfed_dpo.sweep.worker import MOST_DEATHS, RunEnded, work
from tests.architecture.documents import ROOT
from tests.support import fake_runs
from tests.support.sweeps import stored, sweep_file

GRID = "grid: {privacy.target_epsilon: [1, 2, 4, 8]}\nseeds: [0, 1, 2]"


def executions(folder):
    """How often each run was begun or resumed."""
    names = [path.name.split(".")[:2] for path in (folder / "executions").iterdir()]
    return Counter(map(tuple, names))


def make(tmp_path, text=GRID):
    return stored(tmp_path / "sweep", sweep_file(tmp_path, text))


def silent(_):
    pass


def test_two_workers_never_make_a_run_twice(tmp_path):
    store = make(tmp_path)
    told = []
    results = conduct(store, fake_runs.instant, 2, told.append)
    assert results.complete
    assert set(executions(tmp_path / "sweep").values()) == {1}
    assert len(executions(tmp_path / "sweep")) == 12
    assert sum(isinstance(event, RunEnded) for event in told) == 12
    again = conduct(SweepStore(store.address), fake_runs.instant, 2, silent)
    assert again.counts == {"finished": 12}
    assert len(executions(tmp_path / "sweep")) == 12, "a finished run is not made again"


def test_a_killed_worker_is_replaced_and_its_run_is_made_anew(tmp_path):
    store = make(tmp_path, "seeds: [0, 1, 2]")
    results = conduct(store, fake_runs.killed_once, 1, silent)
    assert results.counts == {"finished": 3}
    made = executions(tmp_path / "sweep")
    assert made["seed-1", "began"] == made["seed-1_attempt-2", "began"] == 1
    (killed,) = [run for run in results.runs if run.seed == 1]
    assert [attempt.folder for attempt in killed.attempts] == [
        "runs/seed-1",
        "runs/seed-1_attempt-2",
    ]
    assert (tmp_path / "sweep" / "runs" / "seed-1").is_dir(), "what was begun stays"
    assert [attempt.booked for attempt in killed.attempts] == [Booked(0, 0)] * 2


def test_what_kills_its_process_every_time_fails_in_the_end(tmp_path):
    store = make(tmp_path, "seeds: [1]")
    for number in range(MOST_DEATHS):
        claim = store.claim()
        if number:
            claim.count_death()
        claim.begin_attempt(f"runs/seed-1_attempt-{number}")
        claim._lock.release()  # as the system does when the process is gone
    assert work(store, fake_runs.instant, silent) == 1
    (failed,) = store.latest()
    assert f"killed {MOST_DEATHS} times" in failed.result["reason"]
    assert (failed.result["status"], failed.result["exit_code"]) == ("failed", 1)
    assert not (tmp_path / "sweep" / "executions").exists()


def test_a_failure_is_recorded_and_stops_nobody(tmp_path):
    store = make(tmp_path, "seeds: [12, 13, 14, 15]")
    assert work(store, fake_runs.instant, silent) == 4
    by_seed = {run.seed: run.result for run in store.latest()}
    assert [by_seed[seed]["exit_code"] for seed in (12, 13, 14, 15)] == [0, 1, 4, 0]
    assert by_seed[13]["reason"] == "OSError: No space left on device"
    assert by_seed[14]["reason"] == "too few survivors Raise the tolerance."
    assert by_seed[14]["reward_accuracy"] is None
    trace = tmp_path / "sweep" / "runs" / "seed-13" / "error.txt"
    assert "No space left" in trace.read_text()


def test_failed_runs_can_be_made_again(tmp_path):
    store = make(tmp_path, "seeds: [13, 14, 15]")
    work(store, fake_runs.instant, silent)
    assert store.retry_failed() == 2
    assert work(store, fake_runs.finishing, silent) == 2
    assert {run.result["exit_code"] for run in store.latest()} == {0}
    assert len(store.records()) == 5, "the failed attempts stay on record, for the price"
    assert store.retry_failed() == 0


def test_ctrl_c_gives_the_run_back_and_it_goes_on(tmp_path):
    store = make(tmp_path, "seeds: [0, 1]")
    with pytest.raises(KeyboardInterrupt):
        work(store, fake_runs.interrupted, silent)
    first = store.latest()[0]
    assert (first.state, first.paused) == (RunState.RUNNING, True)
    assert work(store, fake_runs.instant, silent) == 2
    done = store.latest()[0]
    assert done.deaths == 0, "a stop on purpose is no death"
    assert done.result["status"] == "finished"


def test_a_run_with_a_checkpoint_is_resumed_in_its_folder(tmp_path, monkeypatch):
    store = make(tmp_path, "seeds: [0]")
    with pytest.raises(KeyboardInterrupt):
        work(store, fake_runs.interrupted, silent)
    monkeypatch.setattr("privfed_dpo.sweep.worker.can_resume", lambda folder: True)
    assert work(store, fake_runs.instant, silent) == 1
    (run,) = store.latest()
    assert len(run.attempts) == 1
    assert executions(tmp_path / "sweep") == {("seed-0", "began"): 1, ("seed-0", "resumed"): 1}


def test_a_run_that_ended_just_before_the_kill_is_only_written_down(tmp_path, monkeypatch):
    store = make(tmp_path, "seeds: [0]")

    def killed_at_the_end(job, observers):
        fake_runs.finish(job)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(store, killed_at_the_end, silent)
    for module in ("worker", "execution"):
        monkeypatch.setattr(f"privfed_dpo.sweep.{module}.has_ended", lambda folder: True)
    assert work(store, train_run, silent) == 1, "the real runner, on a folder it cannot read"
    assert store.latest()[0].result["status"] == "finished"


def test_a_run_in_live_hands_is_left_alone(tmp_path):
    store = make(tmp_path, "seeds: [0, 1]")
    claim = store.claim()
    other = SweepStore(store.address)
    assert other.claim().record.seed != claim.record.seed
    assert other.claim() is None
    claim.pause()
    assert SweepStore(store.address).claim().record.seed == claim.record.seed


def test_doubles_of_a_run_are_never_made(tmp_path):
    """Two machines that list the same sweep at the same moment."""
    spec = sweep_file(tmp_path, "seeds: [0, 1]")
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    one, two = (SweepStore(Address(tmp_path / name, url)) for name in ("a", "b"))
    for store in (one, two):
        store.create(spec.objective, ())
    from privfed_dpo.sweep.records import new_attributes
    from tests.support.sweeps import planned_points

    for store in (one, two):
        for planned in planned_points(spec):
            store._enqueue(new_attributes(planned))
    assert len(one.records()) == 2
    assert work(one, fake_runs.instant, silent) + work(two, fake_runs.instant, silent) == 2
    assert {run.result["status"] for run in two.latest()} == {"finished"}


def test_another_machine_keeps_its_runs_until_it_is_given_up(tmp_path):
    spec = sweep_file(tmp_path, "seeds: [0]")
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    here = stored(tmp_path / "here", spec, url)
    there = SweepStore(Address(tmp_path / "there", url))
    there.claim().begin_attempt("runs/seed-0")
    assert here.claim() is None
    assert [run.seed for run in here.elsewhere()] == [0]
    assert here.give_up_elsewhere() == 1
    # The lock of a process that is gone is free; here it is this test's own.
    here._locks = tmp_path / "fresh"
    assert work(here, fake_runs.instant, silent) == 1
    (run,) = here.latest()
    assert [attempt.booked for attempt in run.attempts] == [None, Booked(0, 0)]
    assert run.attempts[0].site != run.attempts[1].site


def test_a_sweep_grows_but_never_shrinks(tmp_path):
    folder = tmp_path / "sweep"
    stored(folder, sweep_file(tmp_path, "seeds: [0, 1]"))
    grown = stored(folder, sweep_file(tmp_path, "seeds: [0, 1, 2]"))
    assert [run.seed for run in grown.latest()] == [0, 1, 2]
    with pytest.raises(
        ConfigError, match="holds 1 runs that the file does not name, such as seed-1"
    ):
        stored(folder, sweep_file(tmp_path, "seeds: [0, 2]"))
    with pytest.raises(ConfigError, match="judged by reward_accuracy, not loss"):
        stored(folder, sweep_file(tmp_path, "seeds: [0, 1, 2]\nobjective: loss"))


def test_a_sweep_of_another_version_is_left_alone(tmp_path, monkeypatch):
    spec = sweep_file(tmp_path, "seeds: [0]")
    stored(tmp_path / "sweep", spec)
    monkeypatch.setattr("privfed_dpo.sweep.store._FORMAT", 2)
    with pytest.raises(ConfigError, match="another version"):
        stored(tmp_path / "sweep", spec)


def test_a_torn_journal_line_is_cut_off(tmp_path):
    store = make(tmp_path, "seeds: [0]")
    journal = store.address.directory / "sweep.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "tri')
    again = SweepStore(store.address)
    assert work(again, fake_runs.instant, silent) == 1
    assert journal.read_bytes().startswith(whole)


def test_a_database_that_cannot_be_opened_is_told_without_its_password(tmp_path):
    with pytest.raises(ConfigError) as error:
        SweepStore(Address(tmp_path, "nosuch://me:secret@host/x"))
    assert "nosuch://..." in str(error.value)
    assert "secret" not in f"{error.value}{error.value.advice}"


class Stillborn:
    """A worker process that ends before it says a word."""

    exitcode, pid = 1, None

    def join(self, timeout=None):
        pass

    def is_alive(self):
        return False


def test_workers_that_end_before_they_begin_are_not_replaced_for_ever(tmp_path, monkeypatch):
    started = []

    def start(address, runner):
        listening, telling = multiprocessing.Pipe(duplex=False)
        telling.close()
        started.append(1)
        return workforce._Hand(Stillborn(), listening)

    monkeypatch.setattr(workforce, "_start", start)
    with pytest.raises(workforce.WorkersLost, match="3 worker processes in a row"):
        workforce.employ(Address(tmp_path), fake_runs.instant, 1, silent, work_left=lambda: True)
    assert len(started) == 3


HOLDER = """
import os, signal, sys
from pathlib import Path
from privfed_dpo.exclusive import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
signal.pause()
"""


def test_a_lock_is_given_back_by_kill_9(tmp_path):
    path = tmp_path / "a.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(ROOT),
    )
    assert holder.stdout.readline() == "held\n"
    assert not FileLock(path).try_acquire()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert FileLock(path).try_acquire()


PARENT = """
import multiprocessing, os, signal, sys, threading, time
from privfed_dpo.sweep import workforce

def deaf(pipe):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as if a library swallowed the interruption
    threading.Thread(target=workforce._end_with_parent, args=(0.0,), daemon=True).start()
    os.write(1, b"working ")
    threading.Event().wait()

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    context.Process(target=deaf, args=(theirs,)).start()
    os._exit(0)
"""


def test_a_worker_ends_with_its_parent_even_if_it_cannot_be_interrupted(tmp_path):
    """Its output ends only when the last process that holds it has ended."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    done = subprocess.run([sys.executable, script], check=True, capture_output=True, timeout=300)
    assert done.stdout == b"working "
