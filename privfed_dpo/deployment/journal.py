"""A process's log: one JSON object per line, for people and for machines, without secrets."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from privfed_dpo.durable import append_line
from privfed_dpo.engine.events import (
    EngineEvent,
    Observer,
    PhaseClosed,
    ReplyRefused,
    RoundFinished,
    RoundStarted,
    SharesDisputed,
)

Journal = Callable[..., None]
"""Called with the name of what happened and, by keyword, plain facts about it.

Whoever calls it passes numbers, names and reasons only: no keys, no vectors, no pairs, no bytes
that travelled.
"""


LOG_FILE = "log.jsonl"


def to_stderr(event: str, **facts: object) -> None:
    """Write one line to standard error."""
    sys.stderr.write(_line(event, facts))
    sys.stderr.flush()


def in_folder(folder: Path) -> Journal:
    """Return a journal that appends to `log.jsonl` in a run folder; the folder comes later."""

    def write(event: str, **facts: object) -> None:
        append_line(folder / LOG_FILE, _line(event, facts), sync=False)

    return write


def journal_of_rounds(journal: Journal) -> Observer:
    """Return an observer that writes down how rounds and phases went, and what they cost."""

    def observe(event: EngineEvent) -> None:
        match event:
            case RoundStarted(round=number, cohort=cohort):
                journal("round started", round=number, invited=cohort)
            case PhaseClosed(round=number, phase=phase, answered=answered, missing=missing):
                journal(
                    "phase closed", round=number, phase=phase, answered=answered, missing=missing
                )
            case ReplyRefused(round=number, phase=phase, client=client, reason=reason):
                journal("reply refused", round=number, phase=phase, client=client, reason=reason)
            case SharesDisputed(round=number, owner=owner, holders=holders, reason=reason):
                journal(
                    "shares disputed", round=number, owner=owner, holders=holders, reason=reason
                )
            case RoundFinished(row=row):
                journal(
                    "round finished",
                    round=row.round,
                    status=row.status,
                    survivors=row.survivors,
                    epsilon=row.epsilon,
                    seconds=row.seconds,
                )
            case _:
                pass

    return observe


def _line(event: str, facts: Mapping[str, object]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "event": event, **facts}, default=str) + "\n"
