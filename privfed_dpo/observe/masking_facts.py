"""Masked averaging in words: what coalitions of nodes find out about single adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privfed_dpo.observe.quantities import format_epsilon, format_number

_NAMED_NODES = 6


def masking_facts(masking: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """Put what masked sums hide into words.

    Args:
        masking: `GossipPlan.describe()["masking"]`; null if adapters are sent in clear.

    Returns:
        Label and value of each fact.
    """
    if masking is None:
        return (("adapters between nodes", "in clear: every neighbour sees them"),)
    rows = tuple(
        (f"{_colluders(seen['colluders'])} and the mean", _learned(seen))
        for seen in masking.get("coalitions", ())
    )
    return (
        ("adapters between nodes", "masked: a node learns only the sum of its neighbours"),
        ("colluders promised against", str(masking.get("colluders"))),
        ("fewest neighbours in a sum", str(masking.get("fewest_neighbours"))),
        *rows,
    )


def _colluders(count: int) -> str:
    return "one node" if count == 1 else f"{count} nodes together"


def _learned(seen: Mapping[str, Any]) -> str:
    """What a coalition of this size finds out, in the worst place."""
    singles = seen["single_nodes_learned"]
    if not singles:
        return f"no single adapter: at least {seen['smallest_mixture']} stay mixed"
    named = ", ".join(map(str, singles[:_NAMED_NODES]))
    more = ", ..." if len(singles) > _NAMED_NODES else ""
    coalition = ", ".join(map(str, seen["coalition"]))
    return f"SINGLE adapters of nodes {named}{more} (e.g. {coalition} pool)"


def distance_facts(network: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Put the pairwise network epsilon into words.

    Args:
        network: `describe_pairwise` of a plan.
    """
    rows = tuple(
        (
            "one neighbour" if pair["distance"] == 1 else f"one node {pair['distance']} links away",
            f"{format_epsilon(pair['epsilon'])} (sees {format_number(pair['share'], 3)} of a step)",
        )
        for pair in network.get("by_distance", ())
    )
    return (*rows, ("assumed", "; ".join(network.get("assumptions", ()))))
