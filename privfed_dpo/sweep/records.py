"""What the shared storage knows of each run, as plain frozen facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from privfed_dpo.config import dump_config
from privfed_dpo.sweep.checks import PlannedPoint


class RunState(StrEnum):
    """How far a run is.

    WAITING: nobody has begun it.
    RUNNING: a worker has it, or had it when it was interrupted.
    ENDED: it has a result, good or bad, and is not made again.
    """

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Booked:
    """What the ledger of a run folder holds.

    Attributes:
        participations: rounds of the busiest client.
        rounds: rounds in all.
    """

    participations: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run folder of a run; there is a second only where the first could not be resumed.

    Attributes:
        folder: relative to the folder of the sweep.
        site: which folder of the sweep, where workers on several machines have one each.
        booked: what it has spent; None while unknown, and then the whole plan is taken as spent.
    """

    folder: str
    site: str
    booked: Booked | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of a sweep.

    Attributes:
        number: place in the storage.
        state: how far it is.
        name, label, cells, seed, key: see `Point`.
        config: what to run, as YAML.
        plan: see `PlannedPoint`.
        generation: 0, or how often it was started over because it had failed.
        site: who took it; empty before.
        attempts: its run folders, in order.
        deaths: how often its process vanished without a word.
        paused: whether its last process stopped on purpose.
        result: see `sweep.outcome`; None unless ended.
    """

    number: int
    state: RunState
    name: str
    label: str
    cells: tuple[Mapping[str, Any], ...]
    seed: int
    key: str
    config: str = field(repr=False)
    plan: Mapping[str, Any] = field(repr=False)
    generation: int = 0
    site: str = ""
    attempts: tuple[Attempt, ...] = ()
    deaths: int = 0
    paused: bool = False
    result: Mapping[str, Any] | None = None

    @property
    def private(self) -> bool:
        """Whether noise protects the data of this run."""
        return self.plan.get("mode") != "none"


def new_attributes(planned: PlannedPoint) -> dict[str, Any]:
    """What the storage is told of a run that waits, as JSON."""
    point = planned.point
    cells = [
        {key: list(value) if isinstance(value, tuple) else value for key, value in cell.items()}
        for cell in point.cells
    ]
    return {
        "run": {
            "name": point.name,
            "label": point.label,
            "cells": cells,
            "seed": point.seed,
            "key": point.key,
            "generation": 0,
        },
        "config": dump_config(point.config),
        "plan": dict(planned.plan),
    }


def repeated_attributes(record: RunRecord) -> dict[str, Any]:
    """What the storage is told of a run that is started over."""
    run = {
        "name": record.name,
        "label": record.label,
        "cells": [dict(cell) for cell in record.cells],
        "seed": record.seed,
        "key": record.key,
        "generation": record.generation + 1,
    }
    return {"run": run, "config": record.config, "plan": dict(record.plan)}


def read_record(number: int, state: RunState, attributes: Mapping[str, Any]) -> RunRecord | None:
    """Read the attributes of a trial; None for one that is not ours."""
    run = attributes.get("run")
    if not isinstance(run, Mapping):
        return None
    return RunRecord(
        number=number,
        state=state,
        name=run["name"],
        label=run["label"],
        cells=tuple(run["cells"]),
        seed=run["seed"],
        key=run["key"],
        config=attributes["config"],
        plan=attributes["plan"],
        generation=run["generation"],
        site=attributes.get("site", ""),
        attempts=tuple(_read_attempt(one) for one in attributes.get("attempts", ())),
        deaths=attributes.get("deaths", 0),
        paused=attributes.get("paused", False),
        result=attributes.get("result"),
    )


def encode_attempts(attempts: tuple[Attempt, ...]) -> list[dict[str, Any]]:
    """Attempts as JSON; `read_record` reads them back."""
    return [asdict(attempt) for attempt in attempts]


def settle(attempts: tuple[Attempt, ...], booked: Booked | None) -> tuple[Attempt, ...]:
    """Write down what the last attempt has spent."""
    return (*attempts[:-1], replace(attempts[-1], booked=booked))


def _read_attempt(encoded: Mapping[str, Any]) -> Attempt:
    booked = encoded["booked"]
    return Attempt(encoded["folder"], encoded["site"], None if booked is None else Booked(**booked))
