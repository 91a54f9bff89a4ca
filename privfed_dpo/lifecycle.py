"""The life of a run: planned, trained, interrupted, resumed, finished.

Writes the run folder; every file is replaced as a whole or appended and synced, so that a crash at
any moment leaves a folder that `resume` and `verify` understand.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accounting import Ledger
from privfed_dpo.assembly import Assembly, assemble, plan_only
from privfed_dpo.audit.pair_canaries import COINS_FILE, PairCoins
from privfed_dpo.config import Config, dump_config, load_config
from privfed_dpo.coordination import (
    Coordination,
    alone_in,
    conclude,
    ledger_header,
    require_same_config,
)
from privfed_dpo.decentralised import Neighbourhood, starting_nodes
from privfed_dpo.ending import KEYS_FILE, complete_ending
from privfed_dpo.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from privfed_dpo.engine.control_variates import pack_controls, unpack_controls
from privfed_dpo.engine.events import Observer
from privfed_dpo.engine.lanes import LaneCoins, LaneRecord
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.training import TrainingScript
from privfed_dpo.enrolment import Enrolment
from privfed_dpo.errors import ConfigError, ResumeMismatch
from privfed_dpo.inputs import load_inputs
from privfed_dpo.label_secret import LABELS_FILE, LabelSecret
from privfed_dpo.mechanism.keystream import Entropy, StreamIssuer
from privfed_dpo.observe.environment import environment_facts
from privfed_dpo.observe.run_folder import (
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LEDGER_FILE,
    new_run_folder,
    write_json_atomic,
    write_text_atomic,
)
from privfed_dpo.observe.tensorboard import keepers, require_watchers
from privfed_dpo.server_update import ServerState
from privfed_dpo.wire.carrier import Carrier
from privfed_dpo.wire.loopback import Dropouts, LoopbackCarrier

BASE_FOLDER = "base"
"""The embedded task's own base model; a real base is named by the config and stays where it is."""


def plan(config: Config) -> RunPlan:
    """Return the plan of a configuration, before any compute and without loading weights.

    Raises:
        DataError, ModelError, PlanRefused: why there is none.
    """
    return plan_only(config, load_inputs(config))


def train(
    config: Config,
    *,
    folder: Path | None = None,
    observers: Sequence[Observer] = (),
    entropy: Entropy = secrets.token_bytes,
) -> Path:
    """Train from the beginning, in a new run folder.

    Args:
        config: what to do.
        folder: what `new_run_folder` returned; None calls it here.
        observers: told everything that happens, beside the run folder's recorder.
        entropy: source of keys, noise and secret sampling; the operating system's outside tests.

    Returns:
        The run folder.

    Raises:
        PrivFedError: see its subclasses. A ledger that exists is complete whatever happens.
    """
    require_watchers(config)
    folder = new_run_folder(config) if folder is None else folder
    coins = _toss_pair_coins(config, entropy)
    labels = LabelSecret.draw(entropy) if config.privacy.label_epsilon is not None else None
    parts = assemble(config, base_folder=folder / BASE_FOLDER, coins=coins, labels=labels)
    with contextlib.closing(parts) as assembly, alone_in(folder):
        run_id = entropy(16)
        if coins is not None:
            coins.save(folder / COINS_FILE)
        if labels is not None:
            labels.save(folder / CHECKPOINT_FOLDER / LABELS_FILE)
        write_text_atomic(folder / CONFIG_FILE, dump_config(config))
        write_json_atomic(folder / ENVIRONMENT_FILE, environment_facts())
        enrolment = Enrolment.draw(len(assembly.shards), entropy)
        enrolment.save(folder / CHECKPOINT_FOLDER / KEYS_FILE)
        start = ServerState.start(assembly.adapter.read())
        checkpoint = Checkpoint(
            round=0,
            state=start,
            rows=(),
            plan_hash=assembly.plan.plan_hash,
            data_fingerprint=assembly.data_fingerprint,
            seconds=0.0,
            lanes=_toss_coins(assembly.plan, entropy),
            nodes=starting_nodes(assembly.plan, assembly.adapter.read()),
        )
        save_checkpoint(folder / CHECKPOINT_FOLDER, checkpoint)
        keys = enrolment.public_facts(assembly.plan.facts.client_names)
        header = ledger_header(assembly, run_id, folder, keys)
        ledger = Ledger.create(folder / LEDGER_FILE, header, signer=enrolment.coordinator.sign)
        told = (*keepers(folder, config), *observers)
        sign = enrolment.coordinator.sign
        run = Coordination(assembly, folder, ledger, enrolment.roster, sign, told, entropy)
        return _Simulation(run, enrolment).play(run.begin(checkpoint))


