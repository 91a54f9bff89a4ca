"""Outcomes as text: the table for people, the record for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from experiments.findings import Experiment, Finding, Outcome
from experiments.fitting import Interval

HEADER = (
    "| | claim | quantity | prediction | measured, 95 % interval | holds if within | verdict |\n"
    "|---|---|---|---|---|---|---|"
)
BEGIN, END = "<!-- table: make experiments -->", "<!-- end of table -->"


def rows(experiment: Experiment, outcome: Outcome) -> str:
    """The rows of one experiment, in Markdown."""
    return "\n".join(_row(experiment.key, finding) for finding in outcome.findings)


def record(experiment: Experiment, outcome: Outcome) -> Mapping[str, Any]:
    """Everything of one experiment, as JSON takes it; an open bound is null."""
    return {
        "key": experiment.key,
        "title": experiment.title,
        "setting": experiment.setting,
        "source": experiment.source,
        "notes": list(outcome.notes),
        "findings": [
            {
                "claim": finding.claim,
                "prediction": finding.prediction,
                "quantity": finding.quantity,
                "measured": _numbers(finding.measured),
                "accepted": [bound if math.isfinite(bound) else None for bound in finding.accepted],
                "holds": finding.holds,
                "known_false": finding.known_false,
            }
            for finding in outcome.findings
        ],
    }


def put_table(page: str, table: str) -> str:
    """Replace what stands between the marks of a page.

    Raises:
        ValueError: the page has no marks.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no table between {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"


def _row(key: str, finding: Finding) -> str:
    measured = finding.measured
    low, high = finding.accepted
    if not math.isfinite(low):
        accepted = f"up to {high:g}"
    elif not math.isfinite(high):
        accepted = f"{low:g} or more"
    elif low == high:
        accepted = f"exactly {low:g}"
    else:
        accepted = f"{low:.4g} to {high:.4g}"
    verdict = "holds" if finding.holds else "**does not hold**"
    if not finding.as_expected:
        verdict += " (not as expected)"
    cells = (
        key,
        finding.claim.replace("|", "\\|"),
        finding.quantity,
        finding.prediction,
        f"{_short(measured.mean)} [{_short(measured.low)}, {_short(measured.high)}]",
        accepted,
        verdict,
    )
    return f"| {' | '.join(cells)} |"


def _short(value: float) -> str:
    tiny, large = 1e-3, 1e4
    if value == 0.0 or tiny <= abs(value) < large:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return f"{value:.1e}"


def _numbers(interval: Interval) -> Mapping[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
