"""The audit of a finished run: reopen it, score what the auditor knows, judge, keep the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from accounting import Adjacency, Adversary, read_ledger
from privfed_dpo.audit.findings import AuditFindings, JudgedBound, Membership
from privfed_dpo.audit.lane_audit import CONFIDENCE, LaneEvidence, audit_lanes
from privfed_dpo.audit.pair_audit import audit_pairs, certified_epsilon, membership
from privfed_dpo.audit.pair_canaries import PairCanaries
from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.evaluate import evaluate_preferences
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.engine.checkpoint import load_checkpoint
from privfed_dpo.engine.contribution import PrivateShard
from privfed_dpo.engine.lanes import LaneRecord
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
    def gradients(self) -> PairGradients:
        """Policy, loss and scorer."""
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


def audit_run(folder: Path, open_run: Callable[[Path], OpenedRun]) -> AuditFindings:
    """Audit a run and keep the result: `audit.json`, the scores, and summary.json's "audit".

    Args:
        folder: a run folder whose training has ended.
        open_run: brings data, model and coins of the folder back.

    Returns:
        Every bound beside the claim it tests, and membership inference where pairs were held back.

    Raises:
        DataError: the run has not ended, or nothing in it can be audited.
        ResumeMismatch: data or model are not those of the run.

    The auditor sees private pairs and coins; what is stored are scores and counts, exact and
    without noise, so it is for the auditor and not for publication.
    """
    summary = read_json(folder / SUMMARY_FILE)
    if not summary:
        raise DataError(
            f"the run in {folder} has not ended: it has no summary",
            source=str(folder),
            advice=f"Finish it first: privfed-dpo resume {folder}",
        )
    run = open_run(folder)
    bounds: list[JudgedBound] = []
    notes: list[str] = []
    scores: dict[str, npt.NDArray[np.generic]] = {}
    if run.plan.audit_lanes:
        bounds += _lanes(folder, run.plan, scores)
    members, others, memberships = _pairs_of_clients(run), _others(run), []
    if run.canaries is not None or others:
        _load_final_adapter(folder, run)
    if run.canaries is not None:
        found, report = _canaries(run, run.canaries, scores)
        bounds += found
        memberships.append(report)
        notes += _canary_notes(run, run.canaries)
    if others:
        about = "training pairs against pairs the same clients held back"
        memberships.append(membership(about, _margins(run, members), _margins(run, others)))
    if not bounds and not memberships:
        raise DataError(
            f"the run in {folder} holds nothing to audit",
            source=str(folder),
            advice="Train with evaluation.audit_lanes, audit_pairs or audit_held_back above 0.",
        )
    findings = AuditFindings(tuple(bounds), tuple(memberships), (*_GENERAL_NOTES, *notes))
    _store(folder, findings, summary, scores)
    return findings


_GENERAL_NOTES = (
    "Each bound holds by itself: at 95 % confidence it may exceed the truth once in 20 runs.",
    "A low bound certifies nothing; the attack may be weak.",
)


def _lanes(
    folder: Path, plan: RunPlan, scores: dict[str, npt.NDArray[np.generic]]
) -> tuple[JudgedBound, ...]:
    path = folder / LANES_FILE
    if not path.is_file():
        raise DataError(f"{path} is missing", source=str(path), advice="Restore the run folder.")
    with np.load(path, allow_pickle=False) as archive:
        record = LaneRecord.from_arrays({name: archive[name] for name in archive.files})
    survivors = _survivors(folder / LEDGER_FILE, plan)
    evidence = LaneEvidence.of_run(record, plan.schedule, survivors)
    scores |= {"lane_scores": evidence.scores(), "lane_coins": evidence.coins}
    certified = plan.schedule.epsilon(Adversary.SERVER, plan.delta).pld
    return audit_lanes(evidence, certified=certified, delta=plan.delta)


def _survivors(ledger: Path, plan: RunPlan) -> Mapping[int, Sequence[int]]:
    """Client numbers in every opened sum, from the ledger."""
    places = {name: place for place, name in enumerate(plan.facts.client_names)}
    released: dict[int, Sequence[int]] = {}
    for line in read_ledger(ledger).lines:
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
    run.gradients.adapter.write(checkpoint.state.weights.astype(np.float32))


def _canaries(
    run: OpenedRun, canaries: PairCanaries, scores: dict[str, npt.NDArray[np.generic]]
) -> tuple[tuple[JudgedBound, ...], Membership]:
    margins, heads = _margins(run, canaries.pairs), canaries.coins.heads
    scores |= {"pair_scores": margins, "pair_coins": heads}
    bounds = audit_pairs(
        canaries.coins,
        margins,
        run.plan.schedule,
        delta=run.plan.delta,
        confidence=CONFIDENCE,
    )
    sides = "in against out" if canaries.coins.form == "in_out" else "kept against flipped"
    return bounds, membership(f"pair canaries, {sides}", margins[heads], margins[~heads])


def _canary_notes(run: OpenedRun, canaries: PairCanaries) -> list[str]:
    share = len(canaries.pairs) / run.plan.facts.pairs_total
    notes = []
    if share > _LARGEST_CANARY_SHARE:
        notes.append(
            f"Canaries take up {100 * share:.1f} % of all records: expect a cost in utility."
        )
    if canaries.coins.form == "swap":
        adversary, delta = Adversary.OUTSIDE, run.plan.delta
        zero_out = certified_epsilon(run.plan.schedule, adversary, Adjacency.ZERO_OUT, delta)
        notes.append(
            "Swapped pairs test replace-one adjacency; its epsilon is larger than the zero-out "
            f"epsilon of {zero_out:.4g} that the run promises."
        )
    return notes


def _pairs_of_clients(run: OpenedRun) -> list[TokenizedPair]:
    """Training pairs of the clients that held pairs back, without canaries."""
    members: list[TokenizedPair] = []
    for number, (shard, withheld) in enumerate(zip(run.shards, run.held_back, strict=True)):
        if withheld:
            planted = len(run.canaries.trained_by(number)) if run.canaries else 0
            members += shard.pairs[: len(shard.pairs) - planted]
    return members


def _others(run: OpenedRun) -> list[TokenizedPair]:
    return [pair for withheld in run.held_back for pair in withheld]


def _margins(run: OpenedRun, pairs: Sequence[TokenizedPair]) -> npt.NDArray[np.float64]:
    gradients = run.gradients
    reference = ReferenceLogprobs(
        gradients.adapter,
        fingerprint=run.plan.facts.model_fingerprint,
        micro_batch_pairs=gradients.micro_batch_pairs,
        scorer=gradients.scorer,
    )
    _, margins = evaluate_preferences(
        gradients.adapter,
        pairs,
        reference(pairs),
        beta=gradients.loss.beta,
        micro_batch_pairs=gradients.micro_batch_pairs,
        scorer=gradients.scorer,
        with_kl=False,
    )
    return margins


def _store(
    folder: Path,
    findings: AuditFindings,
    summary: Mapping[str, object],
    scores: Mapping[str, npt.NDArray[np.generic]],
) -> None:
    content = findings.as_dict()
    if scores:
        np.savez(folder / SCORES_FILE, allow_pickle=False, **scores)
    write_json_atomic(folder / AUDIT_FILE, content)
    write_json_atomic(folder / SUMMARY_FILE, {**summary, "audit": content})
