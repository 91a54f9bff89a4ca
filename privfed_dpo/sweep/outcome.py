"""How a run ended, as the sweep keeps it: figures of its summary, or why there are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accounting import AccountingError, BudgetExceeded, read_ledger
from privfed_dpo.engine.training import bad_end
from privfed_dpo.errors import DataError, PrivFedError
from privfed_dpo.observe.run_folder import (
    CHECKPOINT_FOLDER,
    LEDGER_FILE,
    SUMMARY_FILE,
    read_json,
)
from privfed_dpo.sweep.records import Booked
from secure_agg import SecAggError

FAILED = "failed"
COMPARED_ARMS = ("local_only", "centralised")
"""Trainings a run may have made to compare with; see `evaluation.references`."""

_METRICS = ("reward_accuracy", "reward_margin", "loss", "kl", "epsilon_realised")
_GOOD = frozenset({"finished", "budget_spent"})


def failure_of(error: BaseException) -> tuple[int, str]:
    """Return the exit code `train` would have given, and one sentence.

    Args:
        error: what ended a run.
    """
    if isinstance(error, PrivFedError):
        return error.exit_code, f"{error} {error.advice}".strip()
    if isinstance(error, BudgetExceeded):
        return 3, str(error)
    if isinstance(error, AccountingError):
        return 2, str(error)
    if isinstance(error, SecAggError):
        return 4, str(error)
    if isinstance(error, OSError):
        return 1, f"{type(error).__name__}: {error.strerror or error}"
    return 1, f"{type(error).__name__}: {error}"


def failed_result(folder: Path, relative: str, exit_code: int, reason: str) -> dict[str, Any]:
    """The result of a run that did not end well, with what its folder still tells.

    Args:
        folder: its run folder, which may hold little or nothing.
        relative: the folder as the results name it.
        exit_code: see `failure_of`.
        reason: see `failure_of`.
    """
    try:
        result = _figures(read_json(folder / SUMMARY_FILE), relative)
    except DataError:
        result = _figures({}, relative)
    status = result["status"] if result["status"] not in {*_GOOD, ""} else FAILED
    return {**result, "status": status, "exit_code": exit_code, "reason": reason}


def run_result(folder: Path, relative: str) -> dict[str, Any]:
    """The result of a run whose training has ended well.

    Args:
        folder: its run folder.
        relative: the folder as the results name it.

    Raises:
        RunAborted, RunDiverged: training ended, but not well.
        DataError: there is no summary.
    """
    result = _figures(read_json(folder / SUMMARY_FILE), relative)
    error = bad_end(result["status"], result["reason"])
    if error is not None:
        raise error
    if result["status"] not in _GOOD:
        raise DataError(f"the run in {relative} left no summary of a finished training")
    return {**result, "exit_code": 0}


def booked_in(folder: Path) -> Booked | None:
    """What a run's ledger holds.

    Args:
        folder: a run folder; without a ledger nothing was released.

    Returns:
        The rounds booked; None if the folder is gone or the ledger cannot be read, so that nobody
        knows.
    """
    if not folder.is_dir():
        return None
    if not (folder / LEDGER_FILE).is_file():
        return Booked(0, 0)
    try:
        record = read_ledger(folder / LEDGER_FILE)
        spends = [line.body["cohort"] for line in record.lines if line.kind == "spend"]
        counted = Counter(client for cohort in spends for client in cohort)
    except (AccountingError, OSError, KeyError, TypeError):
        return None
    return Booked(max(counted.values(), default=0), len(spends))


def has_ended(folder: Path) -> bool:
    """Whether training in this folder came to its end, with nothing left to tidy up."""
    try:
        written = bool(read_json(folder / SUMMARY_FILE).get("status"))
    except DataError:
        return False
    return written and _is_closed(folder) and not _has_draft(folder)


def can_resume(folder: Path) -> bool:
    """Whether `resume` can go on in this folder."""
    state = folder / CHECKPOINT_FOLDER / "state.npz"
    if not state.is_file() or not (folder / LEDGER_FILE).is_file():
        return False
    return _has_draft(folder) or not _is_closed(folder)


def _has_draft(folder: Path) -> bool:
    """Whether the run was killed while it ended; see `privfed_dpo.ending`."""
    return (folder / CHECKPOINT_FOLDER / SUMMARY_FILE).is_file()


def _is_closed(folder: Path) -> bool:
    try:
        return read_ledger(folder / LEDGER_FILE).lines[-1].kind == "close"
    except (AccountingError, OSError):
        return True


def _figures(summary: Mapping[str, Any], relative: str) -> dict[str, Any]:
    final = summary.get("final") or {}
    clients = [share for share in (summary.get("per_client") or {}).values() if share is not None]
    audit = summary.get("audit") or {}
    bounds = [bound.get("epsilon_lower_bound") for bound in audit.get("bounds") or ()]
    known = [bound for bound in bounds if bound is not None]
    arms = (summary.get("comparison") or {}).get("arms") or {}
    return {
        "status": str(summary.get("status") or ""),
        "exit_code": 0,
        "reason": str(summary.get("reason") or ""),
        "folder": relative,
        "epsilon": summary.get("epsilon") or {},
        "delta": summary.get("delta"),
        **{name: final.get(name) for name in _METRICS},
        "client_accuracy_min": min(clients, default=None),
        "client_accuracy_mean": sum(clients) / len(clients) if clients else None,
        **{f"{arm}_accuracy": (arms.get(arm) or {}).get("mean") for arm in COMPARED_ARMS},
        "upload_bytes": summary.get("upload_bytes_total"),
        "download_bytes": summary.get("download_bytes_total"),
        "seconds": summary.get("seconds_total"),
        "rounds_done": summary.get("rounds_done"),
        "audit_epsilon": max(known, default=None),
        "audit_verdict": audit.get("verdict"),
        "ledger_head": summary.get("ledger_head"),
    }
