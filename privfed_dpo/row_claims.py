"""What a run folder says about its rounds, held against what its ledger booked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accounting import LedgerRecord, LedgerVerdict
from privfed_dpo.errors import DataError
from privfed_dpo.observe.run_folder import METRICS_FILE, read_rows

Row = Mapping[str, object]

ROUNDING = 1e-6
"""How far an honest run's own figures may lie below those recomputed here, relative."""

_GRIDS = 1e-2
"""How far an honest row may lie below the one before, relative: near the budget the running figure
changes from a coarse grid to the certified one."""


@dataclass(frozen=True, slots=True)
class BookedRounds:
    """What a ledger's lines say about single rounds, be the ledger in order or not.

    Attributes:
        cohorts: round and clients of every spend, in the order of lines.
        released: rounds with the outcome "released".
    """

    cohorts: tuple[tuple[int, frozenset[str]], ...]
    released: frozenset[int]

    @classmethod
    def of_record(cls, record: LedgerRecord) -> BookedRounds:
        """Read them from a ledger; lines that no writer could have written are left out."""
        cohorts, released = [], set()
        for line in record.lines:
            number = line.body.get("round")
            if type(number) is not int:
                continue
            if line.kind == "spend" and isinstance(line.body.get("cohort"), list):
                names = (name for name in line.body["cohort"] if isinstance(name, str))
                cohorts.append((number, frozenset(names)))
            elif line.kind == "outcome" and line.body.get("status") == "released":
                released.add(number)
        return cls(tuple(cohorts), frozenset(released))

    def up_to(self, last: float) -> tuple[int, int]:
        """Return how many rounds are booked up to a round, and for the busiest client."""
        cohorts = [names for number, names in self.cohorts if number <= last]
        counts = Counter(name for names in cohorts for name in names)
        return len(cohorts), max(counts.values(), default=0)


def claimed_rows(folder: Path) -> tuple[tuple[Row, ...], list[str]]:
    """Read the rows of a run folder that a stranger wrote.

    Returns:
        The rows, none if there is no such file or it cannot be read, and what is wrong with it.
    """
    try:
        return read_rows(folder / METRICS_FILE), []
    except (DataError, OSError, RecursionError, TypeError, ValueError) as error:
        return (), [f"{METRICS_FILE} cannot be read: {error}"]


def understated_rows(
    rows: Sequence[Row], record: LedgerRecord, verdict: LedgerVerdict
) -> list[str]:
    """Find rows that tell of more rounds than the ledger, or of less epsilon.

    A ledger that is not closed may be ahead of the rows: each row is written after its round's
    lines. It is never behind them.

    Args:
        rows: from `claimed_rows`.
        record: the ledger.
        verdict: on it.

    Returns:
        One sentence for every row that the ledger does not bear out.
    """
    rounds = BookedRounds.of_record(record)
    booked = {number for number, _ in rounds.cohorts}
    problems, highest, last = [], 0.0, 0
    for row in rows:
        number, status, told = row.get("round"), row.get("status"), row.get("epsilon")
        if type(number) is not int:
            problems.append(f"{METRICS_FILE} has a row of round {number!r}, which is no number")
            continue
        if (number, status) != (0, "start") and number not in booked:
            problems.append(
                f"{METRICS_FILE} tells of round {number}, which the ledger never booked"
            )
        elif status == "released" and number not in rounds.released:
            problems.append(f"{METRICS_FILE} calls round {number} released, the ledger does not")
        claimed = claimed_epsilon(told)
        if not claimed >= highest * (1 - _GRIDS):
            problems.append(
                f"{METRICS_FILE} has epsilon {told} in round {number}, less than before it"
            )
        else:
            highest = max(highest, claimed)
        last = number
    if rows:
        problems += _understated_end(rows[-1], last, rounds, record, verdict)
    return problems


def _understated_end(
    row: Row, last: int, rounds: BookedRounds, record: LedgerRecord, verdict: LedgerVerdict
) -> list[str]:
    """Compare the last row's running epsilon with the ledger's up to there, or to its end."""
    header = record.header
    headline = header.schedule.headline
    spends, most = rounds.up_to(math.inf if verdict.status is not None else last)
    if spends == verdict.rounds:
        found = verdict.epsilon[headline].certified
    else:
        delta = header.budget.delta if header.budget is not None else 0.5
        found = header.schedule.spent(headline, delta, most, spends).certified
    told = row.get("epsilon")
    if claimed_epsilon(told) >= found * (1 - ROUNDING):
        return []
    return [f"{METRICS_FILE} ends with epsilon {told}; the ledger shows {found:.6g}"]


def miscounted_rounds(
    summary: Mapping[str, object], rows: Sequence[Row], record: LedgerRecord
) -> list[str]:
    """Compare the released rounds of a summary with those of the ledger.

    A round whose sum was opened but whose result a crash destroyed is released in the ledger and
    lost in the rows; it is no round done.
    """
    lost = {row.get("round") for row in rows if row.get("status") == "lost"}
    done = len(BookedRounds.of_record(record).released - lost)
    told = summary.get("rounds_done")
    if type(told) is int and told == done:
        return []
    return [f"summary.json claims {told} released rounds; the ledger shows {done}"]


def claimed_epsilon(value: object) -> float:
    """Return a claimed epsilon as a number: null is infinite, and what is no number is NaN."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
