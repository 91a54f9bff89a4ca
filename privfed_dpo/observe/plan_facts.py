"""The plan of a run in words: one wording for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privfed_dpo.observe.masking_facts import distance_facts, masking_facts
from privfed_dpo.observe.quantities import (
    UNKNOWN,
    format_bytes,
    format_epsilon,
    format_number,
)

ADVERSARIES = {
    "coalition": "the server and the tolerated colluders, fewest survivors",
    "server": "the server alone, fewest survivors",
    "outside": "whoever holds the released adapter",
    "no_secagg": "the server, if secure aggregation failed",
}
"""Adversaries in the order of the headline, in words."""

_NETWORK = "Epsilon of node pairs: NOT certified"

_ON_A_GRAPH = {
    "coalition": "all other nodes together",
    "server": "any one neighbour: there is no server",
    "outside": "whoever holds a released adapter",
    "no_secagg": "whoever reads a node's messages",
}


@dataclass(frozen=True, slots=True)
class EpsilonBound:
    """Epsilon against one adversary, as text.

    Attributes:
        adversary: who, in words.
        pld: bound by privacy-loss distributions, of the continuous model.
        rdp: bound by Rényi accounting.
    """

    adversary: str
    pld: str
    rdp: str


@dataclass(frozen=True, slots=True)
class PlanSection:
    """Facts that belong together.

    Attributes:
        title: what they are about.
        facts: label and value, as text.
    """

    title: str
    facts: tuple[tuple[str, str], ...]


def epsilon_bounds(
    epsilon: Mapping[str, Any] | None, *, on_a_graph: bool = False
) -> tuple[EpsilonBound, ...]:
    """Put epsilon by adversary into words.

    Args:
        epsilon: adversary name -> {"pld": ..., "rdp": ...}; null stands for "no bound".
        on_a_graph: whether the run has no server.

    Returns:
        One entry per adversary that is present, the headline first, unknown names last.
    """
    present = epsilon or {}
    names = [name for name in ADVERSARIES if name in present]
    names += [name for name in present if name not in ADVERSARIES]
    words = _ON_A_GRAPH if on_a_graph else ADVERSARIES
    bounds = []
    for name in names:
        pair = present[name] or {}
        bounds.append(
            EpsilonBound(
                adversary=words.get(name, name),
                pld=_pld(pair),
                rdp=format_epsilon(pair.get("rdp")),
            )
        )
    return tuple(bounds)


def _pld(pair: Mapping[str, Any]) -> str:
    """The PLD figure; a dash where only the other one bounds this mechanism."""
    if pair.get("pld") is None and pair.get("rdp") is not None:
        return UNKNOWN
    return format_epsilon(pair.get("pld"))


def bound_titles(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the two bounds of `epsilon_bounds` are, by what certifies.

    Args:
        facts: a plan or a summary.
    """
    if facts.get("accounting") == "rdp":
        return "PLD, by reduction", "RDP, certified"
    return "PLD, certified", "RDP, cross-check"


def plan_sections(plan: Mapping[str, Any]) -> tuple[PlanSection, ...]:
    """Put the facts of a plan into words.

    Args:
        plan: the content of `plan.json`; a fact it lacks shows as a dash.

    Returns:
        Sections on data, privacy, secure aggregation or neighbours, and cost.
    """
    network = plan.get("network_privacy")
    return (
        PlanSection(
            "Data and schedule",
            (
                ("clients", _plain(plan, "clients")),
                ("pairs", _pairs(plan)),
                ("rounds", _plain(plan, "rounds")),
                ("clients a round", _plain(plan, "cohort")),
                ("cohorts", _cohorts(plan)),
                ("rounds of one client, at most", _plain(plan, "participations")),
                ("local steps", _plain(plan, "local_steps")),
                ("drift control", _drift_control(plan)),
                ("delay of a client, at most", _delay(plan)),
                ("sampling rate of pairs", _number(plan, "sample_rate")),
                ("pairs a round, expected", _number(plan, "expected_batch_pairs", 1)),
            ),
        ),
        PlanSection(
            "Privacy",
            (
                ("mode", _plain(plan, "mode")),
                ("unit", _plain(plan, "unit")),
                ("adjacency", _plain(plan, "adjacency").replace("_", "-")),
                ("copies of one record, at most", _plain(plan, "record_copies")),
                ("target epsilon", _target(plan)),
                ("delta", _delta(plan)),
                ("epsilon of one label, pure", _label(plan)),
                ("accounting", _plain(plan, "accounting")),
                ("law of the noise", _plain(plan, "noise").replace("_", " ")),
                ("rounding in a pass", _rounding(plan)),
                ("noise multiplier of the sum", _number(plan, "noise_multiplier")),
                ("noise multiplier of one share", _number(plan, "share_noise_multiplier")),
                ("norm bound of a pair's gradient", _number(plan, "max_grad_norm")),
                ("norm bound of a user's update", _number(plan, "max_update_norm")),
            ),
        ),
        _neighbours(plan["gossip"]) if plan.get("gossip") else _secure_sum(plan),
        *([PlanSection(_NETWORK, distance_facts(network))] if network else []),
        PlanSection(
            "Cost",
            (
                ("trained coordinates", _plain(plan, "dimension")),
                ("upload of a client each round", format_bytes(plan.get("upload_bytes"))),
                ("of it the masked vector", format_bytes(plan.get("vector_bytes"))),
                ("memory of the base weights", format_bytes(plan.get("model_bytes"))),
                *_share_of_base(plan),
                ("gradients of a micro-batch", _sums(plan)),
                ("memory of pair gradients", format_bytes(plan.get("gradient_bytes"))),
            ),
        ),
    )


