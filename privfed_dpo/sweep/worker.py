"""A worker: takes runs one after another until nobody is left to take."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from privfed_dpo.config import parse_config
from privfed_dpo.engine.events import EngineEvent, PlanReady, RoundFinished
from privfed_dpo.observe.run_folder import write_text_atomic
from privfed_dpo.sweep.execution import Job, Runner
from privfed_dpo.sweep.outcome import (
    booked_in,
    can_resume,
    failed_result,
    failure_of,
    has_ended,
    run_result,
)
from privfed_dpo.sweep.records import RunState
from privfed_dpo.sweep.store import Claim, SweepStore

RUNS_FOLDER = "runs"
CACHE_FOLDER = "cache"
TRACE_FILE = "error.txt"
MOST_DEATHS = 3
"""A run whose process vanished this often has failed: something kills it, such as the memory."""

_KILLED_EXIT_CODE = 1


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A worker has begun with a run, or goes on with it."""

    name: str
    resumed: bool


@dataclass(frozen=True, slots=True)
class RunProgress:
    """A run has finished one more round."""

    name: str
    round: int
    rounds: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run has its result."""

    name: str
    status: str
    reason: str
    value: float | None
    seconds: float | None


WorkerEvent: TypeAlias = RunStarted | RunProgress | RunEnded
Tell: TypeAlias = Callable[[WorkerEvent], None]


def work(store: SweepStore, runner: Runner, tell: Tell) -> int:
    """Carry out runs until none can be taken.

    Args:
        store: the sweep.
        runner: carries out one run.
        tell: told what happens.

    Returns:
        How many runs this worker ended.

    Raises:
        KeyboardInterrupt: the run at hand was given back, to be resumed.
    """
    ended = 0
    while (claim := store.claim()) is not None:
        _carry_out(claim, store, runner, tell)
        ended += 1
    return ended


def _carry_out(claim: Claim, store: SweepStore, runner: Runner, tell: Tell) -> None:
    record, directory = claim.record, store.address.directory.absolute()
    metric = str(store.facts["objective"])
    relative, resumable = _last_folder(claim, store)
    vanished = record.state is RunState.RUNNING and not record.paused and record.attempts
    if vanished and not has_ended(directory / relative) and claim.count_death() >= MOST_DEATHS:
        claim.settle(booked_in(directory / relative))
        reason = f"its process was killed {MOST_DEATHS} times; is there too little memory?"
        result = failed_result(directory / relative, relative, _KILLED_EXIT_CODE, reason)
        _end(claim, result, None, tell)
        return
    if not resumable:
        if record.attempts and record.attempts[-1].site == store.site:
            claim.settle(booked_in(directory / relative))
        relative = _fresh_folder(directory, record.name)
        claim.begin_attempt(relative)
    folder = directory / relative
    tell(RunStarted(record.name, resumable))
    try:
        job = _job(record.config, directory, folder, resume=resumable)
        runner(job, [_Watch(record.name, tell)])
        result = run_result(folder, relative)
    except KeyboardInterrupt:
        claim.settle(booked_in(folder))
        claim.pause()
        raise
    except Exception as error:  # noqa: BLE001 - one bad run must not stop the others
        write_text_atomic(folder / TRACE_FILE, "".join(traceback.format_exception(error)))
        result = failed_result(folder, relative, *failure_of(error))
    claim.settle(booked_in(folder))
    value = result.get(metric) if result["exit_code"] == 0 else None
    _end(claim, result, value, tell)


def _last_folder(claim: Claim, store: SweepStore) -> tuple[str, bool]:
    """The run's latest folder, and whether this worker can go on in it."""
    if not claim.record.attempts:
        return "", False
    last = claim.record.attempts[-1]
    if last.site != store.site:
        return last.folder, False
    folder = store.address.directory / last.folder
    return last.folder, has_ended(folder) or can_resume(folder)


def _fresh_folder(directory: Path, name: str) -> str:
    """Make an empty run folder; what an earlier attempt left stays where it is."""
    number = 1
    while True:
        relative = f"{RUNS_FOLDER}/{name}" + (f"_attempt-{number}" if number > 1 else "")
        try:
            (directory / relative).mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return relative


def _job(config: str, directory: Path, folder: Path, *, resume: bool) -> Job:
    wanted = parse_config(config)
    overrides = {"run.dir": str(folder)}
    if wanted.run.cache_dir is None:
        overrides["run.cache_dir"] = str(directory / CACHE_FOLDER)
    text = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    if wanted.run.threads is None:
        text.append("run.threads=1")
    return Job(parse_config(config, text), folder, resume)


def _end(claim: Claim, result: dict[str, object], value: object, tell: Tell) -> None:
    number = value if isinstance(value, int | float) else None
    claim.end(result, number)
    seconds = result.get("seconds")
    tell(
        RunEnded(
            claim.record.name,
            str(result["status"]),
            str(result["reason"]),
            number,
            seconds if isinstance(seconds, int | float) else None,
        )
    )


class _Watch:
    """An observer of one run that passes on how far it is."""

    def __init__(self, name: str, tell: Tell) -> None:
        self._name = name
        self._tell = tell
        self._rounds = 0

    def __call__(self, event: EngineEvent) -> None:
        match event:
            case PlanReady(plan=plan):
                self._rounds = int(str(plan.get("rounds") or 0))
            case RoundFinished(row=row):
                self._tell(RunProgress(self._name, row.round, self._rounds))
            case _:
                pass
