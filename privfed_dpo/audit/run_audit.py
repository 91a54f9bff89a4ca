"""The audit of a finished run: reopen it, score what the auditor knows, judge, keep the result."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from accounting import Adversary, LedgerRecord, read_ledger, verify_ledger
from privfed_dpo.audit.findings import ABOUT_CANARIES, AuditFindings, Membership
from privfed_dpo.audit.lane_audit import CONFIDENCE, LaneEvidence, audit_lanes
from privfed_dpo.audit.pair_audit import Claim, audit_pairs, membership
from privfed_dpo.audit.pair_canaries import PairCanaries
from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.engine.checkpoint import load_checkpoint
from privfed_dpo.engine.contribution import PrivateShard
from privfed_dpo.engine.lanes import LaneRecord
from privfed_dpo.engine.measurement import MeasuredPolicy
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.errors import DataError
from privfed_dpo.observe.run_folder import (
    CHECKPOINT_FOLDER,
    LEDGER_FILE,
    SUMMARY_FILE,
    read_json,
    write_json_atomic,
)

AUDIT_FILE = "audit.json"
SCORES_FILE = "audit_scores.npz"
LANES_FILE = "audit_lanes.npz"

_LARGEST_CANARY_SHARE = 0.02


class ScoringPolicy(MeasuredPolicy, Protocol):
    """The model as the auditor sees it."""

    @property
    def gradients(self) -> PairGradients:
        """What was trained: among it the loss, whose margins are the scores."""
        ...

    def reference_scores(self, pairs: Sequence[TokenizedPair]) -> npt.NDArray[np.float32]:
        """Score pairs under the base model, shape [n, 2]."""


class OpenedRun(Protocol):
    """A run with its data and model back in memory, as the auditor of a simulation has them."""

    @property
    def plan(self) -> RunPlan:
        """The run's plan."""
        ...

    @property
    def data_fingerprint(self) -> str:
        """Hash over all tokenized pairs."""
        ...

    @property
    def source(self) -> ScoringPolicy:
        """What the model is asked through."""
        ...

    @property
    def shards(self) -> Sequence[PrivateShard]:
        """Every client's training pairs, canaries last."""
        ...

    @property
    def canaries(self) -> PairCanaries | None:
        """Canaries with their coins, if the run had any."""
        ...

    @property
    def held_back(self) -> Sequence[Sequence[TokenizedPair]]:
        """Pairs of each client that were kept out of training."""
        ...

    def close(self) -> None:
        """End all processes but this one."""


def audit_run(folder: Path, open_run: Callable[[Path], OpenedRun]) -> AuditFindings:
    """Audit a run and keep the result: `audit.json`, the scores, and summary.json's "audit".

    Args:
        folder: a run folder whose training has ended.
        open_run: brings data, model and coins of the folder back.

    Returns:
        Every bound beside the claim it tests, and membership inference where pairs were held back.

    Raises:
        DataError: there is no run, it has not ended, or nothing in it can be audited.
        ResumeMismatch: data or model are not those of the run.

    The auditor sees private pairs and coins; what is stored are scores and counts, exact and
    without noise, so it is for the auditor and not for publication.
    """
    if not (folder / LEDGER_FILE).is_file():
        raise DataError(
            f"there is no run in {folder}",
            source=str(folder),
            advice="Give a run folder written by train.",
        )
    summary = read_json(folder / SUMMARY_FILE)
    if not summary:
        raise DataError(
            f"the run in {folder} has no summary: it has not ended, or the file was lost",
            source=str(folder),
            advice=f"Finish it first: privfed-dpo resume {folder}, which also says if it has "
            "ended; then put summary.json back from a copy.",
        )
    with contextlib.closing(open_run(folder)) as run:
        ledger = read_ledger(folder / LEDGER_FILE)
        claim = _claim(run.plan, ledger)
        parts = [
            _audit_of_lanes(folder, run.plan, ledger, claim),
            _audit_of_canaries(folder, run, claim),
            _audit_of_members(folder, run),
        ]
    findings = AuditFindings(
        bounds=tuple(bound for part in parts for bound in part.findings.bounds),
        membership=tuple(report for part in parts for report in part.findings.membership),
        notes=(*_GENERAL_NOTES, *(note for part in parts for note in part.findings.notes)),
    )
    if not findings.bounds and not findings.membership:
        raise DataError(
            f"the run in {folder} holds nothing to audit",
            source=str(folder),
            advice="Train with evaluation.audit_lanes, audit_pairs or audit_held_back above 0.",
        )
    scores = {name: values for part in parts for name, values in part.scores.items()}
    if scores:
        np.savez(folder / SCORES_FILE, allow_pickle=False, **scores)
    write_json_atomic(folder / AUDIT_FILE, findings.as_dict())
    write_json_atomic(folder / SUMMARY_FILE, {**summary, "audit": findings.as_dict()})
    return findings


@dataclass(frozen=True, slots=True)
class _Part:
    """One kind of audit: what it found, and the scores from which to compute it again."""

    findings: AuditFindings = field(default_factory=lambda: AuditFindings(()))
    scores: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict, repr=False)


