"""The empirical audit of a run as the report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privfed_dpo.observe.quantities import UNKNOWN, format_epsilon, format_number, format_share

AUDIT_HEADS = (
    "canaries",
    "method",
    "assumes",
    "against",
    "confidence",
    "m",
    "right guesses",
    "epsilon at least",
    "certified",
    "verdict",
)
"""Headings of the rows in `AuditFacts.bounds`."""


@dataclass(frozen=True, slots=True)
class AuditFacts:
    """The audit in words and numbers.

    Attributes:
        verdict: "pass", "warn" or "fail".
        bounds: rows of text, one cell for each of AUDIT_HEADS.
        membership: what was told apart, and how well.
        notes: what a reader has to know.
    """

    verdict: str
    bounds: tuple[tuple[str, ...], ...]
    membership: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def audit_facts(audit: object) -> AuditFacts | None:
    """Put the content of `audit.json` into words.

    Args:
        audit: the "audit" of a summary, or anything else.

    Returns:
        None unless it is an audit.
    """
    if not isinstance(audit, Mapping) or not isinstance(audit.get("bounds"), list):
        return None
    return AuditFacts(
        verdict=str(audit.get("verdict", UNKNOWN)),
        bounds=tuple(_bound(bound) for bound in audit["bounds"]),
        membership=tuple(_membership(report) for report in audit.get("membership") or ()),
        notes=tuple(str(note) for note in audit.get("notes") or ()),
    )


def _bound(bound: Mapping[str, Any]) -> tuple[str, ...]:
    right = bound.get("v")
    return (
        str(bound.get("canaries", UNKNOWN)),
        str(bound.get("method", UNKNOWN)).replace("_", " "),
        str(bound.get("assumes", UNKNOWN)),
        str(bound.get("adversary", UNKNOWN)),
        format_share(bound.get("confidence")),
        str(bound.get("m", UNKNOWN)),
        UNKNOWN if right is None else f"{right} of {bound.get('r')}",
        format_number(bound.get("epsilon_lower_bound"), 3),
        format_epsilon(bound.get("epsilon_certified")),
        str(bound.get("verdict", UNKNOWN)),
    )


def _membership(report: Mapping[str, Any]) -> tuple[str, str]:
    found, allowed = format_share(report.get("tpr_at_fpr")), format_share(report.get("fpr"))
    area = format_number(report.get("auc"), 3)
    sizes = f"{report.get('members')} against {report.get('others')}"
    return (
        str(report.get("about", UNKNOWN)),
        f"AUC {area}; {found} found at {allowed} false positives ({sizes})",
    )
