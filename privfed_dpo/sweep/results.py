"""Results of a sweep as rows: one for each run, and one for each setting over its seeds."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accounting import Adversary
from privfed_dpo.sweep.price import SelectionPrice, own_epsilon
from privfed_dpo.sweep.records import RunRecord, RunState
from privfed_dpo.sweep.sweep_file import LARGER_IS_BETTER

REFUSED = "refused"
_EPSILONS = tuple(
    f"epsilon_{adversary.value}_{accountant}"
    for adversary in Adversary
    for accountant in ("pld", "rdp")
)
_MEASURED = (
    "delta",
    "epsilon_realised",
    "reward_accuracy",
    "reward_margin",
    "loss",
    "kl",
    "client_accuracy_min",
    "client_accuracy_mean",
    "local_only_accuracy",
    "centralised_accuracy",
    "audit_epsilon",
    "audit_verdict",
    "upload_bytes",
    "download_bytes",
    "seconds",
    "rounds_done",
    "ledger_head",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One combination of swept values, over its seeds.

    Attributes:
        label: of a reference line; empty for the sweep's own settings.
        values: swept key to value.
        private: whether noise protects the data.
        runs: its finished runs, in the order of seeds.
        planned: how many runs it has, finished or not.
    """

    label: str
    values: Mapping[str, Any]
    private: bool
    runs: tuple[RunRecord, ...] = field(repr=False)
    planned: int

    def measured(self, metric: str) -> tuple[float, ...]:
        """The metric of each finished run that measured it."""
        found = [(run.result or {}).get(metric) for run in self.runs]
        return tuple(float(value) for value in found if value is not None)

    @property
    def epsilon(self) -> float | None:
        """Certified epsilon against the coalition, the largest over the seeds."""
        found = [own_epsilon(run, Adversary.COALITION) for run in self.runs]
        known = [value for value in found if value is not None]
        return max(known) if known and len(known) == len(found) else None


@dataclass(frozen=True, slots=True)
class SweepResults:
    """Everything known of a sweep at one moment.

    Attributes:
        name: of the sweep's folder.
        objective: metric by which runs are compared.
        swept: swept keys, in the order of the file.
        runs: every run once, in the order of the storage.
        all_runs: the same with every earlier repetition of a failed run.
        refused: combinations that were left out.
        best: the best private run by the objective.
        price: what selecting it costs.
    """

    name: str
    objective: str
    swept: tuple[str, ...]
    runs: tuple[RunRecord, ...] = field(repr=False)
    all_runs: tuple[RunRecord, ...] = field(repr=False)
    refused: tuple[Mapping[str, Any], ...] = field(repr=False)
    best: RunRecord | None = field(repr=False)
    price: SelectionPrice | None

    @property
    def counts(self) -> Mapping[str, int]:
        """Runs by how they ended, or by how far they are."""
        statuses = (str((run.result or {}).get("status") or run.state.value) for run in self.runs)
        return {**Counter(statuses), **({"refused": len(self.refused)} if self.refused else {})}

    @property
    def complete(self) -> bool:
        """Whether every run has ended."""
        return all(run.state is RunState.ENDED for run in self.runs)

    @property
    def failed(self) -> tuple[RunRecord, ...]:
        """Runs that ended badly."""
        return tuple(run for run in self.runs if (run.result or {}).get("exit_code", 0) != 0)


def columns(swept: Sequence[str]) -> tuple[str, ...]:
    """Columns of results.csv."""
    head = ("run", "reference", *swept, "seed", "status", "exit_code", "reason")
    return (*head, *_EPSILONS, *_MEASURED, "run_folder")


def results_csv(
    records: Iterable[RunRecord], refused: Iterable[Mapping[str, Any]], swept: Sequence[str]
) -> str:
    """One line for each run, unfinished and refused ones included; unknown cells are empty.

    Args:
        records: every run once.
        refused: combinations that were left out: name, label, values, seed, reason.
        swept: swept keys, in the order of the file.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(swept), lineterminator="\n", restval="")
    writer.writeheader()
    for record in records:
        writer.writerow(_row(record, swept))
    for one in refused:
        values = {key: _cell([one["values"].get(key)]) for key in swept}
        writer.writerow(
            {
                "run": one["name"],
                "reference": one["label"],
                **values,
                "seed": one["seed"],
                "status": REFUSED,
                "reason": one["reason"],
            }
        )
    return text.getvalue()


def settings(records: Iterable[RunRecord]) -> tuple[Setting, ...]:
    """Put runs that differ by their seed alone together; a run may count for several settings."""
    grouped: dict[str, list[tuple[RunRecord, Mapping[str, Any]]]] = {}
    for record in records:
        for cell in record.cells:
            group = json.dumps([record.label, cell, record.private])
            grouped.setdefault(group, []).append((record, cell))
    return tuple(
        Setting(
            label=members[0][0].label,
            values=members[0][1],
            private=members[0][0].private,
            runs=tuple(
                sorted((run for run, _ in members if _finished(run)), key=lambda run: run.seed)
            ),
            planned=len(members),
        )
        for members in grouped.values()
    )


def best_run(records: Iterable[RunRecord], metric: str) -> RunRecord | None:
    """The private run with the best value of the objective; of equals, the cheapest."""
    sign = -1 if metric in LARGER_IS_BETTER else 1
    scored = [
        (
            sign * float(record.result[metric]),
            own_epsilon(record, Adversary.COALITION) or 0.0,
            record,
        )
        for record in records
        if record.private
        and _finished(record)
        and record.result
        and record.result[metric] is not None
    ]
    return min(scored, key=lambda one: (one[0], one[1], one[2].name))[2] if scored else None


def pareto_front(points: Sequence[tuple[float, float]], metric: str) -> tuple[bool, ...]:
    """Which points no other point beats.

    Args:
        points: (epsilon, objective); a smaller epsilon is better.
        metric: the objective, which says whether larger is better.

    Returns:
        For each point whether it is on the front: no other one is at least as good in both and
        better in one.
    """
    sign = 1 if metric in LARGER_IS_BETTER else -1
    return tuple(
        not any(
            other_epsilon <= epsilon
            and sign * other >= sign * value
            and (other_epsilon, other) != (epsilon, value)
            for other_epsilon, other in points
        )
        for epsilon, value in points
    )


def _finished(record: RunRecord) -> bool:
    return record.state is RunState.ENDED and (record.result or {}).get("exit_code") == 0


def _row(record: RunRecord, swept: Sequence[str]) -> dict[str, Any]:
    result = record.result or {}
    epsilon = result.get("epsilon") or {}
    folder = record.attempts[-1].folder if record.attempts else None
    return {
        "run": record.name,
        "reference": record.label,
        **{key: _cell([cell.get(key) for cell in record.cells]) for key in swept},
        "seed": record.seed,
        "status": result.get("status") or record.state.value,
        "exit_code": result.get("exit_code"),
        "reason": result.get("reason"),
        **{
            f"epsilon_{adversary.value}_{accountant}": (epsilon.get(adversary.value) or {}).get(
                accountant
            )
            for adversary in Adversary
            for accountant in ("pld", "rdp")
        },
        **{name: result.get(name) for name in _MEASURED},
        "run_folder": folder,
    }


def _cell(values: Sequence[Any]) -> str:
    texts = dict.fromkeys("" if value is None else value_text(value) for value in values)
    return "|".join(texts)


def value_text(value: Any) -> str:
    """A swept value in a cell; lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)
