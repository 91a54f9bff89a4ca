"""The runs of a sweep in Optuna storage: listed once, claimed by one worker each, never repeated.

A claim is two locks: the storage's own change from WAITING to RUNNING, which is atomic across
machines, and a file lock that the operating system gives back when the worker dies, which tells a
run that is going on from one that was left behind.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from privfed_dpo.durable import cut_torn_line
from privfed_dpo.errors import ConfigError
from privfed_dpo.exclusive import FileLock
from privfed_dpo.sweep.checks import PlannedPoint
from privfed_dpo.sweep.records import (
    Attempt,
    Booked,
    RunRecord,
    RunState,
    encode_attempts,
    new_attributes,
    read_record,
    repeated_attributes,
    settle,
)
from privfed_dpo.sweep.sweep_file import LARGER_IS_BETTER

JOURNAL_FILE = "sweep.journal"
LOCKS_FOLDER = "locks"
DEFAULT_STUDY = "sweep"
_SITE_FILE = "site"
_FORMAT = 1
_STATES = {TrialState.WAITING: RunState.WAITING, TrialState.RUNNING: RunState.RUNNING}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the runs of a sweep are kept; can be sent to another process.

    Attributes:
        directory: folder of the sweep on this machine.
        url: database that several machines share; None is a journal file in `directory`.
        study: name of the sweep in that database.
    """

    directory: Path
    url: str | None = None
    study: str = DEFAULT_STUDY


