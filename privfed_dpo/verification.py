"""Checking a run without trusting the people who ran it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from accounting import (
    Adversary,
    EpsilonPair,
    LedgerCorrupted,
    LedgerHeader,
    LedgerVerdict,
    Mode,
    encode_schedule,
    guarantee,
    read_ledger,
    verify_ledger,
)
from privfed_dpo.engine.public_facts import canonical_json
from privfed_dpo.enrolment import PublicKeys
from privfed_dpo.errors import DataError
from privfed_dpo.observe.evidence import altered_files, file_sha256
from privfed_dpo.observe.plain_json import parse_json
from privfed_dpo.observe.run_folder import ADAPTER_FOLDER, REPORT_FILE
from privfed_dpo.row_claims import (
    ROUNDING,
    claimed_epsilon,
    claimed_rows,
    miscounted_rounds,
    understated_rows,
)

_STATED_ROUNDING = 1e-3
_NOISE_IN_SHARES = frozenset({Mode.DISTRIBUTED, Mode.USER})
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")


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
        finished: the ledger is closed, and vouches for the files of the run.
    """

    ok: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    epsilon: Mapping[Adversary, EpsilonPair] = field(default_factory=dict)
    realised: float = 0.0
    delta: float | None = None
    rounds: int = 0
    head: str = ""
    finished: bool = False

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
            "finished": self.finished,
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
                f"  {adversary.value:<10} {_bounds(pair)}"
                for adversary, pair in self.epsilon.items()
            ]
        elif self.epsilon:
            lines.append("no privacy was promised: epsilon is infinite")
        lines.append(self._conclusion())
        return "\n".join(lines)

    def _conclusion(self) -> str:
        if not self.ok:
            return "NOT verified"
        if self.finished:
            return "verified: ledger, plan, config, metrics, summary and adapter belong together"
        return (
            "verified so far: ledger, plan and config belong together, and metrics claim nothing "
            "that the ledger does not show; no results of this run are vouched for"
        )


def verify_run(folder: Path, *, known_head: str | None = None) -> RunVerdict:
    """Check a run folder: chain, spends, epsilon, and that every file belongs to the ledger.

    Epsilon is recomputed from the ledger's raw events by two accountants; nothing is taken from
    the summary but the claims that are to be checked. Only a closed ledger vouches for results: of
    a run that is not finished nothing is checked but ledger, plan, config and the rows so far.

    Whoever made the folder can make another one, files, hashes and all, that agrees with itself.
    Only a head noted elsewhere when the run ended tells the two apart.

    Args:
        folder: a run folder; an unfinished run can be checked too.
        known_head: hash of the ledger's last line, from a source that the owner of the folder
            cannot change.

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
    # A summary that names no head is as good as one that names a wrong one.
    head = None if summary is None else str(summary.get("ledger_head", ""))
    try:
        keys = PublicKeys.of_header(record.header.extra)
    except ValueError as error:
        return RunVerdict(ok=False, problems=(str(error),))
    plan = _read_plan(folder / "plan.json")
    told = record.header.extra.get("secure_aggregation")
    receipts = plan.get("secure_aggregation", told) is True
    verdict = verify_ledger(
        record,
        verifier=keys.signed_line,
        receipt_verifier=keys.signed_receipt if receipts else None,
        expected_head=head,
    )
    problems += [*verdict.problems, *_foreign_plan(folder, plan, record.header)]
    if known_head is not None and known_head != verdict.head:
        problems.append(f"the ledger ends with {verdict.head}, not with the head you know")
    notes = list(verdict.notes)
    if verdict.status is not None:
        if summary is not None or not problems:
            problems += altered_files(folder, verdict.facts, summary)
    elif summary is not None:
        problems.append("summary.json tells of an end, but the ledger has no close line")
    else:
        notes.append("the run is not finished")
        notes += _not_vouched_for(folder)
    rows, unreadable = claimed_rows(folder)
    problems += unreadable + understated_rows(rows, record, verdict)
    if summary is not None:
        problems += _understated_summary(summary, record.header, verdict)
        problems += miscounted_rounds(summary, rows, record)
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
        finished=verdict.status is not None,
    )


def _bounds(pair: EpsilonPair) -> str:
    """Both figures; a PLD that does not exist is left out."""
    by_pld = f"PLD {pair.pld:.4f}   RDP {pair.rdp:.4f}"
    return by_pld if math.isfinite(pair.pld) else f"RDP {pair.rdp:.4f}"


def _read_summary(folder: Path) -> tuple[dict[str, object] | None, list[str]]:
    path = folder / "summary.json"
    if not path.is_file():
        return None, []
    try:
        summary = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        return None, [f"summary.json cannot be read: {error}"]
    if not isinstance(summary, dict):
        return None, ["summary.json is not an object"]
    return summary, []


def _not_vouched_for(folder: Path) -> list[str]:
    """Name results beside a ledger that is not closed: a run that died while ending leaves some."""
    found = [name for name in (ADAPTER_FOLDER, REPORT_FILE) if (folder / name).exists()]
    return [f"nothing vouches for {name} before the ledger is closed" for name in found]


def _foreign_plan(folder: Path, plan: Mapping[str, object], header: LedgerHeader) -> list[str]:
    """Compare config and plan with the hashes and the promises in the ledger's header."""
    problems = []
    config = folder / "config.yaml"
    if not config.is_file() or file_sha256(config) != header.config_hash:
        problems.append("config.yaml is not the one this ledger was started with")
    if hashlib.sha256(canonical_json(plan)).hexdigest() != header.plan_hash:
        problems.append("plan.json is not the one this ledger was started with")
    budget = header.budget
    promised = {
        "schedule": encode_schedule(header.schedule),
        "clients": header.clients,
        "target_epsilon": _finite(budget.epsilon) if budget else None,
        "delta": budget.delta if budget else plan.get("delta"),
        "secure_aggregation": header.extra.get("secure_aggregation"),
    }
    problems += [
        f"the header of the ledger and plan.json disagree about {name}"
        for name, value in promised.items()
        if canonical_json(plan.get(name)) != canonical_json(value)
    ]
    mode = header.schedule.mode
    if mode in _NOISE_IN_SHARES and plan.get("secure_aggregation") is False:
        problems.append(
            f"plan.json takes sums in clear, where the noise of mode {mode} is too small"
        )
    return problems