def resume(
    folder: Path,
    *,
    observers: Sequence[Observer] = (),
    entropy: Entropy = secrets.token_bytes,
) -> Path:
    """Go on with an interrupted run, from its last whole round.

    A round that was booked but not finished stays booked and is not played again; keys and noise
    are drawn anew, so nothing random is ever used twice.

    Args:
        folder: the run folder.
        observers: see `train`.
        entropy: see `train`.

    Raises:
        ResumeMismatch: no run there, or data, model or config are not those of the run.
    """
    if not (folder / LEDGER_FILE).is_file():
        raise ResumeMismatch(
            "the run folder", expected=str(folder / LEDGER_FILE), found="no such file"
        )
    with alone_in(folder):
        return _resume(folder, observers, entropy)


def _resume(folder: Path, observers: Sequence[Observer], entropy: Entropy) -> Path:
    ledger = Ledger.open(folder / LEDGER_FILE)
    told = (*keepers(folder, load_config(folder / CONFIG_FILE)), *observers)
    if ledger.status is not None:
        summary = complete_ending(folder)
        if summary is not None:
            return conclude(folder, summary, told)
        raise ConfigError(
            (f"the run in {folder} has ended with status {ledger.status}",),
            advice="Start a new run; a finished run cannot go on.",
        )
    with contextlib.closing(reopen(folder)) as assembly:
        checkpoint = load_checkpoint(
            folder / CHECKPOINT_FOLDER,
            plan_hash=assembly.plan.plan_hash,
            data_fingerprint=assembly.data_fingerprint,
        )
        require_same_config(folder, ledger)
        enrolment = Enrolment.load(folder / CHECKPOINT_FOLDER / KEYS_FILE, len(assembly.shards))
        ledger = Ledger.open(folder / LEDGER_FILE, signer=enrolment.coordinator.sign)
        sign = enrolment.coordinator.sign
        run = Coordination(assembly, folder, ledger, enrolment.roster, sign, told, entropy)
        return _Simulation(run, enrolment).play(run.recover(checkpoint))


def reopen(folder: Path) -> Assembly:
    """Bring back data, model and the auditor's coins of a run.

    Args:
        folder: the run folder.

    Raises:
        ConfigError, DataError, ModelError, PlanRefused: what is missing or changed.
    """
    config = load_config(folder / CONFIG_FILE)
    coins = PairCoins.load(folder / COINS_FILE) if config.evaluation.audit_pairs else None
    labels = None
    if config.privacy.label_epsilon is not None:
        labels = LabelSecret.load(folder / CHECKPOINT_FOLDER / LABELS_FILE)
    return assemble(config, base_folder=folder / BASE_FOLDER, coins=coins, labels=labels)


@dataclass(frozen=True, slots=True)
class _Simulation:
    """All clients of a run in this process, around its coordination."""

    run: Coordination
    enrolment: Enrolment

    def play(self, checkpoint: Checkpoint) -> Path:
        """Train from a checkpoint on, then write what the run leaves behind."""
        return self.run.play(*self._scripted(checkpoint))

    def _scripted(self, checkpoint: Checkpoint) -> tuple[TrainingScript, Carrier]:
        """The training from a checkpoint on, and a carrier to everybody in it."""
        run, assembly = self.run, self.run.assembly
        gossip = assembly.plan.gossip
        if gossip is not None:
            nodes = Neighbourhood.gather(
                assembly,
                gossip,
                run.run_id,
                self.enrolment,
                run.entropy,
                checkpoint=checkpoint,
                last_round=run.ledger.last_round or 0,
            )
            script = nodes.script(checkpoint, ledger=run.ledger, save=run.save, observer=run.tell)
            return script, nodes.carrier()
        coins = checkpoint.lanes.coins if checkpoint.lanes else None
        controls = unpack_controls(checkpoint.drift, assembly.plan)
        clients = assembly.clients(
            run.run_id,
            self.enrolment,
            run.entropy,
            participations=run.ledger.participations,
            coins=coins,
            controls=controls,
        )
        rate = assembly.config.secure_agg.dropout_rate
        dropouts = Dropouts(rate, assembly.config.run.seed) if rate else None
        carrier = LoopbackCarrier({n: c.handle for n, c in clients.items()}, dropouts)
        training = run.training(snapshot=lambda: pack_controls(controls))
        return training.script(checkpoint), carrier


def _toss_pair_coins(config: Config, entropy: Entropy) -> PairCoins | None:
    """Decide what pair canaries do; the auditor's secret until the run is over."""
    wanted = config.evaluation
    if not wanted.audit_pairs:
        return None
    stream = StreamIssuer(entropy).issue("audit/pair-coins")
    return PairCoins.toss(wanted.audit_pairs_form, wanted.audit_pairs, stream)


def _toss_coins(plan: RunPlan, entropy: Entropy) -> LaneRecord | None:
    """Decide which audit canaries are in; the auditor's secret until the run is over."""
    if not plan.audit_lanes:
        return None
    stream = StreamIssuer(entropy).issue("audit/coins")
    return LaneRecord.start(LaneCoins.toss(plan.audit_lanes, len(plan.facts.client_names), stream))
