"""What a user is told when a run stops in the middle, or cannot be taken up again."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from privfed_dpo.commands.interruption import second_ctrl_c_ends_at_once
from privfed_dpo.durable import no_room_behind
from privfed_dpo.errors import ConfigError, DiskFull, PrivFedError

_LEDGER = "ledger.jsonl"
_LATER = ("plan.json", "metrics.jsonl")
"""Written only after the ledger."""


class _Interrupted(PrivFedError):
    """Ctrl-C in the middle of a run."""


class _OutOfMemory(PrivFedError):
    """The machine or its GPU had no memory left."""


@contextlib.contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say after Ctrl-C, or for want of room, what became of the run and what to do next."""
    try:
        with second_ctrl_c_ends_at_once(lambda: _go_on(folder)):
            yield
    except KeyboardInterrupt as stop:
        raise _stopped(_Interrupted, folder, "interrupted", first="") from stop
    except Exception as error:
        no_room = no_room_behind(error)
        if no_room is not None:
            why = f"the disk is full, and the run in {folder} stopped ({no_room})"
            raise _stopped(DiskFull, folder, why, first="Free space. ") from error
        if _is_out_of_memory(error):
            first = (
                "Make room, since other programs may hold memory; or take smaller "
                "dpo.micro_batch_pairs in a new run. "
            )
            why = f"out of memory: {_first_line(error)}"
            raise _stopped(_OutOfMemory, folder, why, first=first) from error
        raise


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so on a CPU by words only, on a GPU by a class."""
    named = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or named or "can't allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or "no room for what was asked"


def _stopped(kind: type[PrivFedError], folder: Path, why: str, *, first: str) -> PrivFedError:
    """An error that says whether a run can go on, and how."""
    began = (folder / _LEDGER).is_file()
    what = (
        "; what was spent is in the ledger"
        if began
        else " before training began; nothing was spent"
    )
    return kind(f"{why}{what}", advice=f"{first}{_go_on(folder)}")


def _go_on(folder: Path) -> str:
    if (folder / _LEDGER).is_file():
        return f"Go on with: privfed-dpo resume {shlex.quote(str(folder))}"
    left = f" Remove {folder} first." if folder.exists() else ""
    return f"Start again with the same command.{left}"


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
