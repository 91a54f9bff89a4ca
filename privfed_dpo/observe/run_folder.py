"""The files of a run folder: their names, and how they are written so that a crash spoils none."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from privfed_dpo.config import Config
from privfed_dpo.durable import append_line, write_atomically
from privfed_dpo.engine.events import MetricsRow
from privfed_dpo.errors import ConfigError, DataError
from privfed_dpo.observe.plain_json import parse_json

CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
PLAN_FILE = "plan.json"
METRICS_FILE = "metrics.jsonl"
LEDGER_FILE = "ledger.jsonl"
SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"
ADAPTER_FOLDER = "adapter"
CHECKPOINT_FOLDER = "checkpoint"


def new_run_folder(config: Config, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Path:
    """Return where a new run will live; nothing is created yet.

    Args:
        config: names the folder, or leaves it to be named after the time and the mode.
        now: the time.

    Raises:
        ConfigError: something is there already, or no folder can be made there.
    """
    if config.run.dir is None:
        name = f"{now():%Y%m%d-%H%M%S}-{config.privacy.mode}-{secrets.token_hex(2)}"
        folder = Path("runs") / name
    else:
        folder = Path(config.run.dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        choice = "Choose another folder"
        resumable = (folder / LEDGER_FILE).is_file()
        raise ConfigError(
            (f"run.dir={folder} exists and is not an empty folder",),
            advice=f"{choice}, or go on with: privfed-dpo resume {folder}"
            if resumable
            else f"{choice}, or empty this one.",
        )
    above = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(
            (f"run.dir={folder} cannot be made: {above} is no folder that can be written to",),
            advice="Choose another folder.",
        )
    return folder


def write_text_atomic(path: Path, text: str) -> None:
    """Replace a file as a whole: readers see the old content or the new, never a part.

    Args:
        path: the file; its folder exists.
        text: the new content, written as UTF-8 and flushed to the disk before it replaces the old.
    """
    write_atomically(path, text.encode())


def write_json_atomic(path: Path, content: Mapping[str, object]) -> None:
    """Replace a JSON file as a whole; see `write_text_atomic`.

    Args:
        path: the file; its folder exists.
        content: plain data. Numbers that are not finite have no JSON form and become null.
    """
    text = json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False)
    write_text_atomic(path, f"{text}\n")


def append_row(path: Path, row: MetricsRow) -> None:
    """Add one metrics row as one line, on the disk when this returns.

    A row for the round that stands last takes its place.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    if lines and _round_of(lines[-1]) == row.round:
        write_text_atomic(path, "".join([*lines[:-1], _line(row)]))
    else:
        append_line(path, _line(row))


def write_rows(path: Path, rows: Iterable[MetricsRow]) -> None:
    """Replace the metrics file by these rows."""
    write_text_atomic(path, "".join(_line(row) for row in rows))


def read_rows(path: Path) -> tuple[dict[str, object], ...]:
    """Read a metrics file.

    Args:
        path: a file of one JSON object per line. A last line without its end is a write that a
            crash cut short and is left out; of several rows for one round the last counts.

    Returns:
        One mapping per round, in the order of rounds; empty if there is no such file.

    Raises:
        DataError: a whole line is not a row.
    """
    if not path.exists():
        return ()
    rows: dict[int, dict[str, object]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            continue
        try:
            row = _row(line)
        except ValueError as error:
            raise DataError(
                f"{path}: line {number} is not a metrics row: {error}",
                source=str(path),
                advice="Restore the file; its rows are also in the checkpoint.",
            ) from error
        rows[row[0]] = row[1]
    return tuple(rows[number] for number in sorted(rows))


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Args:
        path: the file.

    Returns:
        Its content; empty if there is no such file.

    Raises:
        DataError: the file is not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: {error}", source=str(path)) from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object", source=str(path))
    return content


def _round_of(line: str) -> int | None:
    """The round of a row in a metrics file; None for a line that is no row."""
    try:
        return _row(line.encode())[0]
    except ValueError:
        return None


def _row(line: bytes) -> tuple[int, dict[str, object]]:
    row = parse_json(line)
    if isinstance(row, dict):
        number = row.get("round")
        if isinstance(number, int) and not isinstance(number, bool):
            return number, row
    raise ValueError("no object with the number of a round")


def _line(row: MetricsRow) -> str:
    return f"{json.dumps(_finite(asdict(row)), allow_nan=False)}\n"


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
