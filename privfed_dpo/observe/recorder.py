"""Engine events into the run folder, each on the disk before the engine goes on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from privfed_dpo.durable import cut_torn_line
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
from privfed_dpo.observe.run_folder import (
    METRICS_FILE,
    PLAN_FILE,
    SUMMARY_FILE,
    append_row,
    write_json_atomic,
    write_rows,
)


class RunRecorder:
    """An observer that keeps `plan.json`, `metrics.jsonl` and `summary.json`.

    It changes no row it has written but the last one, which may be measured when training ends; a
    run that goes on after a crash first calls `restore` with the rows of its checkpoint.

    Attributes:
        run_dir: the run folder, created if it is missing.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        cut_torn_line(run_dir / METRICS_FILE)

    def __call__(self, event: EngineEvent) -> None:
        """Record one event."""
        match event:
            case PlanReady(plan=plan):
                write_json_atomic(self.run_dir / PLAN_FILE, plan)
            case RoundFinished(row=row):
                append_row(self.run_dir / METRICS_FILE, row)
            case RunFinished(summary=summary):
                write_json_atomic(self.run_dir / SUMMARY_FILE, summary)
            case RoundStarted() | PhaseClosed() | ReplyRefused() | SharesDisputed():
                pass

    def restore(self, rows: Iterable[MetricsRow]) -> None:
        """Make the metrics file agree with a checkpoint.

        Args:
            rows: every row the checkpoint knows, in order; they replace what is on the disk.
        """
        write_rows(self.run_dir / METRICS_FILE, rows)