_GENERAL_NOTES = (
    "Each bound holds by itself: at 95 % confidence it may exceed the truth once in 20 runs.",
    "A low bound certifies nothing; the attack may be weak.",
)


def _claim(plan: RunPlan, ledger: LedgerRecord) -> Claim:
    booked = verify_ledger(ledger)
    if not booked.participations:
        raise DataError("the run booked no round: there is nothing to audit")
    return Claim(plan.schedule, booked.participations, booked.rounds, plan.delta)


def _audit_of_lanes(folder: Path, plan: RunPlan, ledger: LedgerRecord, claim: Claim) -> _Part:
    if not plan.audit_lanes:
        return _Part()
    path = folder / LANES_FILE
    if not path.is_file():
        raise DataError(f"{path} is missing", source=str(path), advice="Restore the run folder.")
    with np.load(path, allow_pickle=False) as archive:
        record = LaneRecord.from_arrays({name: archive[name] for name in archive.files})
    evidence = LaneEvidence.of_run(record, plan.schedule, _survivors(ledger, plan))
    certified = claim.epsilon(Adversary.SERVER)
    return _Part(
        AuditFindings(audit_lanes(evidence, certified=certified, delta=claim.delta)),
        {"lane_scores": evidence.scores(), "lane_coins": evidence.coins},
    )


def _survivors(ledger: LedgerRecord, plan: RunPlan) -> Mapping[int, Sequence[int]]:
    """Client numbers in every opened sum, from the ledger."""
    places = {name: place for place, name in enumerate(plan.facts.client_names)}
    released: dict[int, Sequence[int]] = {}
    for line in ledger.lines:
        body = line.body
        if line.kind == "outcome" and body.get("status") == "released":
            names: list[str] = body["survivors"]
            released[int(body["round"])] = [places[name] for name in names if name in places]
    return released


def _load_final_adapter(folder: Path, run: OpenedRun) -> None:
    checkpoint = load_checkpoint(
        folder / CHECKPOINT_FOLDER,
        plan_hash=run.plan.plan_hash,
        data_fingerprint=run.data_fingerprint,
    )
    run.source.load(checkpoint.state.weights.astype(np.float32))


def _audit_of_canaries(folder: Path, run: OpenedRun, claim: Claim) -> _Part:
    canaries = run.canaries
    if canaries is None:
        return _Part()
    _load_final_adapter(folder, run)
    margins, coins = _margins(run, canaries.pairs), canaries.coins
    reports: tuple[Membership, ...] = ()
    if 0 < coins.heads.sum() < coins.heads.size:
        sides = "in against out" if coins.form == "in_out" else "kept against flipped"
        groups = margins[coins.heads], margins[~coins.heads]
        reports = (membership(f"{ABOUT_CANARIES}, {sides}", *groups),)
    return _Part(
        AuditFindings(
            bounds=audit_pairs(coins, margins, claim, confidence=CONFIDENCE),
            membership=reports,
            notes=_canary_notes(run.plan, canaries, claim),
        ),
        {"pair_scores": margins, "pair_coins": coins.heads},
    )


def _canary_notes(plan: RunPlan, canaries: PairCanaries, claim: Claim) -> tuple[str, ...]:
    share = len(canaries.pairs) / plan.facts.pairs_total
    notes = []
    if share > _LARGEST_CANARY_SHARE:
        notes.append(
            f"Canaries take up {100 * share:.1f} % of all records: expect a cost in utility."
        )
    zero_out = claim.epsilon(Adversary.OUTSIDE)
    if canaries.coins.form == "swap" and math.isfinite(zero_out):
        notes.append(
            "Swapped pairs test replace-one adjacency; its epsilon is larger than the zero-out "
            f"epsilon of {zero_out:.4g} that the run promises."
        )
    return tuple(notes)


def _audit_of_members(folder: Path, run: OpenedRun) -> _Part:
    others = [pair for withheld in run.held_back for pair in withheld]
    if not others:
        return _Part()
    _load_final_adapter(folder, run)
    about = "training pairs against pairs the same clients held back"
    report = membership(about, _margins(run, _members(run)), _margins(run, others))
    return _Part(AuditFindings((), (report,)))


def _members(run: OpenedRun) -> list[TokenizedPair]:
    """Training pairs of the clients that held pairs back, without canaries."""
    members: list[TokenizedPair] = []
    for number, (shard, withheld) in enumerate(zip(run.shards, run.held_back, strict=True)):
        if withheld:
            planted = len(run.canaries.trained_by(number)) if run.canaries else 0
            members += shard.pairs[: len(shard.pairs) - planted]
    return members


def _margins(run: OpenedRun, pairs: Sequence[TokenizedPair]) -> npt.NDArray[np.float64]:
    source = run.source
    reference = source.reference_scores(pairs)
    _, margins = source.preferences(pairs, reference, source.gradients.loss, with_kl=False)
    return margins
