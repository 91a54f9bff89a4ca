"""A run at whoever coordinates it: its books, its rows, its checkpoints, from any round on.

The same for a simulated run, whose clients live in this process, and for a deployment, whose
clients live on other machines: only the carrier differs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from accounting import Adjacency, Ledger, LedgerHeader, read_ledger
from accounting.canonical import JSON
from privfed_dpo.assembly import Assembly
from privfed_dpo.ending import end_run, leave_tidy
from privfed_dpo.engine.checkpoint import Checkpoint, save_checkpoint
from privfed_dpo.engine.drift_state import Arrays
from privfed_dpo.engine.events import (
    EngineEvent,
    MetricsRow,
    Observer,
    PlanReady,
    RoundFinished,
    RunFinished,
)
from privfed_dpo.engine.federated import FederatedTraining
from privfed_dpo.engine.invitations import Signer
from privfed_dpo.engine.training import TrainingScript, bad_end, lost_rows, start_row
from privfed_dpo.errors import ConfigError, ResumeMismatch
from privfed_dpo.exclusive import sole_process
from privfed_dpo.mechanism.keystream import Entropy, StreamIssuer
from privfed_dpo.observe.evidence import file_sha256
from privfed_dpo.observe.recorder import RunRecorder
from privfed_dpo.observe.run_folder import CHECKPOINT_FOLDER, CONFIG_FILE, LEDGER_FILE
from privfed_dpo.server_update import ServerUpdate
from privfed_dpo.wire.carrier import Carrier, drive

_LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class Coordination:
    """One process's stretch of a run.

    Attributes:
        assembly: plan, model and measure.
        folder: the run folder.
        ledger: open, and signed by the coordinator.
        roster: identity keys of all enrolled clients, by number.
        sign: the coordinator's key.
        observers: told everything that happens.
        entropy: source of the coordinator's secrets.
    """

    assembly: Assembly
    folder: Path
    ledger: Ledger
    roster: Mapping[int, bytes]
    sign: Signer
    observers: Sequence[Observer]
    entropy: Entropy

    @property
    def run_id(self) -> bytes:
        """16 bytes that name the run."""
        return bytes.fromhex(self.ledger.header.run_id)

    def begin(self, checkpoint: Checkpoint) -> Checkpoint:
        """Measure the untrained model, save that, announce plan and row.

        The empty checkpoint was saved before the ledger was made: a run that exists can be resumed.
        """
        self.tell(PlanReady(self.assembly.plan.describe()))
        row = self._first_row(checkpoint)
        checkpoint = replace(checkpoint, rows=(row,))
        self.save(checkpoint)
        self.tell(RoundFinished(row))
        return checkpoint

    def recover(self, checkpoint: Checkpoint) -> Checkpoint:
        """Rebuild the run folder's rows, with one for every round the interruption destroyed.

        Raises:
            ResumeMismatch: the ledger lacks lines that the checkpoint was saved after.
        """
        _require_whole_ledger(self.folder, self.ledger, checkpoint)
        if not checkpoint.rows:
            return self.begin(checkpoint)
        self.tell(PlanReady(self.assembly.plan.describe()))
        lost = lost_rows(self.ledger, checkpoint.round)
        rows = (*checkpoint.rows, *lost)
        last = lost[-1].round if lost else checkpoint.round
        checkpoint = replace(checkpoint, round=last, rows=rows)
        self.save(checkpoint)
        RunRecorder(self.folder).restore(rows)
        return checkpoint

    def play(self, script: TrainingScript, carrier: Carrier) -> Path:
        """Train, then write what the run leaves behind; whoever opened the assembly closes it.

        Raises:
            RunAborted: too many rounds in a row were lost; the run folder is complete.
            RunDiverged: the adapter or its loss is no number any more; the run folder is complete.
        """
        result = drive(script, carrier)
        summary = end_run(self.folder, self.assembly, self.ledger, result, entropy=self.entropy)
        return conclude(self.folder, summary, self.observers)

    def training(
        self,
        before_round: Callable[[int, Sequence[str]], None] = lambda _round, _names: None,
        snapshot: Callable[[], Arrays] = dict,
    ) -> FederatedTraining:
        """Return the training that the configuration wants.

        Args:
            before_round: see `FederatedTraining`.
            snapshot: see `FederatedTraining`.
        """
        config = self.assembly.config
        return FederatedTraining(
            plan=self.assembly.plan,
            run_id=self.run_id,
            roster=self.roster,
            ledger=self.ledger,
            sign=self.sign,
            update=ServerUpdate(
                kind=config.federation.server_optimizer,
                learning_rate=config.federation.learning_rate,
                momentum=config.federation.momentum,
            ),
            measure=self.assembly.measure,
            measure_every=config.evaluation.every,
            seed=config.run.seed,
            save=self.save,
            observer=self.tell,
            clock=time.monotonic,
            issuer=StreamIssuer(self.entropy) if self.assembly.plan.secret_cohorts else None,
            before_round=before_round,
            snapshot=snapshot,
        )

    def save(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint on the disk, with the ledger's head: the two are resumed together."""
        checkpoint = replace(checkpoint, ledger_head=self.ledger.head)
        save_checkpoint(self.folder / CHECKPOINT_FOLDER, checkpoint)

    def tell(self, event: EngineEvent) -> None:
        """Announce an event to everybody who listens."""
        for observer in self.observers:
            observer(event)

    def _first_row(self, checkpoint: Checkpoint) -> MetricsRow:
        begin = time.monotonic()
        measured = self.assembly.measure(checkpoint.state.weights.astype(np.float32))
        return start_row(self.assembly.plan.mode, measured, time.monotonic() - begin)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes away from a run folder; however this one ends, the way is free again.

    Two that go on with one run would each take the other's last line for one that a crash tore.

    Raises:
        ConfigError: another process is at work there; nothing was read or written.
    """
    with sole_process(folder / _LOCK_FILE) as alone:
        if not alone:
            raise ConfigError(
                (f"another process is at work on the run in {folder}",),
                advice="Wait until it has ended, or end it; then resume.",
            )
        yield


def conclude(folder: Path, summary: Mapping[str, object], observers: Sequence[Observer]) -> Path:
    """Announce the end of a run whose ledger is closed, and tidy up; the same after a crash.

    Raises:
        RunAborted, RunDiverged: that is how the run ended; the run folder is complete.
    """
    for observer in observers:
        observer(RunFinished(summary))
    leave_tidy(folder)
    error = bad_end(str(summary["status"]), str(summary["reason"]))
    if error is not None:
        raise error
    return folder


def ledger_header(
    assembly: Assembly, run_id: bytes, folder: Path, keys: Mapping[str, JSON]
) -> LedgerHeader:
    """Return what binds a run's ledger to its plan, its config and the parties' keys.

    Args:
        assembly: the plan's.
        run_id: 16 bytes that name the run.
        folder: the run folder; its config is written.
        keys: see `Enrolment.public_facts`.
    """
    facts: dict[str, JSON] = {"secure_aggregation": assembly.plan.secure_aggregation}
    return LedgerHeader(
        run_id=run_id.hex(),
        plan_hash=assembly.plan.plan_hash,
        config_hash=_config_hash(folder),
        unit=assembly.plan.schedule.unit,
        adjacency=Adjacency.ZERO_OUT,
        budget=assembly.plan.budget,
        schedule=assembly.plan.schedule,
        clients=len(assembly.plan.facts.client_names),
        extra=facts | dict(keys),
    )


def require_same_config(folder: Path, ledger: Ledger) -> None:
    """Refuse to go on under another configuration than the ledger was started with.

    Raises:
        ResumeMismatch: the run folder's config was changed.
    """
    found = _config_hash(folder)
    if ledger.header.config_hash != found:
        raise ResumeMismatch("config.yaml", expected=ledger.header.config_hash, found=found)


def _require_whole_ledger(folder: Path, ledger: Ledger, checkpoint: Checkpoint) -> None:
    """Refuse a ledger that was cut, or put back from an older copy: what it lost was spent.

    Raises:
        ResumeMismatch: rounds of the checkpoint are not booked, or the line that was the last one
            when it was saved is not there.
    """
    head, booked = checkpoint.ledger_head, ledger.last_round or 0
    known = {line.digest for line in read_ledger(folder / LEDGER_FILE).lines}
    # Without a head the checkpoint is older than the ledger, and none of its rounds can be lost.
    if checkpoint.round <= booked and (head is None or head in known):
        return
    raise ResumeMismatch(
        "the ledger",
        expected=f"the line {head} in it, written before the checkpoint of round "
        f"{checkpoint.round}",
        found=f"a ledger without that line, whose last round is {booked}",
        advice="Put the whole ledger.jsonl back: the rounds it lacks were released and count. "
        "Without it this run cannot go on.",
    )


def _config_hash(folder: Path) -> str:
    return file_sha256(folder / CONFIG_FILE)
