"""What choosing among the runs of a sweep costs, in numbers and in one plain sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from accounting import (
    AccountingError,
    Adversary,
    EpsilonPair,
    InvalidPrivacyParameter,
    RunSpend,
    all_runs_epsilon,
    best_run_epsilon,
    decode_schedule,
)
from privfed_dpo.observe.quantities import format_epsilon
from privfed_dpo.sweep.records import RunRecord

_VIEWS = (Adversary.COALITION, Adversary.OUTSIDE)


@dataclass(frozen=True, slots=True)
class ViewPrice:
    """The price in the eyes of one adversary.

    Attributes:
        adversary: whose view; the coalition sees every run whatever is published.
        own: certified epsilon of the best run by itself; None if unknown.
        all_runs: epsilon of all private runs together.
        selected: what the private selection mechanism would have cost; None for an adversary who
            sees every run, and where there is no bound.
    """

    adversary: Adversary
    own: float | None
    all_runs: EpsilonPair
    selected: float | None


@dataclass(frozen=True, slots=True)
class SelectionPrice:
    """The price of selection.

    Attributes:
        best: name of the best private run by the objective; empty if no private run has a value.
        delta: failure probability of every figure.
        private_runs: run folders that spent privacy; resumed runs count once, runs that were
            started anew count every time.
        unfinished_runs: those of them whose spend is not known yet and is taken from the plan.
        unprotected_runs: runs without noise on the same data.
        views: figures for each adversary.
        label_runs: run folders whose labels were flipped, each with flips of its own.
        label_epsilon: what they cost one label together, pure.
        note: why there is no common bound; empty if there is one.
    """

    best: str
    delta: float
    private_runs: int
    unfinished_runs: int
    unprotected_runs: int
    views: tuple[ViewPrice, ...]
    label_runs: int = 0
    label_epsilon: float = 0.0
    note: str = ""

    @property
    def sentence(self) -> str:
        """Which figure holds for what the user is about to publish."""
        coalition, outside = (view.all_runs.certified for view in self.views)
        if self.private_runs == 1 and self.best:
            return (
                f"Only one private run was made, so nothing was selected: its own epsilon "
                f"{format_epsilon(coalition)} holds for publishing {self.best}."
            )
        if coalition == outside:
            holds = f"epsilon {format_epsilon(outside)} holds"
        else:
            holds = (
                f"epsilon {format_epsilon(outside)} holds against whoever gets it and "
                f"{format_epsilon(coalition)} against the server with its colluders"
            )
        if not self.best:
            made = f"any of the {self.private_runs} private runs" if self.private_runs > 1 else "it"
            return (
                "No private run has a value of the objective, so none is the best. If you publish "
                f"{made}, or the report of this sweep, {holds}: all that was spent, composed."
            )
        return (
            f"If you publish {self.best}, picked as the best of {self.private_runs} private runs, "
            f"or the report of this sweep, {holds}: all runs composed, not the run's own "
            f"{format_epsilon(self.views[0].own)}."
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """When the other figures would hold, and what has no figure."""
        remarks = []
        if self.private_runs > 1 and self.best:
            remarks.append(
                "The run's own epsilon would hold only for a run that was picked before any result "
                "was seen."
            )
        selected = self.views[1].selected
        if self.private_runs > 1 and selected is not None:
            remarks.append(
                f"Epsilon {format_epsilon(selected)} would hold for outsiders only if the number "
                f"of runs had been drawn in secret (geometric, mean {self.private_runs}), their "
                "settings at random, and nothing but the winner were published."
            )
        if self.unprotected_runs:
            remarks.append(
                f"Runs without noise have no bound at all, and {self.unprotected_runs} were made: "
                "all of this holds only if nothing learned from them is published, or if their "
                "data are public."
            )
        if self.label_runs:
            remarks.append(
                f"Labels were flipped anew in each of {self.label_runs} runs: one label, for "
                f"itself, cost epsilon {format_epsilon(self.label_epsilon)} (delta 0) over all."
            )
        return (*remarks, *([self.note] if self.note else []))


def spends_of(records: Iterable[RunRecord]) -> tuple[tuple[RunSpend, ...], int]:
    """Return what every private run folder has spent, and how many of them had to be guessed.

    A folder whose ledger could not be read is taken to have spent its whole plan.

    Args:
        records: every run and every repetition of the sweep.
    """
    spends: list[RunSpend] = []
    unknown = 0
    for record in records:
        if not record.private:
            continue
        schedule = decode_schedule(record.plan["schedule"])
        for attempt in record.attempts:
            booked = attempt.booked
            unknown += booked is None
            if booked is None:
                rounds = max(schedule.participations, int(record.plan["rounds"]))
                spends.append(RunSpend(schedule, schedule.participations, rounds))
            elif booked.participations:
                spends.append(RunSpend(schedule, booked.participations, booked.rounds))
    return tuple(spends), unknown


def label_epsilons(records: Iterable[RunRecord]) -> tuple[float, ...]:
    """Return what each run folder that flipped labels cost one label."""
    schedules = [(decode_schedule(one.plan["schedule"]), one.attempts) for one in records]
    return tuple(
        schedule.labels.epsilon
        for schedule, attempts in schedules
        if schedule.labels is not None
        for _ in attempts
    )


def selection_price(records: Sequence[RunRecord], best: RunRecord | None) -> SelectionPrice | None:
    """Work out the price of selecting the best run.

    All runs are taken to be made on the same data, which is true of seeds, and an upper bound
    where a seed or a key changes the data too. Figures hold at the smallest delta of any run.

    Args:
        records: every run and every repetition of the sweep.
        best: the private run that would be published; None if none has a value of the objective,
            and then all runs are priced all the same.

    Returns:
        None if no privacy was spent.
    """
    spends, unknown = spends_of(records)
    if not spends:
        return None
    delta = min(float(record.plan["delta"]) for record in records if record.private)
    unprotected = sum(bool(record.attempts) for record in records if not record.private)
    labels = label_epsilons(records)
    note = ""
    try:
        composed = {view: all_runs_epsilon(spends, view, delta) for view in _VIEWS}
    except InvalidPrivacyParameter:
        composed = dict.fromkeys(_VIEWS, EpsilonPair(math.inf, math.inf))
        note = "Runs that protect pairs and runs that protect users have no common bound."
    try:
        selected = best_run_epsilon(spends, delta) if best else math.inf
    except AccountingError:
        selected = math.inf
    return SelectionPrice(
        best=best.name if best else "",
        delta=delta,
        private_runs=len(spends),
        unfinished_runs=unknown,
        unprotected_runs=unprotected,
        views=tuple(
            ViewPrice(
                adversary=view,
                own=own_epsilon(best, view) if best else None,
                all_runs=composed[view],
                selected=selected
                if view is Adversary.OUTSIDE and len(spends) > 1 and math.isfinite(selected)
                else None,
            )
            for view in _VIEWS
        ),
        label_runs=len(labels),
        label_epsilon=math.fsum(labels),
        note=note,
    )


def own_epsilon(record: RunRecord, adversary: Adversary) -> float | None:
    """Certified epsilon of a run by itself; None where there is no bound."""
    pair = ((record.result or {}).get("epsilon") or {}).get(adversary.value) or {}
    value = pair.get("rdp" if record.plan.get("accounting") == "rdp" else "pld")
    return None if value is None else float(value)


def price_facts(price: SelectionPrice) -> dict[str, object]:
    """The price for machines; no bound is null."""
    return {
        "best": price.best or None,
        "delta": price.delta,
        "private_runs": price.private_runs,
        "unfinished_runs": price.unfinished_runs,
        "unprotected_runs": price.unprotected_runs,
        "views": {
            view.adversary.value: {
                "own": view.own,
                "all_runs": {"pld": view.all_runs.pld, "rdp": view.all_runs.rdp},
                "private_selection": view.selected,
            }
            for view in price.views
        },
        "labels": {"runs": price.label_runs, "epsilon": price.label_epsilon},
        "sentence": price.sentence,
        "remarks": list(price.remarks),
    }


def price_rows(price: SelectionPrice) -> list[tuple[str, str, str, str]]:
    """Rows of the table of prices: who, own epsilon, all runs, private selection."""
    names = {
        Adversary.COALITION: "the server and its colluders, who saw every run",
        Adversary.OUTSIDE: "whoever gets what you publish",
    }
    return [
        (
            names[view.adversary],
            format_epsilon(view.own) if price.best else "does not apply",
            format_epsilon(view.all_runs.certified),
            "does not apply" if view.selected is None else format_epsilon(view.selected),
        )
        for view in price.views
    ]


PRICE_HEADS = (
    "against",
    "the best run by itself",
    "all runs made, composed",
    "best run by private selection",
)
"""Headings of `price_rows`."""
