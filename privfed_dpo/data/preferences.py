"""Loading preference pairs, with every problem of a source reported at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from privfed_dpo.data.columns import KNOWN_COLUMNS, LABELS, ColumnCensus
from privfed_dpo.data.formats import RowProblem, pair_from_row
from privfed_dpo.data.pairs import (
    ChatMessage,
    PreferenceFacts,
    PreferencePair,
    Text,
    describe_pairs,
)
from privfed_dpo.data.rows import RawRow, read_rows
from privfed_dpo.errors import DataError

__all__ = [
    "ChatMessage",
    "PreferenceFacts",
    "PreferencePair",
    "Text",
    "describe_pairs",
    "load_preferences",
    "pairs_of_rows",
]

PROBLEMS_SHOWN = 5
"""How many bad rows an error message spells out before it only counts them."""


def load_preferences(
    source: str,
    *,
    split: str = "train",
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    labels_needed: bool = True,
) -> tuple[PreferencePair, ...]:
    """Load and check a whole source; either every row is good or nothing is returned.

    Repeated and contradictory judgments are legal; `describe_pairs` counts them.

    Args:
        source: a `.jsonl`, `.jsonl.gz` or `.parquet` file in one of TRL's preference formats (see
            `privfed_dpo.data.formats`), a local data-set folder, or a hub id.
        split: the split to read of a folder or hub id, for example "train".
        name: the configuration of a hub id that has several.
        columns: where a source uses other names, its column for any of "prompt", "chosen",
            "rejected", "user" and "topic". Such a column must be there.
        labels_needed: whether that holds of "user" and "topic" too; held-out pairs may do without.

    Returns:
        The pairs in file order, prompts explicit, columns not named above dropped.

    Raises:
        DataError: the source cannot be read or is empty, `columns` names an unknown part or a
            column that is not there, only some rows have a prompt, or rows are bad; the message
            names the first few with their row numbers and counts them all.
    """
    return pairs_of_rows(
        read_rows(source, split=split, name=name),
        source=source,
        columns=columns,
        labels_needed=labels_needed,
    )


def pairs_of_rows(
    rows: Iterable[RawRow],
    *,
    source: str,
    columns: Mapping[str, str] | None = None,
    labels_needed: bool = True,
) -> tuple[PreferencePair, ...]:
    """Check rows that are here already; either every row is good or nothing is returned.

    Args:
        rows: in order.
        source: what to call them in messages.
        columns: as for `load_preferences`.
        labels_needed: as for `load_preferences`.

    Raises:
        DataError: as `load_preferences`.
    """
    mapping = _column_names(columns or {}, source)
    census = ColumnCensus(mapping)
    pairs: list[PreferencePair] = []
    problems: list[str] = []
    bad_rows = 0
    for row in rows:
        problem = row.problem
        if row.values is not None:
            census.count(row.number, row.values)
            try:
                pairs.append(pair_from_row(row.values, mapping))
            except RowProblem as error:
                problem = str(error)
        if problem:
            bad_rows += 1
            if bad_rows <= PROBLEMS_SHOWN:
                problems.append(f"row {row.number}: {problem}")
    census.require_named(source, optional=() if labels_needed else LABELS)
    if bad_rows:
        raise _bad_rows(source, problems, bad_rows=bad_rows, rows=bad_rows + len(pairs))
    if not pairs:
        raise DataError(
            f"{source}: no rows",
            source=source,
            advice="Give at least one preference pair, or another split.",
        )
    census.require_one_kind_of_prompt(source)
    return tuple(pairs)


def _column_names(columns: Mapping[str, str], source: str) -> dict[str, str]:
    unknown = sorted(set(columns) - set(KNOWN_COLUMNS))
    if unknown:
        raise DataError(
            f"{source}: unknown part(s) in the column mapping: {', '.join(unknown)}",
            source=source,
            advice=f"Map only {', '.join(KNOWN_COLUMNS)}.",
        )
    return {known: columns.get(known, known) for known in KNOWN_COLUMNS}


def _bad_rows(source: str, problems: list[str], *, bad_rows: int, rows: int) -> DataError:
    listed = "\n".join(f"  {problem}" for problem in problems)
    hidden = bad_rows - len(problems)
    more = f"\n  and {hidden} more" if hidden else ""
    return DataError(
        f"{source}: {bad_rows} of {rows} rows cannot be used\n{listed}{more}",
        source=source,
        advice="Rows need 'prompt', 'chosen' and 'rejected' as text or as message lists "
        "(the prompt may be the shared beginning of the other two). "
        "Columns of other names are named by data.columns.",
    )
