"""A run on the Hugging Face hub: the adapter, its card, and the record that others verify."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

from privfed_dpo.audit.findings import scored_real_pairs
from privfed_dpo.errors import DataError
from privfed_dpo.observe.run_folder import (
    ADAPTER_FOLDER,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LEDGER_FILE,
    METRICS_FILE,
    PLAN_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    write_text_atomic,
)
from privfed_dpo.report.model_card import CARD_FILE, adapter_facts, render_model_card
from privfed_dpo.report.page import read_run

RECORD_FOLDER = "run"
_RECORD = (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LEDGER_FILE,
    METRICS_FILE,
    PLAN_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    "audit_lanes.npz",
    "audit_pairs.npz",
)
"""What `verify` reads and people look at; never the checkpoint, which may hold secrets."""


class Hub(Protocol):
    """What is asked of a hub; `huggingface_hub.HfApi` has it."""

    def create_repo(self, repo_id: str, **settings: Any) -> Any:
        """Make a repository, or find it there."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, **settings: Any) -> Any:
        """Put a folder into a repository, as one commit."""


def publish(run_dir: Path, target: Path, *, not_private: bool = False) -> Path:
    """Lay out what is published of a finished run.

    The adapter and its card stand at the top, where peft and servers look for them; the record
    stands in `run`, where `privfed-dpo verify` takes it. Nothing of the checkpoint goes along:
    keys, secrets of the audit and flips of labels stay where they are. Names of clients stand in
    the ledger, and paths of this machine in the configuration; whoever publishes must want that.

    Args:
        run_dir: the folder of a run that has ended.
        target: an empty folder.
        not_private: whether figures that no epsilon covers may go along: comparisons with adapters
            trained without noise, and audits that scored pairs of clients. Audits by lanes and
            made-up pairs alone are covered: they go along in any case.

    Returns:
        `target`.

    Raises:
        DataError: the run has not ended, a file of it is missing or damaged, or its summary holds
            such figures.
    """
    run = read_run(run_dir)
    if not run.summary.get("ledger_head"):
        raise DataError(
            f"{run_dir} holds no run that has ended",
            source=str(run_dir),
            advice="Finish it first: privfed-dpo resume RUN.",
        )
    comparison, audit = run.summary.get("comparison"), run.summary.get("audit")
    exposed = ["comparison"] if comparison else []
    if audit and scored_real_pairs(audit):
        exposed.append("audit")
    if exposed and not not_private:
        raise DataError(
            f"summary.json holds {' and '.join(exposed)}: figures of private pairs without noise, "
            "which no epsilon covers",
            source=str(run_dir),
            advice="Publish a run without them, or say not_private=True if the pairs are public; "
            "audits by lanes and made-up pairs alone leave none.",
        )
    try:
        shutil.copytree(run_dir / ADAPTER_FOLDER, target, dirs_exist_ok=True)
        shutil.copytree(run_dir / ADAPTER_FOLDER, target / RECORD_FOLDER / ADAPTER_FOLDER)
    except (OSError, shutil.Error) as error:
        raise DataError(
            f"the adapter of {run_dir} cannot be copied: {error}", source=str(run_dir)
        ) from error
    for name in _RECORD:
        if (run_dir / name).is_file():
            shutil.copy2(run_dir / name, target / RECORD_FOLDER / name)
    card = render_model_card(run, adapter_facts(run_dir), published=True)
    write_text_atomic(target / CARD_FILE, card)
    return target


def push_to_hub(
    run_dir: Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    hub: Hub | None = None,
    not_private: bool = False,
) -> str:
    """Publish a finished run on the Hugging Face hub.

    Args:
        run_dir: the folder of a run that has ended.
        repo_id: `owner/name`; made if it is not there.
        private: whether a new repository is; one that exists stays as it is.
        token: access token; None takes the one that `hf auth login` stored.
        hub: the hub; None is the one on the network.
        not_private: see `publish`.

    Returns:
        Address of the repository.

    Raises:
        DataError: see `publish`.
    """
    connected = _network(token) if hub is None else hub
    with tempfile.TemporaryDirectory() as scratch:
        folder = publish(run_dir, Path(scratch), not_private=not_private)
        address = connected.create_repo(repo_id, private=private, exist_ok=True)
        message = f"PrivFed-DPO run {read_run(run_dir).summary.get('run_id')}"
        connected.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    return str(address)


def _network(token: str | None) -> Hub:
    from huggingface_hub import HfApi  # noqa: PLC0415 - loads a network stack

    api: Any = HfApi(token=token)
    hub: Hub = api
    return hub
