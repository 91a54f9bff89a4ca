"""Checking a finished run without trusting the people who ran it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from accounting import (
    Adversary,
    EpsilonPair,
    LedgerCorrupted,
    LedgerHeader,
    LedgerVerdict,
    read_ledger,
    verify_ledger,
)
from privfed_dpo.engine.plan import canonical_json
from privfed_dpo.errors import DataError


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """What a stranger may conclude from a run folder.

    Attributes:
        ok: nothing was found to be altered.
        problems: what is wrong, one sentence each.
        notes: what is worth knowing, but no fault.
        epsilon: recomputed from the ledger's events alone, per adversary.
        realised: Rényi-filter epsilon with the survivors there were.
        delta: the delta of all of them; None without privacy.
        rounds: booked rounds.
        head: hash of the ledger's last line.
    """

    ok: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    epsilon: Mapping[Adversary, EpsilonPair] = field(default_factory=dict)
    realised: float = 0.0
    delta: float | None = None
    rounds: int = 0
    head: str = ""

    def as_dict(self) -> dict[str, object]:
        """The verdict for machines; an infinite epsilon is null."""
        return {
            "ok": self.ok,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "epsilon": {
                adversary.value: {"pld": _finite(pair.pld), "rdp": _finite(pair.rdp)}
                for adversary, pair in self.epsilon.items()
            },
            "epsilon_realised": _finite(self.realised),
            "delta": self.delta,
            "rounds": self.rounds,
            "ledger_head": self.head,
        }

    def as_text(self) -> str:
        """The verdict for people."""
        lines = [f"PROBLEM: {problem}" for problem in self.problems]
        lines += [f"note: {note}" for note in self.notes]
        if self.delta is not None and self.epsilon:
            lines.append(
                f"epsilon recomputed from {self.rounds} booked rounds, delta {self.delta:g}"
            )
            lines += [
                f"  {adversary.value:<10} PLD {pair.pld:.4f}   RDP {pair.rdp:.4f}"
                for adversary, pair in self.epsilon.items()
            ]
        elif self.epsilon:
            lines.append("no privacy was promised: epsilon is infinite")
        lines.append(
            "verified: ledger, metrics, plan, config and adapter belong together"
            if self.ok
            else "NOT verified"
        )
        return "\n".join(lines)


def verify_run(folder: Path) -> RunVerdict:
    """Check a run folder: chain, spends, epsilon, and that every file belongs to the ledger.

    Epsilon is recomputed from the ledger's raw events by two accountants; nothing is taken from
    the summary but the claims that are to be checked.

    Args:
        folder: a run folder; an unfinished run can be checked too.

    Raises:
        DataError: there is no ledger to check.
    """
    path = folder / "ledger.jsonl"
    if not path.is_file():
        raise DataError(
            f"there is no ledger in {folder}",
            source=str(path),
            advice="Give a run folder written by train.",
        )
    try:
        record = read_ledger(path)
    except LedgerCorrupted as error:
        return RunVerdict(ok=False, problems=(f"the ledger cannot be read: {error}",))
    summary, problems = _read_summary(folder)
    head = summary.get("ledger_head") if summary else None
    verdict = verify_ledger(record, expected_head=head if isinstance(head, str) else None)
    problems += [*verdict.problems, *_foreign_files(folder, record.header, verdict)]
    if summary is not None:
        problems += _understated(summary, verdict)
    notes = list(verdict.notes)
    if verdict.status is None:
        notes.append("the run is not finished")
    elif summary is None and not problems:
        problems.append("the ledger is closed, but summary.json is missing")
    budget = record.header.budget
    return RunVerdict(
        ok=not problems,
        problems=tuple(problems),
        notes=tuple(notes),
        epsilon=verdict.epsilon,
        realised=verdict.realised,
        delta=budget.delta if budget else None,
        rounds=verdict.rounds,
        head=verdict.head,
    )


def _read_summary(folder: Path) -> tuple[dict[str, object] | None, list[str]]:
    path = folder / "summary.json"
    if not path.is_file():
        return None, []
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        return None, [f"summary.json cannot be read: {error}"]
    if not isinstance(summary, dict):
        return None, ["summary.json is not an object"]
    return summary, []


def _foreign_files(folder: Path, header: LedgerHeader, verdict: LedgerVerdict) -> list[str]:
    """Compare the hashes the ledger holds with the files that lie beside it."""
    problems = []
    config = _sha256(folder / "config.yaml")
    if config != header.config_hash:
        problems.append("config.yaml is not the one this ledger was started with")
    plan = _plan_hash(folder / "plan.json")
    if plan != header.plan_hash:
        problems.append("plan.json is not the one this ledger was started with")
    for fact, name in (
        ("metrics_sha256", "metrics.jsonl"),
        ("adapter_sha256", "adapter/adapter_model.safetensors"),
    ):
        expected = verdict.facts.get(fact)
        if expected is not None and _sha256(folder / name) != expected:
            problems.append(f"{name} is not the one this ledger was closed with")
    return problems


def _understated(summary: Mapping[str, object], verdict: LedgerVerdict) -> list[str]:
    """Find claims of the summary that are smaller than what the ledger shows."""
    claimed = summary.get("epsilon")
    problems = []
    for adversary, pair in verdict.epsilon.items():
        entry = claimed.get(adversary.value) if isinstance(claimed, dict) else None
        value = entry.get("pld") if isinstance(entry, dict) else None
        told = float("inf") if value is None else value
        if not isinstance(told, int | float) or told < pair.pld * (1 - 1e-9):
            problems.append(
                f"summary.json claims epsilon {value} against {adversary.value}; the ledger shows "
                f"{pair.pld:.6g}"
            )
    return problems


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plan_hash(path: Path) -> str | None:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
