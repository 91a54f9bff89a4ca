"""Raw rows from a JSON Lines file, a Parquet file or a data set on the Hugging Face hub."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privfed_dpo.errors import DataError

FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
"""File types that are read without the network."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in the source.

    Attributes:
        number: line number in a JSON Lines file, else row number; both start at 1.
        values: column name to value; None when the row could not be parsed.
        problem: why not; empty when `values` is present.
    """

    number: int
    values: Mapping[str, Any] | None
    problem: str = ""


def read_rows(source: str, *, split: str, name: str | None = None) -> Iterator[RawRow]:
    """Yield the rows of a source in order.

    Args:
        source: a path ending in one of `FILE_SUFFIXES`, a local data-set folder (files by split, or
            what `save_to_disk` of the datasets library wrote), or a hub id such as `owner/name`.
        split: the split of a hub id or folder; files and saved single splits ignore it.
        name: the configuration of a hub id, when it has several.

    Yields:
        A row, or the problem that kept one line from being parsed.

    Raises:
        DataError: the source does not exist, cannot be reached, or is not of a known type.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if source.endswith(".parquet"):
            yield from _parquet_rows(path)
        elif source.endswith((".jsonl", ".jsonl.gz")):
            yield from _json_lines(path)
        else:
            raise DataError(
                f"{source}: files of this type are not read",
                source=source,
                advice=f"Use one of {', '.join(FILE_SUFFIXES)}.",
            )
    elif path.is_dir():
        yield from _hub_rows(str(path), split=split, name=name)
    elif source.endswith(FILE_SUFFIXES) or source.startswith((".", "/", "~")):
        raise DataError(
            f"{source}: no such file",
            source=source,
            advice="Paths are relative to the folder the command is run in; in a client's policy, "
            "to that of the policy.",
        )
    else:
        yield from _hub_rows(source, split=split, name=name)


def _json_lines(path: Path) -> Iterator[RawRow]:
    compressed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if compressed else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _json_row(number, line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: not a whole gzip file ({error})",
            source=str(path),
            advice="Copy the file again, or rename it if it is not compressed.",
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})", source=str(path)) from error


def _json_row(number: int, line: bytes) -> RawRow:
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return RawRow(number, None, "not UTF-8 text")
    except json.JSONDecodeError as error:
        return RawRow(number, None, f"not JSON: {error.msg} (column {error.colno})")
    except ValueError:  # the only one left: the interpreter's limit on digits
        return RawRow(number, None, "not usable JSON: a number has too many digits")
    except RecursionError:
        return RawRow(number, None, "not usable JSON: nested too deeply")
    if not isinstance(values, dict):
        kind = type(values).__name__
        return RawRow(number, None, f"a row must be a JSON object on one line, not {kind}")
    return RawRow(number, values)


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    import pyarrow as pa  # type: ignore[import-untyped] # noqa: PLC0415 - only for Parquet
    from pyarrow import parquet  # noqa: PLC0415

    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield RawRow(number, values)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file ({error})", source=str(path)
        ) from error


def _hub_rows(source: str, *, split: str, name: str | None) -> Iterator[RawRow]:
    from datasets import load_dataset, load_from_disk  # noqa: PLC0415 - heavy, only for these
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    folder = Path(source)
    try:
        if (folder / "dataset_dict.json").is_file():
            table = load_from_disk(source)[split]
        elif (folder / "state.json").is_file():
            table = load_from_disk(source)
        else:
            table = load_dataset(source, name, split=split)
    except (DatasetsError, OSError, ValueError, LookupError) as error:
        raise DataError(
            f"{source}: the data set (split '{split}') cannot be loaded: {error}",
            source=source,
            advice="Check the id, its split and configuration, the network, and `hf auth login` "
            "for a private set; a file must end in " + ", ".join(FILE_SUFFIXES) + ".",
        ) from error
    for number, values in enumerate(table, start=1):
        yield RawRow(number, values)
