"""Which columns a whole source has: a name that is nowhere, and prompts that only some rows have.

One row cannot tell a misnamed prompt column from a source without one: in both the prompt would be
what the answers share. The source as a whole can.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from privfed_dpo.errors import DataError

KNOWN_COLUMNS = ("prompt", "chosen", "rejected", "user", "topic")
"""The columns this package reads, under the names it gives them."""

LABELS = ("user", "topic")
"""Columns that say of a pair whose it is and what about."""

ROWS_SHOWN = 5
"""How many rows of each kind an error message names."""


@dataclass(slots=True)
class ColumnCensus:
    """What rows of one source held, counted while they are read.

    Attributes:
        columns: for each name in `KNOWN_COLUMNS`, the column that holds it in this source.
        present: every column that any row had.
        filled: columns that any row had a value in.
        with_prompt: numbers of the first rows that had a value in the prompt column.
        without_prompt: numbers of the first rows that had none.
        prompts: rows that had a value in the prompt column.
        rows: rows in all.
    """

    columns: Mapping[str, str]
    present: set[str] = field(default_factory=set)
    filled: set[str] = field(default_factory=set)
    with_prompt: list[int] = field(default_factory=list)
    without_prompt: list[int] = field(default_factory=list)
    prompts: int = 0
    rows: int = 0

    def count(self, number: int, values: Mapping[str, Any]) -> None:
        """Take note of one row.

        Args:
            number: where it stands in the source.
            values: column name to value.
        """
        self.rows += 1
        self.present.update(map(str, values))
        self.filled.update(c for c in self.columns.values() if values.get(c) is not None)
        explicit = values.get(self.columns["prompt"]) is not None
        self.prompts += explicit
        shown = self.with_prompt if explicit else self.without_prompt
        if len(shown) < ROWS_SHOWN:
            shown.append(number)

    def require_named(self, source: str, *, optional: Collection[str] = ()) -> None:
        """Refuse a column that was named by hand and that no row has a value in.

        Args:
            source: the source, for messages.
            optional: parts of `KNOWN_COLUMNS` that may be missing all the same.

        Raises:
            DataError: names every such column, and the columns there are.
        """
        absent = [
            f"{part}={column} ({'always null' if column in self.present else 'in no row'})"
            for part, column in self.columns.items()
            if column not in {part, *self.filled} and part not in optional
        ]
        if self.rows and absent:
            present = ", ".join(sorted(self.present)) or "none"
            raise DataError(
                f"{source}: data.columns names what the data do not have: {', '.join(absent)}; "
                f"columns present: {present}",
                source=source,
                advice="Correct the name in data.columns, or leave it out if there is no such "
                "column.",
            )

    def require_one_kind_of_prompt(self, source: str) -> None:
        """Refuse rows with a prompt beside rows without: theirs would be cut from the answers.

        Args:
            source: the source, for messages.

        Raises:
            DataError: with the counts and the first rows of each kind.
        """
        without = self.rows - self.prompts
        if self.prompts and without:
            column = self.columns["prompt"]
            raise DataError(
                f"{source}: {self.prompts} of {self.rows} rows have a prompt in column "
                f"'{column}' ({_listed(self.with_prompt, self.prompts)}) and {without} have none "
                f"({_listed(self.without_prompt, without)})",
                source=source,
                advice="Give every row its prompt, or none where chosen and rejected begin with "
                "it.",
            )


def _listed(numbers: list[int], count: int) -> str:
    noun = "row" if count == 1 else "rows"
    more = ", ..." if count > len(numbers) else ""
    return f"{noun} {', '.join(map(str, numbers))}{more}"
