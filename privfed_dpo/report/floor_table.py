"""The floor of a run for the page: every source predicted beside measured, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privfed_dpo.observe.quantities import UNKNOWN

_ADAPTER = " (squared distance of adapters)"


def floor_table(floor: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put the floor into words.

    Args:
        floor: `floor` of `summary.json`; None if it was not taken apart.

    Returns:
        `rows` of source, predicted and measured; `reason` where there are none; `notes`.
    """
    facts = floor or {}
    rows = [_row(source) for source in facts.get("sources") or ()]
    rows += [_row(source, _ADAPTER) for source in facts.get("distances") or ()]
    return {
        "rows": rows,
        "reason": facts.get("reason") or "",
        "notes": list(facts.get("assumptions") or ()),
    }


def _row(source: Mapping[str, Any], unit: str = "") -> tuple[str, str, str]:
    name = f"{source['name']}{unit}"
    return name, _figure(source.get("predicted")), _figure(source.get("measured"))


def _figure(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2e}"
