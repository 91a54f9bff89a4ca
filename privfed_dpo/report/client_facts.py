"""How well each client is served, and how far clients differ, as the report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privfed_dpo.observe.quantities import UNKNOWN, format_number, format_share

CLIENT_HEADS = ("", "worst client", "mean", "best client", "spread", "shared minus this")
"""Headings of the rows in `ClientFacts.accuracies`."""


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """Clients in words and numbers.

    Attributes:
        accuracies: rows of text, one cell for each of CLIENT_HEADS.
        differences: how far clients differ.
        notes: what a reader has to know.
        alarm: what is not private here; empty if everything is.
    """

    accuracies: tuple[tuple[str, ...], ...]
    differences: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    alarm: str


def client_facts(summary: Mapping[str, Any]) -> ClientFacts:
    """Put what a summary says about clients into words.

    Args:
        summary: the content of `summary.json`; missing parts are left out.
    """
    known = summary.get("heterogeneity") or {}
    bayes = known.get("bayes_accuracy") or {}
    comparison = summary.get("comparison") or {}
    arms = comparison.get("arms") or {}
    rows = [
        _measured("the shared adapter, all clients", summary.get("per_client") or {}),
        *(_arm(title, arms.get(arm)) for arm, title in _ARMS if arms),
        *(_attainable(title, bayes.get(rule)) for rule, title in _RULES),
    ]
    return ClientFacts(
        accuracies=tuple(row for row in rows if row is not None),
        differences=_differences(known),
        notes=_notes(bayes, arms, comparison.get("settings") or {}, summary.get("not_compared")),
        alarm=str(comparison.get("not_private") or ""),
    )


_ARMS = (
    ("shared", "the shared adapter, clients compared"),
    ("personal", "personal adapters"),
    ("local_only", "local-only adapters"),
    ("centralised", "a centralised adapter"),
)
_RULES = (
    ("own", "best attainable, one rule for each user"),
    ("groups", "best attainable, one rule for each group"),
    ("shared", "best attainable, one rule for all"),
)

_MEASURED = (
    "Accuracy is on each client's own held-out pairs; spread is the standard deviation over "
    "clients. With few pairs a client, chance alone spreads them."
)


def _measured(
    title: str, per_client: Mapping[str, float | None], gap: str = UNKNOWN
) -> tuple[str, ...] | None:
    values = [value for value in per_client.values() if value is not None]
    if not values:
        return None
    mean = sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    cells = (min(values), mean, max(values), spread)
    return (title, *(format_share(cell) for cell in cells), gap)


def _arm(title: str, arm: object) -> tuple[str, ...] | None:
    if not isinstance(arm, Mapping):
        return None
    gap = format_share(arm.get("shared_minus_this"))
    return _measured(title, arm.get("per_client") or {}, gap)


def _attainable(title: str, accuracy: object) -> tuple[str, ...] | None:
    if not isinstance(accuracy, Mapping):
        return None
    return (
        title,
        format_share(accuracy.get("min")),
        format_share(accuracy.get("mean")),
        UNKNOWN,
        UNKNOWN,
        UNKNOWN,
    )


def _differences(known: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    facts = [
        (
            "heterogeneity of gradients, zeta squared, last measured",
            format_number(known.get("zeta_sq")),
        ),
        ("pairwise disagreement of users", format_share(known.get("pairwise_disagreement"))),
    ]
    if known.get("disagreement_of"):
        facts.append(("disagreement of", str(known["disagreement_of"])))
    for dial, value in (known.get("dials") or {}).items():
        facts.append((f"dial: {str(dial).replace('_', ' ')}", _plain(value)))
    return tuple(facts)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _notes(
    bayes: Mapping[str, Any],
    arms: Mapping[str, Any],
    settings: Mapping[str, Any],
    not_compared: object,
) -> tuple[str, ...]:
    notes = [_MEASURED]
    missing = [title for arm, title in _ARMS if arm not in arms and arm != "shared"]
    if not_compared:
        notes.append(
            f"Other adapters were to be compared with the shared one, and none was: {not_compared}."
        )
    elif missing:
        notes.append(
            f"Not computed: {', '.join(missing)}. Set personal.enabled and "
            "evaluation.references; see docs/guide/personal.md."
        )
    if "reference_steps" in settings:
        notes.append(
            f"References take {settings['reference_steps']} steps like the run's, each on at most "
            f"{settings['reference_pairs_a_step']:g} pairs, without noise."
        )
    verdicts = {
        "common": "Held-out pairs are judged by the common taste, without noise.",
        "own": "Held-out pairs are judged by each user's own weights, without noise.",
        "votes": "Held-out pairs are judged by each user's own votes, noise included.",
    }
    if bayes.get("verdict") in verdicts:
        notes.append(
            "Attainable: expected accuracy of the best rules that any number of training votes "
            "could teach, exact from the known weights. " + verdicts[bayes["verdict"]]
        )
    return tuple(notes)
