"""`privfed-dpo sweep`: many runs as one experiment, with what choosing among them costs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from privfed_dpo import lifecycle
from privfed_dpo.commands.interruption import second_ctrl_c_ends_at_once
from privfed_dpo.errors import PrivFedError
from privfed_dpo.observe.quantities import format_epsilon, format_number, format_share
from privfed_dpo.sweep.conduct import conduct, prepare, progress_of
from privfed_dpo.sweep.execution import train_run
from privfed_dpo.sweep.figures import OBJECTIVES
from privfed_dpo.sweep.price import PRICE_HEADS, price_rows
from privfed_dpo.sweep.progress import SweepProgress
from privfed_dpo.sweep.results import Setting, SweepResults, settings, value_text
from privfed_dpo.sweep.store import DEFAULT_STUDY, Address
from privfed_dpo.sweep.sweep_file import load_sweep


class SweepInterrupted(PrivFedError):
    """Ctrl-C in the middle of a sweep."""


def run_sweep(
    file: Path,
    address: Address,
    overrides: Sequence[str] = (),
    *,
    workers: int,
    retry_failed: bool,
    give_up_elsewhere: bool,
) -> bool:
    """Carry out a sweep, or go on with it, and print its results.

    Args:
        file: the sweep file.
        address: where the sweep lives.
        overrides: `section.key=value` strings for every run, over the file's `set`.
        workers: processes on this machine.
        retry_failed: whether runs that failed earlier are made again.
        give_up_elsewhere: whether runs held by other folders are taken over.

    Returns:
        Whether every run has ended well.

    Raises:
        ConfigError: nothing was run.
        SweepInterrupted: results so far are written.
    """
    console = Console()
    spec = load_sweep(file, overrides)
    with console.status("checking the plan of every run") as status:
        store = prepare(
            spec,
            address,
            lifecycle.plan,
            lambda name: status.update(f"checking the plan of {name}"),
        )
    if retry_failed:
        store.retry_failed()
    if give_up_elsewhere:
        store.give_up_elsewhere()
    total, ended = progress_of(store)
    console.print(f"{total} runs, {ended} of them done, {workers} workers", highlight=False)
    progress = SweepProgress(
        console, metric=spec.objective, total=total, done=ended, workers=workers
    )
    advice = _go_on(file, address, overrides)
    try:
        with second_ctrl_c_ends_at_once(lambda: advice), progress:
            results = conduct(store, train_run, workers, progress)
    except KeyboardInterrupt as stop:
        raise SweepInterrupted(
            "interrupted; finished runs are kept, and the others go on where they were",
            advice=advice,
        ) from stop
    elsewhere = store.elsewhere()
    if elsewhere:
        console.print(f"{len(elsewhere)} runs are held by workers of another folder.")
    for part in render_results(results):
        console.print(part, soft_wrap=isinstance(part, str), highlight=False)
    console.print(f"report: {address.directory / 'report.html'}", soft_wrap=True, highlight=False)
    return results.complete and not results.failed


def _go_on(file: Path, address: Address, overrides: Sequence[str]) -> str:
    """The command that takes a sweep up again; a database's URL may hold a password."""
    words = ["privfed-dpo", "sweep", str(file), "--dir", str(address.directory)]
    if address.url:
        words += ["--storage", "URL"]
    if address.study != DEFAULT_STUDY:
        words += ["--study", address.study]
    return f"Go on with the same command: {shlex.join([*words, *overrides])}"


def render_results(results: SweepResults) -> list[RenderableType]:
    """The results for a terminal: a row for each setting, failures, the price of selection."""
    parts: list[RenderableType] = [_settings_table(results)]
    parts += [
        f"{run.name}: {run.result['status']} (exit code {run.result['exit_code']}): "
        f"{run.result['reason']}"
        for run in results.failed
        if run.result
    ]
    parts += [f"{one['name']}: refused: {one['reason']}" for one in results.refused]
    if results.price is not None:
        table = Table(
            title=f"The price of selection, epsilon at delta = {results.price.delta:.3g}",
            title_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for place, head in enumerate(PRICE_HEADS):
            table.add_column(head, justify="right" if place else "left")
        for row in price_rows(results.price):
            table.add_row(*row)
        parts += [table, results.price.sentence, *results.price.remarks]
    return parts


def _epsilon(setting: Setting) -> str:
    if not setting.private:
        return "none"
    return format_epsilon(setting.epsilon) if setting.runs else ""


def _settings_table(results: SweepResults) -> Table:
    table = Table(title="Settings over their seeds", title_justify="left", box=box.SIMPLE_HEAD)
    for key in results.swept or ("run",):
        table.add_column(key.rpartition(".")[2].replace("_", " "))
    for head in ("epsilon", OBJECTIVES[results.objective], "over the seeds", "runs"):
        table.add_column(head, justify="right")
    layout = format_share if results.objective == "reward_accuracy" else format_number
    for setting in settings(results.runs):
        values = setting.measured(results.objective)
        spread = f"{layout(min(values))} to {layout(max(values))}" if values else ""
        cells = [value_text(setting.values.get(key, setting.label)) for key in results.swept]
        table.add_row(
            *(cells or [setting.label or "all"]),
            _epsilon(setting),
            layout(sum(values) / len(values)) if values else "",
            spread,
            f"{len(setting.runs)} of {setting.planned}",
        )
    return table
