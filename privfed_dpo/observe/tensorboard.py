"""Rows as TensorBoard scalars, for those who watch their runs there (extra `tensorboard`).

The scalars are those of `metrics.jsonl` under names that TensorBoard groups; nothing is shown that
does not stand in the run folder. What was not measured is no point, never a zero.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from privfed_dpo.config import Config
from privfed_dpo.engine.events import (
    EngineEvent,
    MetricsRow,
    Observer,
    RoundFinished,
    RoundStarted,
    RunFinished,
)
from privfed_dpo.errors import ConfigError
from privfed_dpo.observe.recorder import RunRecorder

TENSORBOARD_FOLDER = "tensorboard"
_PACKAGE = "tensorboard"
_GROUPS = {
    "privacy": ("epsilon", "epsilon_rdp", "epsilon_realised"),
    "held_out": ("loss", "reward_accuracy", "reward_margin", "kl", "grad_norm_sq", "clip_fraction"),
    "clients": (
        "heterogeneity",
        "drift",
        "staleness",
        "client_accuracy_min",
        "client_accuracy_mean",
    ),
    "graph": ("consensus_error_before", "consensus_error", "consensus_predicted", "spectral_gap"),
    "round": ("cohort", "survivors", "upload_bytes", "download_bytes", "seconds"),
}


class Writer(Protocol):
    """The part of torch's SummaryWriter that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Add one point."""

    def flush(self) -> None:
        """Put everything on the disk."""

    def close(self) -> None:
        """Flush and close."""


class TensorBoardScalars:
    """An observer that writes a point per figure and round.

    Args:
        open_writer: called once, when there is something to write.

    A round that a crash destroyed has no points; its spend is in the next row's epsilon.
    """

    def __init__(self, open_writer: Callable[[], Writer]) -> None:
        self._open_writer = open_writer
        self._writer: Writer | None = None
        self._round = 0

    def __call__(self, event: EngineEvent) -> None:
        """Write what an event says."""
        match event:
            case RoundStarted(round=number):
                self._round = number
            case RoundFinished(row=row):
                self._round = row.round
                self._write(dict(row_scalars(row)))
            case RunFinished(summary=summary):
                self._write(dict(floor_scalars(summary)))
                if self._writer is not None:
                    self._writer.close()
                    self._writer = None
            case _:
                pass

    def _write(self, scalars: Mapping[str, float]) -> None:
        if not scalars:
            return
        if self._writer is None:
            self._writer = self._open_writer()
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, value, self._round)
        self._writer.flush()


def row_scalars(row: MetricsRow) -> Iterator[tuple[str, float]]:
    """Yield the figures of a row that were measured, as (tag, value)."""
    for group, names in _GROUPS.items():
        for name in names:
            value = getattr(row, name)
            if value is not None and math.isfinite(value):
                yield f"{group}/{name}", float(value)
    for phase, count in row.dropped.items():
        yield f"dropped/{phase}", float(count)


def floor_scalars(summary: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """Yield what a summary predicts to keep the gradient from zero, as (tag, value)."""
    floor = summary.get("floor")
    for source in floor["sources"] if isinstance(floor, Mapping) else ():
        for kind in ("predicted", "measured"):
            if source[kind] is not None:
                yield f"floor_{kind}/{source['name'].replace(' ', '_')}", float(source[kind])


def require_watchers(config: Config) -> None:
    """Refuse a run whose rows cannot be shown where they are wanted, before it begins.

    Raises:
        ConfigError: TensorBoard is wanted and its package is missing.
    """
    if config.run.tensorboard and importlib.util.find_spec(_PACKAGE) is None:
        raise ConfigError(
            ("run.tensorboard is set, and the package tensorboard is not installed",),
            advice="pip install 'privfed-dpo[tensorboard]', or leave run.tensorboard off.",
        )


def keepers(folder: Path, config: Config) -> tuple[Observer, ...]:
    """Return who writes a run down: the recorder first, then whom the configuration adds.

    Raises:
        ConfigError: see `require_watchers`.
    """
    require_watchers(config)
    recorder = RunRecorder(folder)
    if not config.run.tensorboard:
        return (recorder,)
    return (recorder, TensorBoardScalars(lambda: _summary_writer(folder / TENSORBOARD_FOLDER)))


def _summary_writer(folder: Path) -> Writer:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an optional extra

    writer: Writer = SummaryWriter(log_dir=str(folder))
    return writer
