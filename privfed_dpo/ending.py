"""How a run ends: adapter saved, ledger closed, summary and report written, secrets removed.

A draft of the summary is on the disk before the ledger's last line vouches for it, so that a crash
between the two loses nothing: `complete_ending` goes on from there.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from pathlib import Path

import numpy as np

from accounting import Ledger, read_ledger
from privfed_dpo.assembly import Assembly
from privfed_dpo.audit.run_audit import LANES_FILE
from privfed_dpo.config import load_config
from privfed_dpo.durable import drafted
from privfed_dpo.engine.held_out_slopes import PolicySlopes
from privfed_dpo.engine.training import TrainingResult
from privfed_dpo.label_secret import LABELS_FILE
from privfed_dpo.mechanism.keystream import Entropy
from privfed_dpo.observe.evidence import closing_facts, file_sha256, vouched_for
from privfed_dpo.observe.floor_facts import floor_facts
from privfed_dpo.observe.run_folder import (
    ADAPTER_FOLDER,
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    LEDGER_FILE,
    write_json_atomic,
)
from privfed_dpo.observe.run_summary import run_summary
from privfed_dpo.personal import compare_clients, why_not_compared
from privfed_dpo.report.model_card import write_model_card
from privfed_dpo.report.page import write_report

KEYS_FILE = "keys.secret"
"""Signing keys of an unfinished simulated run; removed when it ends."""

_DRAFT_FILE = "summary.json"
_CHECKED_PAIRS = 4


def end_run(
    folder: Path,
    assembly: Assembly,
    ledger: Ledger,
    result: TrainingResult,
    *,
    entropy: Entropy = secrets.token_bytes,
) -> dict[str, object]:
    """Save and check the adapter, then close the ledger over everything the run leaves behind.

    Args:
        folder: the run folder; its metrics are written.
        assembly: what was trained.
        ledger: open, with every round booked.
        result: how training ended.
        entropy: source of secrets, where clients train adapters of their own.

    Returns:
        The content of `summary.json`. The caller announces it and then calls `leave_tidy`.

    Raises:
        ModelError: the saved adapter does not score as the trained one.
    """
    checkpoint = result.checkpoint
    weights = checkpoint.state.weights.astype(np.float32)
    assembly.adapter.write(weights)
    target = folder / ADAPTER_FOLDER
    assembly.adapter.save(target)
    if checkpoint.lanes is not None:
        with drafted(folder / LANES_FILE) as draft, draft.open("wb") as file:
            np.savez(file, allow_pickle=False, **checkpoint.lanes.arrays())
    pairs = assembly.held_out.pairs if assembly.held_out else assembly.shards[0].pairs
    assembly.source.verify_saved(target, pairs[:_CHECKED_PAIRS])
    summary = run_summary(
        plan=assembly.plan,
        ledger=ledger,
        result=result,
        adapter_sha256=file_sha256(target / "adapter_model.safetensors"),
        per_client=assembly.measure.per_client_accuracy(weights),
        population=assembly.population.described() if assembly.population else None,
    )
    wanted = assembly.config.evaluation
    samples = assembly.source.answers(
        assembly.loaded.tokenizer, wanted.sample_prompts, max_tokens=wanted.sample_tokens
    )
    summary["samples"] = [asdict(sample) for sample in samples]
    summary["comparison"] = compare_clients(assembly, weights, folder, entropy=entropy)
    summary["not_compared"] = why_not_compared(assembly)
    summary["floor"] = _floor(assembly, result)
    facts = {"reason": result.reason, **closing_facts(folder, summary)}
    write_json_atomic(folder / CHECKPOINT_FOLDER / _DRAFT_FILE, summary)
    summary["ledger_head"] = ledger.close(result.status, facts)
    return summary


def _floor(assembly: Assembly, result: TrainingResult) -> dict[str, object] | None:
    """What keeps the gradient from zero, by source; None without held-out pairs for gradients."""
    wanted, held_out = assembly.config.evaluation, assembly.held_out
    if not wanted.curvature_products or held_out is None or not held_out.gradient_places:
        return None
    end = result.checkpoint.state.weights.astype(np.float32)
    facts = floor_facts(
        plan=assembly.plan,
        slopes=PolicySlopes(assembly.source, held_out),
        start=assembly.start,
        end=end,
        rows=result.checkpoint.rows,
        products=wanted.curvature_products,
        seed=assembly.config.run.seed,
    )
    assembly.source.load(end)
    return facts


def complete_ending(folder: Path) -> dict[str, object] | None:
    """Finish what a crash after the ledger's last line left undone.

    Args:
        folder: a run folder whose ledger is closed.

    Returns:
        The content of `summary.json`, to be announced; None if nothing was left undone, or if the
        draft is not what the ledger vouches for.
    """
    draft = folder / CHECKPOINT_FOLDER / _DRAFT_FILE
    if not draft.is_file():
        return None
    summary: dict[str, object] = json.loads(draft.read_text(encoding="utf-8"))
    last = read_ledger(folder / LEDGER_FILE).lines[-1]
    if not vouched_for(summary, last.body["facts"]):
        return None
    return {**summary, "ledger_head": last.digest}


def leave_tidy(folder: Path) -> None:
    """Write report and card; remove what only an unfinished run needs: secrets, last the draft.

    Whoever is to audit the run needs the pairs as they were trained on, flipped labels included.
    """
    write_report(folder)
    write_model_card(folder)
    wanted = load_config(folder / CONFIG_FILE).evaluation
    audited = wanted.audit_lanes or wanted.audit_pairs or wanted.audit_held_back
    for name in (KEYS_FILE, *(() if audited else (LABELS_FILE,)), _DRAFT_FILE):
        (folder / CHECKPOINT_FOLDER / name).unlink(missing_ok=True)
