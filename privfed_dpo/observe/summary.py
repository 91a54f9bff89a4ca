"""The end of a run on the terminal: what is promised, what was reached, what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from privfed_dpo.observe.plan_table import epsilon_table
from privfed_dpo.observe.quantities import (
    UNKNOWN,
    format_bytes,
    format_number,
    format_seconds,
    format_share,
)


def render_summary(summary: Mapping[str, Any]) -> RenderableType:
    """Lay out the content of `summary.json` for a terminal.

    Args:
        summary: as written by the run; missing parts show as a dash.

    Returns:
        A rich renderable: the statement, epsilon by adversary, figures before and after, costs.
    """
    status = str(summary.get("status", "unknown"))
    good = status == "finished"
    parts: list[RenderableType] = [
        Panel(
            Text(str(summary.get("statement") or "No statement of privacy was made.")),
            title="Guarantee",
            title_align="left",
            box=box.ROUNDED,
        ),
        epsilon_table(summary),
        _before_and_after(summary),
        _costs(summary),
    ]
    reason = summary.get("reason")
    headline = Text("Run ").append(status, style="bold green" if good else "bold yellow")
    if reason:
        headline.append(f": {reason}")
    return Group(headline, *parts)


def _before_and_after(summary: Mapping[str, Any]) -> Table:
    first, last = summary.get("initial") or {}, summary.get("final") or {}
    table = Table(title="Held-out pairs", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for label, key, layout in (
        ("accuracy", "reward_accuracy", format_share),
        ("margin", "reward_margin", format_number),
        ("loss", "loss", format_number),
    ):
        table.add_row(label, layout(first.get(key)), layout(last.get(key)))
    return table


def _costs(summary: Mapping[str, Any]) -> Table:
    survivors = summary.get("survivors") or {}
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "rounds", f"{_count(summary, 'rounds_done')} of {_count(summary, 'rounds_planned')}"
    )
    table.add_row(
        "survivors a round",
        f"mean {format_number(survivors.get('mean'), 1)}, fewest "
        f"{format_number(survivors.get('min'), 0)}",
    )
    table.add_row("sent by clients", format_bytes(summary.get("upload_bytes_total")))
    table.add_row("sent to clients", format_bytes(summary.get("download_bytes_total")))
    table.add_row("time", format_seconds(summary.get("seconds_total")))
    return table


def _count(summary: Mapping[str, Any], key: str) -> str:
    value = summary.get(key)
    return UNKNOWN if value is None else str(value)
