"""Live progress of a run: a moving display on a terminal, plain lines anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from privfed_dpo.engine.events import (
    EngineEvent,
    MetricsRow,
    PhaseClosed,
    PlanReady,
    ReplyRefused,
    RoundFinished,
    RoundStarted,
    RunFinished,
    SharesDisputed,
)
from privfed_dpo.observe.live_display import LiveDisplay
from privfed_dpo.observe.quantities import (
    UNKNOWN,
    format_epsilon,
    format_number,
    format_seconds,
    format_share,
)
from privfed_dpo.observe.summary import render_summary

BAR_COLUMNS = 40
RECENT_ROUNDS = 10
"""Rounds whose mean duration predicts the time to go."""


class ProgressConsole:
    """An observer that shows how far a run is.

    Use it as a context manager: the display ends with it, whatever ended the run. It needs no
    clock, since rows carry their own durations.

    Attributes:
        console: where to print; it decides whether this is a terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._screen = LiveDisplay(self.console, self.display, refreshes_per_second=8)
        self._target_epsilon: float | None = None
        self._private = True
        self._rounds_planned = 0
        self._round = 0
        self._cohort = 0
        self._phase = "preparing data, model and plan"
        self._row: MetricsRow | None = None
        self._accuracy: float | None = None
        self._seconds: list[float] = []

    def __enter__(self) -> Self:
        """Open the display, if this is a terminal."""
        self._screen.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state on the screen."""
        self._screen.close()

    def __call__(self, event: EngineEvent) -> None:
        """Show one event."""
        match event:
            case PlanReady(plan=plan):
                self._plan(dict(plan))
            case RoundStarted(round=number, rounds_planned=planned, cohort=cohort):
                self._round, self._rounds_planned, self._cohort = number, planned, cohort
                self._phase = "clients compute"
            case PhaseClosed(phase=phase, answered=answered, missing=missing):
                self._phase = f"{phase} done: {answered} answered"
                self._phase += f", {missing} missing" if missing else ""
            case ReplyRefused(round=number, phase=phase, client=client, reason=reason):
                self.console.print(
                    f"round {number}: client {client} refused in {phase}: {reason}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
            case SharesDisputed(round=number, reason=reason):
                self.console.print(
                    f"round {number}: {reason}", highlight=False, markup=False, soft_wrap=True
                )
            case RoundFinished(row=row):
                self._finish_round(row)
            case RunFinished(summary=summary):
                self._screen.close()
                self.console.print(render_summary(summary))
                return
        self._screen.update()

    def _plan(self, plan: dict[str, Any]) -> None:
        self._private = plan.get("mode") != "none"
        self._target_epsilon = plan.get("target_epsilon")
        self._rounds_planned = int(plan.get("rounds") or 0)
        self._phase = "measuring the untrained model"
        privacy = "NO differential privacy"
        if self._private:
            privacy = f"target epsilon {format_epsilon(self._target_epsilon)}"
        self.console.print(
            f"{plan.get('mode', UNKNOWN)} mode, {privacy}, {plan.get('clients', UNKNOWN)} clients, "
            f"{plan.get('pairs_total', UNKNOWN)} pairs, {self._rounds_planned} rounds",
            highlight=False,
        )

    def _finish_round(self, row: MetricsRow) -> None:
        self._row = row
        self._round = row.round
        self._phase = row.status
        if row.reward_accuracy is not None:
            self._accuracy = row.reward_accuracy
        if row.round > 0 and row.seconds is not None:
            self._seconds.append(row.seconds)
        if not self._screen.open or row.status not in {"start", "released"}:
            self.console.print(self._line(row), highlight=False, soft_wrap=True)

    def _line(self, row: MetricsRow) -> str:
        parts = [f"round {row.round}/{self._rounds_planned}"]
        if row.status not in {"start", "released"}:
            parts.append(row.status)
        if row.reward_accuracy is not None:
            parts.append(f"accuracy {format_share(row.reward_accuracy)}")
        if row.loss is not None:
            parts.append(f"loss {format_number(row.loss)}")
        if row.reward_margin is not None:
            parts.append(f"margin {format_number(row.reward_margin)}")
        parts.append(f"epsilon {self._spent(row)}")
        if row.survivors is not None:
            parts.append(f"survivors {row.survivors}/{row.cohort}")
        parts.append(format_seconds(row.seconds))
        return "  ".join(parts)

    def _spent(self, row: MetricsRow | None) -> str:
        if not self._private:
            return format_epsilon(None)
        spent = UNKNOWN if row is None or row.epsilon is None else format_epsilon(row.epsilon)
        if self._target_epsilon is None:
            return spent
        return f"{spent} of {format_epsilon(self._target_epsilon)}"

    def _time_to_go(self) -> str:
        recent = self._seconds[-RECENT_ROUNDS:]
        if not recent:
            return UNKNOWN
        done = self._row.round if self._row else 0
        return format_seconds(sum(recent) / len(recent) * max(0, self._rounds_planned - done))

    def display(self) -> RenderableType:
        """The state of the run: what is being prepared, then a bar and two lines."""
        if not self._rounds_planned:
            return Text(self._phase, style="dim")
        done = self._row.round if self._row else 0
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            f"round {self._round}/{self._rounds_planned}",
            ProgressBar(total=self._rounds_planned, completed=done, width=BAR_COLUMNS),
            f"{self._time_to_go()} to go",
        )
        row = self._row
        survivors = UNKNOWN if row is None or row.survivors is None else str(row.survivors)
        facts = Text("  ").append(f"accuracy {format_share(self._accuracy)}", style="bold")
        facts.append(f"   epsilon {self._spent(row)}")
        facts.append(f"   survivors {survivors}/{self._cohort or UNKNOWN}")
        return Group(bar, facts, Text(f"  {self._phase}", style="dim"))
