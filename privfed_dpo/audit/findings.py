"""What an audit found: every lower bound beside the certified epsilon it is about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from accounting import Adjacency, Adversary, AuditBound

WARNING_SHARE = 0.9
"""A bound above this share of the claim is worth a look, though it refutes nothing."""

METHODS: Mapping[str, str] = {
    "one_run": "one run",
    "one_run_gaussian": "one run, f-DP",
    "rates": "rates",
    "rates_gaussian": "rates, f-DP",
    "gaussian_fit": "Gaussian fit",
}
"""Short names of the methods of `accounting.audit`."""

ASSUMPTIONS: Mapping[str, str] = {
    "one_run": "none beyond fair coins",
    "one_run_gaussian": "Gaussian trade-off curve",
    "rates": "independent canaries",
    "rates_gaussian": "independent canaries, Gaussian trade-off curve",
    "gaussian_fit": "independent, Gaussian scores of one variance",
}


CANARIES = ("lanes", "pairs in/out", "pairs swapped")
"""What bounds come from: all of it made up for the audit."""

ABOUT_CANARIES = "pair canaries"
"""How the description of a membership figure begins that compares made-up pairs only."""

_PARTS = {"verdict", "bounds", "membership", "notes"}


class Verdict(StrEnum):
    """What a lower bound says about the claim beside it."""

    PASS = "pass"  # noqa: S105 - a verdict
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class JudgedBound:
    """A lower bound and the certified epsilon it is held against.

    Attributes:
        canaries: which canaries it comes from: "lanes", "pairs in/out" or "pairs swapped".
        bound: the lower bound, with method, m, r, v, delta and confidence.
        certified: epsilon certified for the same adversary and adjacency; infinite if nothing
            was promised.
        adversary: who sees what the auditor used.
        adjacency: which two data sets a coin decides between.
        as_run: epsilon of the rounds as they happened, where the survivors gave more noise than
            was sold; None where it is not known.
        ceiling: what the same number of guesses would show if all were right; None for methods
            that compare scores.
    """

    canaries: str
    bound: AuditBound
    certified: float
    adversary: Adversary
    adjacency: Adjacency
    as_run: float | None = None
    ceiling: float | None = None

    @property
    def verdict(self) -> Verdict:
        """FAIL above the claim; WARN above nine tenths of it or above the epsilon as run."""
        found = self.bound.epsilon
        if found > self.certified:
            return Verdict.FAIL
        usual = self.as_run if self.as_run is not None else math.inf
        if found > WARNING_SHARE * self.certified or found > usual:
            return Verdict.WARN
        return Verdict.PASS

    def as_dict(self) -> dict[str, object]:
        """Plain facts for `audit.json`; what is infinite or unknown is None."""
        bound = self.bound
        return {
            "canaries": self.canaries,
            "method": bound.method,
            "assumes": ASSUMPTIONS[bound.method],
            "epsilon_lower_bound": _finite(bound.epsilon),
            "epsilon_certified": _finite(self.certified),
            "epsilon_as_run": _finite(self.as_run),
            "adversary": self.adversary.value,
            "adjacency": self.adjacency.value,
            "delta": bound.delta,
            "confidence": bound.confidence,
            "m": bound.canaries,
            "r": bound.guesses,
            "v": bound.correct,
            "ceiling": _finite(self.ceiling),
            "verdict": self.verdict.value,
        }


@dataclass(frozen=True, slots=True)
class Membership:
    """How well the reference-ratio score tells members from others: a description, no bound.

    Attributes:
        about: which members and which others.
        auc: probability that a member scores above another.
        tpr_at_fpr: share of members found at the false-positive rate.
        fpr: that rate.
        members: how many members were scored.
        others: how many others.
    """

    about: str
    auc: float
    tpr_at_fpr: float
    fpr: float
    members: int
    others: int

    def as_dict(self) -> dict[str, object]:
        """Plain facts for `audit.json`."""
        return {
            "about": self.about,
            "auc": self.auc,
            "tpr_at_fpr": self.tpr_at_fpr,
            "fpr": self.fpr,
            "members": self.members,
            "others": self.others,
        }


@dataclass(frozen=True, slots=True)
class AuditFindings:
    """Everything one audit of one run found.

    Attributes:
        bounds: lower bounds; each holds at its own confidence, not all at once.
        membership: membership inference on pairs.
        notes: what a reader has to know to judge them.
    """

    bounds: tuple[JudgedBound, ...]
    membership: tuple[Membership, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of any bound."""
        verdicts = {bound.verdict for bound in self.bounds}
        for worst in (Verdict.FAIL, Verdict.WARN):
            if worst in verdicts:
                return worst
        return Verdict.PASS

    def as_dict(self) -> dict[str, object]:
        """The content of `audit.json`."""
        return {
            "verdict": self.verdict.value,
            "bounds": [bound.as_dict() for bound in self.bounds],
            "membership": [report.as_dict() for report in self.membership],
            "notes": list(self.notes),
        }


def scored_real_pairs(audit: object) -> bool:
    """Whether figures of an audit come from clients' pairs, exactly and without noise.

    Lanes are scored by opened sums and made-up pairs by the released adapter, both of which epsilon
    covers. Pairs that clients held back, and those they are compared with, are real.

    Args:
        audit: the content of `audit.json`, or whatever stands in its place.

    Returns:
        False only where every figure is known to be about canaries.
    """
    if not isinstance(audit, Mapping) or not set(audit) <= _PARTS:
        return True
    bounds, reports = audit.get("bounds") or (), audit.get("membership") or ()
    if not all(isinstance(part, Sequence) for part in (bounds, reports)):
        return True
    made_up = [isinstance(one, Mapping) and one.get("canaries") in CANARIES for one in bounds]
    made_up += [
        isinstance(one, Mapping) and str(one.get("about")).startswith(f"{ABOUT_CANARIES},")
        for one in reports
    ]
    return not all(made_up)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
