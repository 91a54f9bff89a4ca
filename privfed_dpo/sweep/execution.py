"""One run of a sweep, by the same functions as `train` and `resume`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from privfed_dpo.config import Config
from privfed_dpo.engine.events import Observer
from privfed_dpo.errors import InputNotice
from privfed_dpo.sweep.outcome import has_ended


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is asked to do.

    Attributes:
        config: the run, its folder and cache included.
        folder: the run folder; it exists and is empty, unless the run is resumed.
        resume: whether to go on with what the folder holds; the training may have ended.
    """

    config: Config = field(repr=False)
    folder: Path
    resume: bool


Runner: TypeAlias = Callable[[Job, Sequence[Observer]], None]
"""Carries a job out; raises what `train` raises. A worker process must be able to import it."""


def train_run(job: Job, observers: Sequence[Observer]) -> None:
    """Train, or go on training; then audit, if the run carries canaries.

    Who is left out of the data was said when the sweep made its plans.

    Raises:
        PrivFedError: see `lifecycle.train` and `audit_run`.
    """
    from privfed_dpo import lifecycle  # noqa: PLC0415 - torch is loaded in workers only
    from privfed_dpo.audit.run_audit import AUDIT_FILE, audit_run  # noqa: PLC0415
    from privfed_dpo.report.page import write_report  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*are left out", category=InputNotice)
        if not job.resume:
            lifecycle.train(job.config, folder=job.folder, observers=observers)
        elif not has_ended(job.folder):
            lifecycle.resume(job.folder, observers=observers)
    wanted = job.config.evaluation.audit_lanes or job.config.evaluation.audit_pairs
    if wanted and not (job.folder / AUDIT_FILE).is_file():
        audit_run(job.folder, lifecycle.reopen)
        write_report(job.folder)
