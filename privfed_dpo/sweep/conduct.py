"""A sweep from its file to its results: everything checked, then run, then told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from privfed_dpo.config import Config
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.errors import ConfigError
from privfed_dpo.sweep.checks import plan_points, require_measurable
from privfed_dpo.sweep.execution import Runner
from privfed_dpo.sweep.points import expand
from privfed_dpo.sweep.records import RunState
from privfed_dpo.sweep.results import SweepResults
from privfed_dpo.sweep.store import Address, SweepStore
from privfed_dpo.sweep.summary import collect, write_results, write_table
from privfed_dpo.sweep.sweep_file import SweepSpec
from privfed_dpo.sweep.worker import RunEnded, WorkerEvent
from privfed_dpo.sweep.workforce import employ


def prepare(
    spec: SweepSpec,
    address: Address,
    plan: Callable[[Config], RunPlan],
    observer: Callable[[str], object],
) -> SweepStore:
    """Check every run of a sweep, and put those that are new into its storage.

    Args:
        spec: the sweep file.
        address: where the sweep lives.
        plan: makes the plan of a run; see `lifecycle.plan`.
        observer: told the name of each run before its plan is made.

    Raises:
        ConfigError: what is wrong with any of the runs, or with the folder, or that a run could
            not be compared with others; nothing was run.
    """
    points, refused = expand(spec)
    if not points:
        raise ConfigError(
            ("every combination of the sweep was refused", *sorted({one.reason for one in refused}))
        )
    require_measurable(points, spec.objective)
    _require_sweep_folder(address)
    store = SweepStore(address)
    store.create(spec.objective, (*spec.grid, *(spec.search.ranges if spec.search else ())))
    known = {record.key for record in store.records()}
    planned, more = plan_points(
        points, plan, skip_refused=spec.skip_refused, known=known, observer=observer
    )
    if not planned and not known:
        raise ConfigError(
            ("every plan of the sweep was refused", *sorted({one.reason for one in more}))
        )
    store.add(
        planned,
        [asdict(one) for one in (*refused, *more)],
        [point.key for point in points],
    )
    return store


def progress_of(store: SweepStore) -> tuple[int, int]:
    """Return how many runs there are, and how many of them have ended."""
    runs = store.latest()
    return len(runs), sum(run.state is RunState.ENDED for run in runs)


def conduct(
    store: SweepStore, runner: Runner, workers: int, observer: Callable[[WorkerEvent], object]
) -> SweepResults:
    """Run what is left of a sweep, and write its results.

    Args:
        store: from `prepare`.
        runner: carries out one run.
        workers: worker processes on this machine.
        observer: told what the workers tell.

    Returns:
        What is known at the end.

    Raises:
        KeyboardInterrupt: runs at hand were given back; results.csv is up to date.
    """

    def tell(event: WorkerEvent) -> None:
        observer(event)
        if isinstance(event, RunEnded):
            write_table(store)

    total, ended = progress_of(store)
    write_table(store)
    if ended < total:
        hands = min(workers, total - ended)
        employ(store.address, runner, hands, tell, work_left=lambda: _work_left(store))
    results = collect(store)
    write_results(results, store.address.directory)
    return results


def _work_left(store: SweepStore) -> bool:
    total, ended = progress_of(store)
    return ended < total


def _require_sweep_folder(address: Address) -> None:
    """Refuse a folder that holds something else."""
    directory = address.directory
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "locks").is_dir():
        raise ConfigError(
            (f"--dir {directory} is not empty and holds no sweep",),
            advice="Choose another folder, or empty this one.",
        )
    if directory.exists() and not directory.is_dir():
        raise ConfigError((f"--dir {directory} is no folder",), advice="Choose another folder.")
