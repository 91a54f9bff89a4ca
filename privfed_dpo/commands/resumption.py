"""What a user is told when a run stops in the middle, or cannot be taken up again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from privfed_dpo.durable import no_room_behind
from privfed_dpo.errors import ConfigError, DiskFull, PrivFedError

_LEDGER = "ledger.jsonl"
_LATER = ("plan.json", "metrics.jsonl")
"""Written only after the ledger."""


class _Interrupted(PrivFedError):
    """Ctrl-C in the middle of a run."""


@contextlib.contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say after Ctrl-C or on a full disk what became of the run and what to do next."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise _stopped(_Interrupted, folder, "interrupted", first="") from stop
    except Exception as error:
        no_room = no_room_behind(error)
        if no_room is None:
            raise
        why = f"the disk is full, and the run in {folder} stopped ({no_room})"
        raise _stopped(DiskFull, folder, why, first="Free space. ") from error


def _stopped(kind: type[PrivFedError], folder: Path, why: str, *, first: str) -> PrivFedError:
    """An error that says whether a run can go on, and how."""
    if (folder / _LEDGER).is_file():
        return kind(
            f"{why}; what was spent is in the ledger",
            advice=f"{first}Go on with: privfed-dpo resume {folder}",
        )
    left = f" Remove {folder} first." if folder.exists() else ""
    return kind(
        f"{why} before training began; nothing was spent",
        advice=f"{first}Start again with the same command.{left}",
    )


def require_run(folder: Path) -> None:
    """Refuse to resume what is no run.

    Raises:
        ConfigError: there never was one, it died before it began, or its ledger is gone.
    """
    if (folder / _LEDGER).is_file():
        return
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            (f"there is no run to resume in {folder}",),
            advice="Give a run folder written by train or server.",
        )
    if any((folder / name).exists() for name in _LATER):
        raise ConfigError(
            (f"the ledger of the run in {folder} is missing",),
            advice=f"Put {_LEDGER} back: what the run spent stands there and nowhere else.",
        )
    raise ConfigError(
        (f"the run in {folder} died before training began; nothing was spent",),
        advice=f"Remove {folder}, then start again with the same command.",
    )
