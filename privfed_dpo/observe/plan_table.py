"""The plan on the terminal: what a run would promise and cost, shown before any compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from privfed_dpo.observe.plan_facts import bound_titles, epsilon_bounds, plan_sections


def render_plan(plan: Mapping[str, Any]) -> RenderableType:
    """Lay out a plan for the terminal.

    Args:
        plan: `RunPlan.describe()`, or the content of `plan.json`.

    Returns:
        A rich renderable: epsilon by adversary, then every fact by section.
    """
    facts = Table.grid(padding=(0, 2))
    for section in plan_sections(plan):
        facts.add_row(Text(section.title, style="bold"))
        for label, value in section.facts:
            facts.add_row(f"  {label}", Text(value))
    return Group(epsilon_table(plan), facts)


def epsilon_table(facts: Mapping[str, Any]) -> Table:
    """Epsilon of the whole run by adversary.

    Args:
        facts: a plan or a summary, with "epsilon" and "delta".
    """
    delta = facts.get("delta")
    title = "Epsilon of the whole run" + ("" if delta is None else f" at delta = {delta:.3g}")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("against")
    for heading in bound_titles(facts):
        table.add_column(heading, justify="right")
    plan = facts.get("plan") or facts
    on_a_graph = bool(plan.get("gossip"))
    for bound in epsilon_bounds(facts.get("epsilon"), on_a_graph=on_a_graph):
        table.add_row(bound.adversary, bound.pld, bound.rdp)
    return table