def _understated_summary(
    summary: Mapping[str, object], header: LedgerHeader, verdict: LedgerVerdict
) -> list[str]:
    """Find claims of the summary that are smaller than what the ledger shows."""
    claimed = summary.get("epsilon")
    problems = []
    for adversary, pair in verdict.epsilon.items():
        entry = claimed.get(adversary.value) if isinstance(claimed, dict) else None
        for accountant, found in (("pld", pair.pld), ("rdp", pair.rdp)):
            value = entry.get(accountant) if isinstance(entry, dict) else 0.0
            if not claimed_epsilon(value) >= found * (1 - ROUNDING):
                problems.append(
                    f"summary.json claims epsilon {value} ({accountant.upper()}) against "
                    f"{adversary.value}; the ledger shows {found:.6g}"
                )
    problems += _understated_labels(summary.get("label"), header)
    if header.budget is not None and summary.get("delta") != header.budget.delta:
        problems.append(
            f"summary.json claims delta {summary.get('delta')}; the ledger holds the run to "
            f"{header.budget.delta:g}"
        )
    statement = guarantee(
        header, verdict.epsilon, participations=verdict.participations, realised=verdict.realised
    )
    if not _says_the_same(str(summary.get("statement")), statement):
        problems.append("the statement in summary.json is not what the ledger supports")
    return problems


def _understated_labels(claimed: object, header: LedgerHeader) -> list[str]:
    """Compare what the summary says about labels with the flips that the ledger's header books."""
    cost = header.schedule.label_cost(math.inf, 0.5)
    if cost is None:
        return [] if claimed is None else ["summary.json claims flipped labels; the ledger none"]
    told = claimed.get("pure") if isinstance(claimed, dict) else None
    if told is not None and claimed_epsilon(told) >= cost.pure * (1 - ROUNDING):
        return []
    return [f"summary.json claims {told} for a label; the ledger shows {cost.pure:.6g}"]


def _says_the_same(claimed: str, supported: str) -> bool:
    """The same words, and the same numbers up to rounding."""
    if _NUMBER.sub("#", claimed) != _NUMBER.sub("#", supported):
        return False
    numbers = (map(float, _NUMBER.findall(text)) for text in (claimed, supported))
    return all(
        math.isclose(one, other, rel_tol=_STATED_ROUNDING)
        for one, other in zip(*numbers, strict=True)
    )


def _read_plan(path: Path) -> dict[str, object]:
    """Read the plan; one that has no hash, as with NaN in it, is as good as none."""
    try:
        facts = parse_json(path.read_bytes())
        canonical_json(facts)
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
