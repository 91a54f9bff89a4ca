"""What every form of training shares: its result, and its books of rounds and epsilon."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accounting import Ledger, Mode
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.events import MetricsRow
from privfed_dpo.engine.exchange import Exchange

ABORTS_IN_A_ROW = 5
"""After this many aborted rounds in a row the run stops: going on would only spend budget."""

Measure = Callable[[npt.NDArray[np.float32]], Mapping[str, Any]]
TrainingScript = Generator[Exchange, Mapping[int, bytes], "TrainingResult"]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How training ended.

    Attributes:
        status: "finished", "budget_spent" or "aborted".
        reason: a sentence for people.
        checkpoint: the last saved state.
    """

    status: str
    reason: str
    checkpoint: Checkpoint


def start_row(mode: Mode, measured: Mapping[str, Any], seconds: float) -> MetricsRow:
    """Return row 0: the model before any training, nothing spent."""
    spent = None if mode is Mode.NONE else 0.0
    return MetricsRow(
        round=0,
        status="start",
        epsilon=spent,
        epsilon_rdp=spent,
        epsilon_realised=spent,
        seconds=seconds,
        **measured,
    )


def lost_rows(ledger: Ledger, after: int) -> list[MetricsRow]:
    """Return rows for rounds that were booked but whose result an interruption destroyed."""
    return [
        MetricsRow(round=number, status="lost", survivors=None, **spent_so_far(ledger))
        for number in range(after + 1, (ledger.last_round or 0) + 1)
    ]


def spent_so_far(ledger: Ledger) -> dict[str, Any]:
    """Return the epsilon fields of a row; null without privacy."""
    if ledger.header.schedule.mode is Mode.NONE:
        return {"epsilon": None, "epsilon_rdp": None, "epsilon_realised": None}
    spent = ledger.epsilon()
    return {
        "epsilon": spent.certified,
        "epsilon_rdp": spent.rdp,
        "epsilon_realised": ledger.realised_epsilon(),
    }
