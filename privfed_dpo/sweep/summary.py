"""What a sweep leaves beside its runs: results.csv, summary.json and the report."""

from __future__ import annotations

from pathlib import Path

from privfed_dpo.observe.run_folder import (
    REPORT_FILE,
    SUMMARY_FILE,
    write_json_atomic,
    write_text_atomic,
)
from privfed_dpo.report.standalone import standalone_svg
from privfed_dpo.sweep.figures import sweep_figures
from privfed_dpo.sweep.page import render_sweep_page
from privfed_dpo.sweep.price import price_facts, selection_price
from privfed_dpo.sweep.results import SweepResults, best_run, results_csv, settings
from privfed_dpo.sweep.store import SweepStore

RESULTS_FILE = "results.csv"
FIGURES_FOLDER = "figures"


def collect(store: SweepStore) -> SweepResults:
    """Read the results of a sweep, and price the selection among its runs."""
    facts = store.facts
    runs, everything = store.latest(), store.records()
    best = best_run(runs, facts["objective"])
    return SweepResults(
        name=store.address.directory.resolve().name,
        objective=str(facts["objective"]),
        swept=tuple(facts["swept"]),
        runs=runs,
        all_runs=everything,
        refused=store.refused,
        best=best,
        price=selection_price(everything, best),
    )


def write_table(store: SweepStore) -> None:
    """Write results.csv as it is now."""
    text = results_csv(store.latest(), store.refused, store.facts["swept"])
    write_text_atomic(store.address.directory / RESULTS_FILE, text)


def write_results(results: SweepResults, directory: Path) -> None:
    """Write results.csv, summary.json, report.html, and its charts as files.

    Args:
        results: what is known.
        directory: folder of the sweep.
    """
    text = results_csv(results.runs, results.refused, results.swept)
    write_text_atomic(directory / RESULTS_FILE, text)
    write_json_atomic(directory / SUMMARY_FILE, summary_facts(results))
    figures = sweep_figures(results)
    write_text_atomic(directory / REPORT_FILE, render_sweep_page(results, figures))
    for figure in figures:
        chart = directory / FIGURES_FOLDER / f"{figure.name}.svg"
        chart.parent.mkdir(exist_ok=True)
        write_text_atomic(chart, standalone_svg(figure.svg, figure.title))


def summary_facts(results: SweepResults) -> dict[str, object]:
    """The content of the sweep's summary.json."""
    metric = results.objective
    return {
        "status": "finished" if results.complete else "unfinished",
        "objective": metric,
        "swept": list(results.swept),
        "runs": len(results.runs),
        "counts": dict(results.counts),
        "best": None
        if results.best is None
        else {"run": results.best.name, metric: (results.best.result or {}).get(metric)},
        "price_of_selection": price_facts(results.price) if results.price else None,
        "settings": [
            {
                "reference": setting.label,
                "values": dict(setting.values),
                "private": setting.private,
                "epsilon": setting.epsilon,
                metric: list(setting.measured(metric)),
                "planned": setting.planned,
            }
            for setting in settings(results.runs)
        ],
        "failed": [
            {"run": run.name, "exit_code": run.result["exit_code"], "reason": run.result["reason"]}
            for run in results.failed
            if run.result
        ],
        "refused": list(results.refused),
    }