class _JournalLock(JournalFileOpenLock):
    """Optuna's lock on the journal, given back by the system when its holder is killed."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        return self._lock.acquire()

    def release(self) -> None:
        self._lock.release()


class SweepStore:
    """One sweep's runs, as every worker on every machine sees them."""

    def __init__(self, address: Address) -> None:
        """Open the storage, or start it.

        Raises:
            ConfigError: the folder cannot be made, or the database not be used.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.address = address
        try:
            address.directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise ConfigError(
                (f"the sweep's folder {address.directory} cannot be made: {error.strerror}",),
                advice="Choose another --dir.",
            ) from error
        self.site = _site(address.directory)
        self._locks = _locks_folder(address)
        self._storage = _open_storage(address)

    def create(self, objective: str, swept: Sequence[str]) -> None:
        """Start the sweep, or find it.

        Raises:
            ConfigError: a sweep with another objective, or of another version, is there.
        """
        better = objective in LARGER_IS_BETTER
        direction = StudyDirection.MAXIMIZE if better else StudyDirection.MINIMIZE
        try:
            study = self._storage.create_new_study([direction], self.address.study)
            self._storage.set_study_user_attr(
                study, "sweep", {"format": _FORMAT, "objective": objective, "swept": list(swept)}
            )
        except DuplicatedStudyError:
            if self.facts.get("format", _FORMAT) != _FORMAT:
                raise ConfigError(
                    (f"{self.address.directory} holds a sweep of another version",),
                    advice="Take another --dir (and --study).",
                ) from None
            known = self.facts.get("objective", objective)
            if known != objective:
                raise ConfigError(
                    (f"{self.address.directory} holds a sweep judged by {known}, not {objective}",),
                    advice="Take another --dir (and --study), or the file's earlier objective.",
                ) from None

    @property
    def facts(self) -> Mapping[str, Any]:
        """Objective and swept keys, as `create` wrote them."""
        return dict(self._storage.get_study_user_attrs(self._study).get("sweep", {}))

    @property
    def refused(self) -> tuple[Mapping[str, Any], ...]:
        """Combinations that were left out, with the reason."""
        return tuple(self._storage.get_study_user_attrs(self._study).get("refused", ()))

    def add(
        self,
        planned: Sequence[PlannedPoint],
        refused: Sequence[Mapping[str, Any]],
        named: Sequence[str],
    ) -> None:
        """Add the runs that the storage does not know yet.

        Args:
            planned: new runs.
            refused: combinations that were left out, in full.
            named: keys of every run the file names, old ones too.

        Raises:
            ConfigError: the storage holds runs that the file does not name. They have been made,
                so they cannot be left out of what the sweep has cost.
        """
        with FileLock(self._locks / "list.lock"):
            records = self.records()
            foreign = [record.name for record in records if record.key not in set(named)]
            if foreign:
                problem = (
                    f"{self.address.directory} holds {len(foreign)} runs that the file does not "
                    f"name, such as {foreign[0]}"
                )
                raise ConfigError(
                    (problem,),
                    advice="A sweep may grow but not shrink: what was run has been spent. Take "
                    "another --dir (and --study), or put the values back.",
                )
            known = {record.key for record in records}
            for one in planned:
                if one.point.key not in known:
                    self._enqueue(new_attributes(one))
            self._storage.set_study_user_attr(self._study, "refused", list(refused))

    def retry_failed(self) -> int:
        """Put every run that failed back on the list; its old attempts stay counted."""
        failed = [
            record
            for record in self.latest()
            if record.result is not None and record.result["exit_code"] != 0
        ]
        for record in failed:
            self._enqueue(repeated_attributes(record))
        return len(failed)

    def records(self) -> tuple[RunRecord, ...]:
        """Every run and every repetition, in the order of the storage; doubles left out."""
        found: dict[tuple[str, int], RunRecord] = {}
        for trial in self._storage.get_all_trials(self._study, deepcopy=False):
            state = _STATES.get(trial.state, RunState.ENDED)
            record = read_record(trial.number, state, trial.user_attrs)
            if record is not None:
                found.setdefault((record.key, record.generation), record)
        return tuple(found.values())

    def latest(self) -> tuple[RunRecord, ...]:
        """Every run once: its last repetition."""
        found: dict[str, RunRecord] = {}
        for record in self.records():
            found[record.key] = record
        return tuple(found.values())

    def claim(self) -> Claim | None:
        """Take one run that nobody has: interrupted ones first, then those that wait."""
        open_runs = [record for record in self.records() if record.state is not RunState.ENDED]
        for record in sorted(open_runs, key=lambda one: one.state is RunState.WAITING):
            lock = FileLock(self._locks / f"{record.number}.lock")
            if not lock.try_acquire():
                continue
            claim = self._claim(record.number, lock)
            if claim is not None:
                return claim
            lock.release()
        return None

    def elsewhere(self) -> tuple[RunRecord, ...]:
        """Runs that workers of another folder have, whether or not they are still alive."""
        return tuple(
            record
            for record in self.records()
            if record.state is RunState.RUNNING and not self._is_ours(record)
        )

    def give_up_elsewhere(self) -> int:
        """Start over what other folders have: only for machines that will not come back."""
        lost = self.elsewhere()
        for record in lost:
            self._storage.set_trial_user_attr(self._id(record.number), "site", self.site)
        return len(lost)

    def _claim(self, number: int, lock: FileLock) -> Claim | None:
        """Take a run whose lock is held; its state is read anew, since a peer may have had it."""
        record = next((one for one in self.records() if one.number == number), None)
        if record is None or record.state is RunState.ENDED:
            return None
        if record.state is RunState.RUNNING:
            return Claim(self, record, lock) if self._is_ours(record) else None
        try:
            taken = self._storage.set_trial_state_values(self._id(number), TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return None
        if not taken:
            return None
        self.write(number, "site", self.site)
        return Claim(self, record, lock)

    def write(self, number: int, name: str, value: object) -> None:
        """Keep one attribute of a run."""
        self._storage.set_trial_user_attr(self._id(number), name, value)

    def end(self, number: int, value: float | None) -> None:
        """End a run; without a value of the objective Optuna calls it failed."""
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        values = None if value is None else [value]
        self._storage.set_trial_state_values(self._id(number), state, values)

    def _is_ours(self, record: RunRecord) -> bool:
        return self.address.url is None or record.site == self.site

    def _enqueue(self, attributes: dict[str, Any]) -> None:
        trial = create_trial(state=TrialState.WAITING, user_attrs=attributes)
        self._storage.create_new_trial(self._study, template_trial=trial)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study, number)

    @property
    def _study(self) -> int:
        return self._storage.get_study_id_from_name(self.address.study)


class Claim:
    """A run that belongs to this process until it ends it or dies.

    Attributes:
        record: the run as it was when it was taken.
    """

    def __init__(self, store: SweepStore, record: RunRecord, lock: FileLock) -> None:
        self.record = record
        self._store = store
        self._lock = lock
        self._attempts = record.attempts
        self._keep("paused", value=False)

    def begin_attempt(self, folder: str) -> None:
        """Note a fresh run folder, before anything is written into it."""
        self._attempts = (*self._attempts, Attempt(folder, self._store.site))
        self._keep("attempts", encode_attempts(self._attempts))

    def settle(self, booked: Booked | None) -> None:
        """Note what the last attempt has spent."""
        self._attempts = settle(self._attempts, booked)
        self._keep("attempts", encode_attempts(self._attempts))

    def count_death(self) -> int:
        """Note that the process before this one vanished; return how often that happened."""
        self._keep("deaths", self.record.deaths + 1)
        return self.record.deaths + 1

    def end(self, result: Mapping[str, Any], value: float | None) -> None:
        """Keep the result and give the run back for good."""
        self._keep("result", dict(result))
        self._store.end(self.record.number, value)
        self._lock.release()

    def pause(self) -> None:
        """Give the run back unfinished, for whoever goes on."""
        self._keep("paused", value=True)
        self._lock.release()

    def _keep(self, name: str, value: object) -> None:
        self._store.write(self.record.number, name, value)


def _open_storage(address: Address) -> BaseStorage:
    if address.url is None:
        path = address.directory / JOURNAL_FILE
        lock = _JournalLock(_locks_folder(address) / "journal.lock")
        with FileLock(_locks_folder(address) / "journal.lock"):
            cut_torn_line(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    try:
        return optuna.storages.get_storage(address.url)
    except Exception as error:
        shown = address.url.partition("://")[0]
        raise ConfigError(
            (f"the storage {shown}://... cannot be opened: {type(error).__name__}",),
            advice="Give a database URL such as postgresql://HOST/NAME, and install its driver.",
        ) from error


def _locks_folder(address: Address) -> Path:
    """Beside the data: every process that could claim a run must meet the same locks."""
    name, _, path = (address.url or "").partition(":///")
    if name.startswith("sqlite") and path:
        return Path(f"{path}.{LOCKS_FOLDER}")
    return address.directory / LOCKS_FOLDER


def _site(directory: Path) -> str:
    """A name for this folder of the sweep, drawn once."""
    path = directory / LOCKS_FOLDER / _SITE_FILE
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            path.write_text(secrets.token_hex(8), encoding="utf-8")
        return path.read_text(encoding="utf-8")