def _share_of_base(plan: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What one process holds, where several share the base."""
    if plan.get("process_base_bytes") is None:
        return ()
    return (
        ("of it in one process", format_bytes(plan["process_base_bytes"])),
        ("gathered in a pass, on top", format_bytes(plan.get("process_gathered_bytes"))),
    )


def _label(plan: Mapping[str, Any]) -> str:
    epsilon = plan.get("label_epsilon")
    return "labels are not flipped" if epsilon is None else format_epsilon(epsilon)


def _secure_sum(plan: Mapping[str, Any]) -> PlanSection:
    secure = plan.get("secure_aggregation")
    return PlanSection(
        "Secure sum",
        (
            (
                "secure aggregation",
                UNKNOWN
                if secure is None
                else "on"
                if secure
                else "OFF: the server sees every update",
            ),
            ("survivors needed", _plain(plan, "threshold")),
            ("drop-outs tolerated", _plain(plan, "dropout_tolerance")),
            ("colluders assumed", _plain(plan, "colluders")),
            ("ring", f"{_plain(plan, 'ring_bits')} bits"),
            ("grid steps in one unit", _number(plan, "grid_steps_per_unit", 0)),
            ("noise of one share, in grid steps", _number(plan, "share_stddev_steps", 1)),
        ),
    )


def _neighbours(gossip: Mapping[str, Any]) -> PlanSection:
    order = {"atc": "local steps, then averaging", "cta": "averaging, then local steps"}
    return PlanSection(
        "Neighbours",
        (
            ("server", "none: nodes average with neighbours"),
            ("graph", _plain(gossip, "topology")),
            ("links", _plain(gossip, "links")),
            (
                "neighbours of a node",
                f"{_plain(gossip, 'degree_min')} to {_plain(gossip, 'degree_max')}",
            ),
            ("diameter", _plain(gossip, "diameter")),
            ("spectral gap", _number(gossip, "spectral_gap")),
            ("order of a round", order.get(str(gossip.get("order")), UNKNOWN)),
            *masking_facts(gossip.get("masking")),
        ),
    )


def _sums(plan: Mapping[str, Any]) -> str:
    kept = {"rows": "kept in memory", "two_pass": "never kept: two backward passes"}
    method = kept.get(str(plan.get("gradient_sums")))
    if method is None:
        return UNKNOWN
    pairs = plan.get("micro_batch_pairs")
    if pairs == 1:
        return f"one pair, {method}"
    return f"{'as many pairs as fit' if pairs is None else f'{pairs} pairs'}, {method}"


def _rounding(plan: Mapping[str, Any]) -> str:
    """What stands between the bound on one pair's vector and that on the sum."""
    if plan.get("mode") == "none" or "micro_batch_pairs" not in plan:
        return UNKNOWN
    if plan["micro_batch_pairs"] == 1:
        return "none: each gradient is a function of its pair alone"
    return "assumed to leave no trace of one pair in the gradients of others"


def _plain(plan: Mapping[str, Any], key: str) -> str:
    value = plan.get(key)
    return UNKNOWN if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _number(plan: Mapping[str, Any], key: str, decimals: int = 4) -> str:
    return format_number(plan.get(key), decimals)


def _pairs(plan: Mapping[str, Any]) -> str:
    spread = f"{_plain(plan, 'pairs_min')} to {_plain(plan, 'pairs_max')} a client"
    return f"{_plain(plan, 'pairs_total')} ({spread})"


def _drift_control(plan: Mapping[str, Any]) -> str:
    wanted = plan.get("drift_control") or {}
    if wanted.get("scaffold"):
        return "SCAFFOLD"
    strength = wanted.get("proximal")
    return f"FedProx, strength {strength:g}" if strength else "none"


def _delay(plan: Mapping[str, Any]) -> str:
    rounds = (plan.get("drift_control") or {}).get("max_staleness")
    return f"{rounds} rounds" if rounds else "none"


def _cohorts(plan: Mapping[str, Any]) -> str:
    short = plan.get("cohort_shortfall")
    if short is None:
        return _plain(plan, "cohort_sampling")
    return f"secret; too small with probability {short:.2g}"


def _target(plan: Mapping[str, Any]) -> str:
    if plan.get("mode") == "none":
        return "none: nobody adds noise"
    target = plan.get("target_epsilon")
    return UNKNOWN if target is None else format_epsilon(target)


def _delta(plan: Mapping[str, Any]) -> str:
    delta = plan.get("delta")
    return UNKNOWN if delta is None else f"{delta:.3g}"
