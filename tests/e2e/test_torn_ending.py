"""Dying at any write to the disk: nothing is lost, nothing is booked too low."""

import os
from functools import partial
from types import SimpleNamespace

import pytest

from accounting import Ledger
from privfed_dpo.errors import ConfigError, RunAborted
from privfed_dpo.lifecycle import resume, train
from privfed_dpo.verification import verify_run
from tests.support.tiny_run import tiny_config


class Died(BaseException):
    """Not an Exception: nobody may tidy up on the way."""


class Disk:
    """Syncs as ever, and dies in place of the chosen one."""

    def __init__(self, dies_at=None):
        self.dies_at, self.synced, self.sync = dies_at, 0, os.fsync

    def __call__(self, descriptor):
        self.synced += 1
        if self.synced == self.dies_at:
            raise Died
        self.sync(descriptor)


def run_on(disk, folder, patched, *overrides):
    patched.setattr(os, "fsync", disk)
    ledger = SimpleNamespace(
        create=partial(Ledger.create, fsync=disk), open=partial(Ledger.open, fsync=disk)
    )
    patched.setattr("privfed_dpo.lifecycle.Ledger", ledger)
    train(tiny_config(folder, "federation.rounds=1", "privacy.noise_multiplier=1.0", *overrides))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("torn")


@pytest.fixture(scope="module")
def writes(cache):
    """How often an undisturbed run syncs."""
    for name in ("fills the cache", "counted"):
        disk = Disk()
        with pytest.MonkeyPatch.context() as patched:
            run_on(disk, cache / name, patched)
    return disk.synced


def check_death(folder, write):
    """Die at one write, look at the ledger, go on, and look again."""
    with pytest.raises(Died), pytest.MonkeyPatch.context() as patched:
        run_on(Disk(write), folder, patched)
    if not (folder / "ledger.jsonl").is_file() or not (folder / "ledger.jsonl").read_bytes():
        return
    if not (folder / "checkpoint" / "state.npz").is_file():
        return
    resume(folder)
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    assert verdict.rounds == 1
    assert (folder / "report.html").is_file()
    assert not (folder / "checkpoint" / "keys.secret").exists()
    with pytest.raises(ConfigError, match="has ended"):
        resume(folder)


@pytest.mark.parametrize("before_the_end", [0, 1, 2, 3, 4])
def test_a_death_around_the_close_of_the_ledger(cache, writes, before_the_end):
    check_death(cache / f"end-{before_the_end}", writes - before_the_end)


@pytest.mark.slow
def test_a_death_at_every_write(cache, writes):
    for write in range(1, writes + 1):
        check_death(cache / f"write-{write}", write)


@pytest.mark.usefixtures("writes")
def test_a_run_that_was_given_up_says_so_even_when_it_died_while_ending(cache):
    lost = "secure_agg.dropout_rate=0.97"
    folder, disk = cache / "given-up-torn", Disk()
    with pytest.raises(RunAborted), pytest.MonkeyPatch.context() as patched:
        run_on(disk, cache / "given-up", patched, "federation.rounds=5", lost)
    with pytest.raises(Died), pytest.MonkeyPatch.context() as patched:
        run_on(Disk(disk.synced), folder, patched, "federation.rounds=5", lost)
    with pytest.raises(RunAborted, match="in a row were aborted"):
        resume(folder)
    assert verify_run(folder).ok
