"""The report of a sweep: one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from accounting import Adversary
from privfed_dpo.observe.quantities import (
    UNKNOWN,
    format_bytes,
    format_epsilon,
    format_number,
    format_seconds,
    format_share,
)
from privfed_dpo.report.templates import fill_page
from privfed_dpo.sweep.figures import OBJECTIVES, SweepFigure, settings_table, value_layout
from privfed_dpo.sweep.price import PRICE_HEADS, own_epsilon, price_rows
from privfed_dpo.sweep.records import RunRecord
from privfed_dpo.sweep.results import SweepResults, settings

RUN_HEADS = (
    "run",
    "status",
    "epsilon",
    "accuracy",
    "margin",
    "loss",
    "KL",
    "worst client",
    "audit, at least",
    "upload",
    "time",
)


def render_sweep_page(results: SweepResults, figures: Sequence[SweepFigure]) -> str:
    """Lay a sweep out as HTML; every text from its files is escaped.

    Args:
        results: what is known of it.
        figures: its charts, see `sweep_figures`.
    """
    drawn = [
        {
            "title": figure.title,
            "caption": figure.caption,
            "svg": Markup(figure.svg),  # noqa: S704 - labels are escaped by the SVG writer
            "heads": figure.heads,
            "rows": figure.rows,
        }
        for figure in figures
    ]
    heads, rows = settings_table(results)
    return fill_page(
        "sweep.html",
        beside=Path(__file__).parent,
        name=results.name,
        complete=results.complete,
        counts=", ".join(f"{count} {status}" for status, count in results.counts.items()),
        objective=OBJECTIVES[results.objective],
        tiles=_tiles(results),
        price=results.price,
        price_heads=PRICE_HEADS,
        price_rows=price_rows(results.price) if results.price else [],
        unprotected=any(run.attempts and not run.private for run in results.all_runs),
        figures=drawn,
        setting_heads=heads,
        setting_rows=rows,
        run_heads=RUN_HEADS,
        runs=[_run_row(run) for run in results.runs],
        failed=[(run.name, run.result) for run in results.failed],
        refused=results.refused,
    )


def _tiles(results: SweepResults) -> list[tuple[str, str]]:
    layout = value_layout(results.objective)
    best = results.best
    value = (best.result or {}).get(results.objective) if best else None
    seconds = [(run.result or {}).get("seconds") for run in results.runs]
    price = results.price
    return [
        ("runs", str(len(results.runs))),
        ("settings", str(len(settings(results.runs)))),
        (f"best {OBJECTIVES[results.objective]}, private", layout(value)),
        (
            "its own epsilon",
            format_epsilon(own_epsilon(best, Adversary.COALITION)) if best else UNKNOWN,
        ),
        (
            "epsilon of choosing it",
            format_epsilon(price.views[0].all_runs.certified) if price else UNKNOWN,
        ),
        ("training time, all runs", format_seconds(sum(s for s in seconds if s is not None))),
    ]


def _run_row(run: RunRecord) -> tuple[str, ...]:
    result: Any = run.result or {}
    own = own_epsilon(run, Adversary.COALITION)
    shown = format_epsilon(own) if run.private else "none"
    return (
        run.name,
        str(result.get("status") or run.state.value),
        shown if result else UNKNOWN,
        format_share(result.get("reward_accuracy")),
        format_number(result.get("reward_margin")),
        format_number(result.get("loss")),
        format_number(result.get("kl")),
        format_share(result.get("client_accuracy_min")),
        format_number(result.get("audit_epsilon"), 3),
        format_bytes(result.get("upload_bytes")),
        format_seconds(result.get("seconds")),
    )
