"""What every form of training shares: how it ends, and its books of rounds and epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from accounting import Ledger, Mode
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.events import MetricsRow, Observer, RoundFinished
from privfed_dpo.engine.exchange import Exchange
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.errors import PrivFedError, RunAborted, RunDiverged

ABORTS_IN_A_ROW = 5
"""After this many aborted rounds in a row the run stops: going on would only spend budget."""

Measure = Callable[[npt.NDArray[np.float32]], Mapping[str, Any]]
TrainingScript = Generator[Exchange, Mapping[int, bytes], "TrainingResult"]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How training ended.

    Attributes:
        status: "finished", "budget_spent", "aborted" or "diverged".
        reason: a sentence for people.
        checkpoint: the last saved state.
    """

    status: str
    reason: str
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Closing:
    """When the adapter is measured, and how training ends: with what it leaves behind measured.

    Attributes:
        plan: the run's plan.
        every: rounds between measurements.
        save: called with a checkpoint that a late measurement has changed.
        observer: told of the last row again, where it was measured late.
    """

    plan: RunPlan
    every: int
    save: Callable[[Checkpoint], None]
    observer: Observer

    def due(self, number: int) -> bool:
        """Whether this round ends with a measurement; the last planned one always does."""
        return number % self.every == 0 or number == self.plan.rounds

    def end(
        self,
        status: str,
        reason: str,
        checkpoint: Checkpoint,
        measure: Callable[[Checkpoint], Mapping[str, Any]],
    ) -> TrainingResult:
        """End training.

        Args:
            status: see `TrainingResult`.
            reason: see `TrainingResult`.
            checkpoint: the last saved state.
            measure: metrics of a checkpoint's adapter, by the names of MetricsRow; called if the
                last row has none.

        Returns:
            The result, whose last row belongs to its adapter. A late measurement that is not finite
            makes a run diverged that had come to its end, or to that of its budget.
        """
        row = checkpoint.rows[-1] if checkpoint.rows else None
        if row is not None and (row.status == "lost" or not self.due(row.round)):
            measured = measure(checkpoint)
            if measured:
                row = replace(row, **measured)
                checkpoint = replace(checkpoint, rows=(*checkpoint.rows[:-1], row))
                self.save(checkpoint)
                self.observer(RoundFinished(row))
        fault = self.fault(checkpoint)
        if fault is not None and status in {"finished", "budget_spent"}:
            status, reason = "diverged", fault
        return TrainingResult(status, reason, checkpoint)

    def fault(self, checkpoint: Checkpoint) -> str | None:
        """Why it is no use to go on from here, as far as measured rows tell; None if it is."""
        rows = [r for r in checkpoint.rows if (r.loss, r.reward_accuracy) != (None, None)]
        # In a checkpoint that was read back a loss that is no number is null.
        if not rows or math.isfinite(math.nan if rows[-1].loss is None else rows[-1].loss):
            return None
        if rows[-1].round == 0:
            return (
                "the held-out loss is not a finite number before any training: the base model may "
                "be damaged, or model.dtype too narrow for it"
            )
        return (
            f"the held-out loss is not a finite number after round {rows[-1].round}: {self._cause}"
        )

    def overflow(self, number: int) -> str:
        """Why training ends after a round whose step made the adapter infinite."""
        return (
            f"the step of round {number} made the adapter infinite, and the one before it is "
            f"kept: {self._cause}"
        )

    @property
    def _cause(self) -> str:
        if self.plan.gossip is not None:
            return "federation.local_learning_rate is too large"
        if self.plan.sums_gradients:
            return "federation.learning_rate is too large, or privacy.max_grad_norm"
        return "federation.local_learning_rate or federation.learning_rate is too large"


def fits_float32(weights: npt.NDArray[np.float64]) -> bool:
    """Whether an adapter can be sent and loaded: every weight is a finite float32."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(weights.astype(np.float32)).all())


def bad_end(status: str, reason: str) -> PrivFedError | None:
    """The error that a status of a complete run folder stands for; None for a good one.

    Args:
        status: see `TrainingResult`.
        reason: see `TrainingResult`.
    """
    if status == "aborted":
        return RunAborted(
            reason,
            advice="More drop-outs than privacy.dropout_tolerance: raise it or find the cause.",
        )
    if status == "diverged":
        return RunDiverged(
            reason, advice="Change that and start a new run; what this one spent stays spent."
        )
    return None


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
