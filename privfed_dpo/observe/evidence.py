"""What the last line of a ledger vouches for: the files of a finished run, by their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from privfed_dpo.engine.public_facts import canonical_json
from privfed_dpo.observe.run_folder import ADAPTER_FOLDER, ENVIRONMENT_FILE, METRICS_FILE

_FILES = {
    "metrics_sha256": METRICS_FILE,
    "adapter_sha256": f"{ADAPTER_FOLDER}/adapter_model.safetensors",
    "adapter_config_sha256": f"{ADAPTER_FOLDER}/adapter_config.json",
    "environment_sha256": ENVIRONMENT_FILE,
    "audit_lanes_sha256": "audit_lanes.npz",
    "audit_pairs_sha256": "audit_pairs.npz",
}
_SUMMARY_FACT = "summary_sha256"
_LATER_KEYS = frozenset({"ledger_head", "audit"})
"""Summary entries that come after the ledger is closed: its head, and audits of the run."""


def closing_facts(folder: Path, summary: Mapping[str, object]) -> dict[str, str]:
    """Hash what a finished run leaves behind, for the ledger's close line.

    Args:
        folder: the run folder; metrics, environment, adapter and the audit's coins and lanes
            (if the run has any) are written and final.
        summary: the content of `summary.json`, which may still lack what comes after the close.

    Returns:
        Fact name to SHA-256, hex.
    """
    facts = {
        fact: file_sha256(folder / name)
        for fact, name in _FILES.items()
        if (folder / name).is_file()
    }
    return {**facts, _SUMMARY_FACT: summary_sha256(summary)}


def altered_files(
    folder: Path, facts: Mapping[str, object], summary: Mapping[str, object] | None
) -> list[str]:
    """Compare a finished run folder with the facts of its ledger's close line.

    Args:
        folder: the run folder.
        facts: as in the close line; a file without a hash there is not checked.
        summary: the content of `summary.json`, None if there is none.

    Returns:
        One sentence for every file that is not the one the ledger vouches for.
    """
    problems = []
    for fact, name in _FILES.items():
        path = folder / name
        if fact in facts and not path.is_file():
            problems.append(f"{name} is missing")
        elif fact in facts and file_sha256(path) != facts[fact]:
            problems.append(f"{name} is not the one this ledger was closed with")
    if summary is None:
        problems.append("the ledger is closed, but summary.json is missing")
    elif not vouched_for(summary, facts):
        problems.append("summary.json is not the one this ledger was closed with")
    return problems


def vouched_for(summary: Mapping[str, object], facts: Mapping[str, object]) -> bool:
    """Whether a summary is the one that a ledger was closed with."""
    return summary_sha256(summary) == facts.get(_SUMMARY_FACT)


def summary_sha256(summary: Mapping[str, object]) -> str:
    """SHA-256 of a summary without what comes after the close, the same in memory and on disk."""
    lasting = {key: value for key, value in summary.items() if key not in _LATER_KEYS}
    # On disk a number that is not finite has become null.
    plain = json.loads(json.dumps(lasting), parse_constant=lambda _: None)
    return hashlib.sha256(canonical_json(plain)).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
