"""How far a sweep is: a moving display on a terminal, a line for each ended run anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from privfed_dpo.observe.live_display import LiveDisplay
from privfed_dpo.observe.quantities import UNKNOWN, format_number, format_seconds, format_share
from privfed_dpo.sweep.worker import RunEnded, RunProgress, RunStarted, WorkerEvent

BAR_COLUMNS = 40


@dataclass(slots=True)
class _Current:
    """A run that a worker has."""

    began: float
    round: int = 0
    rounds: int = 0

    @property
    def share(self) -> float:
        return self.round / self.rounds if self.rounds else 0.0


class SweepProgress:
    """Shows what the workers tell; use it as a context manager.

    Attributes:
        console: where to print; it decides whether this is a terminal.
    """

    def __init__(
        self,
        console: Console,
        *,
        metric: str,
        total: int,
        done: int,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with what is known.

        Args:
            console: see the class.
            metric: the objective, printed with each ended run.
            total: all runs of the sweep.
            done: runs that had ended before.
            workers: processes that share the work.
            clock: seconds from any fixed moment.
        """
        self.console = console
        self._metric = metric
        self._total = total
        self._done = done
        self._workers = workers
        self._clock = clock
        self._current: dict[str, _Current] = {}
        self._took_seconds: list[float] = []
        self._screen = LiveDisplay(console, self.display, refreshes_per_second=4)

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

    def __call__(self, event: WorkerEvent) -> None:
        """Show one event."""
        match event:
            case RunStarted(name=name):
                self._current[name] = _Current(self._clock())
            case RunProgress(name=name, round=number, rounds=rounds):
                current = self._current.setdefault(name, _Current(self._clock()))
                current.round, current.rounds = number, rounds
            case RunEnded():
                self._end(event)
        self._screen.update()

    def seconds_to_go(self) -> float | None:
        """Expected time until the last run ends; None before the first one has."""
        if not self._took_seconds:
            return None
        mean = sum(self._took_seconds) / len(self._took_seconds)
        left = self._total - self._done - sum(one.share for one in self._current.values())
        return mean * max(0.0, left) / self._workers

    def display(self) -> RenderableType:
        """A bar, and what each worker is at."""
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            f"run {self._done}/{self._total}",
            ProgressBar(total=max(1, self._total), completed=self._done, width=BAR_COLUMNS),
            f"{self._to_go()} to go",
        )
        lines = [
            Text(f"  {name}  round {one.round}/{one.rounds or UNKNOWN}", style="dim")
            for name, one in self._current.items()
        ]
        return Group(bar, *lines)

    def _to_go(self) -> str:
        return format_seconds(self.seconds_to_go())

    def _end(self, event: RunEnded) -> None:
        self._done += 1
        current = self._current.pop(event.name, None)
        if current is not None:
            self._took_seconds.append(self._clock() - current.began)
        told = f"  {event.reason}" if event.value is None else f"  {self._value(event.value)}"
        self.console.print(
            f"run {self._done}/{self._total}  {event.name}  {event.status}{told}"
            f"  ({self._to_go()} to go)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def _value(self, value: float) -> str:
        shown = format_share(value) if self._metric == "reward_accuracy" else format_number(value)
        return f"{self._metric} {shown}"
