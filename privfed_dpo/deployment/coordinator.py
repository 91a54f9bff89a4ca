"""`privfed-dpo server`: the long-lived process that holds script, ledger, checkpoint, run folder.

The life of a run as in `lifecycle`, but for two things: the coordinator has no client's pairs and
no client's key, and its carrier leads to other machines.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from accounting import Ledger
from privfed_dpo.assembly import Assembly, assemble, plan_only
from privfed_dpo.config import Config, dump_config, load_config
from privfed_dpo.coordination import (
    Coordination,
    alone_in,
    conclude,
    ledger_header,
    require_same_config,
)
from privfed_dpo.data.preferences import load_preferences
from privfed_dpo.deployment.identity import enrol_identity, load_identity
from privfed_dpo.deployment.joining import (
    DOCUMENT_VERSION,
    RUN_ID_BYTES,
    RunDocument,
    public_settings,
)
from privfed_dpo.deployment.journal import LOG_FILE, Journal, journal_of_rounds
from privfed_dpo.deployment.live_report import live_report
from privfed_dpo.deployment.message_sizes import require_deliverable
from privfed_dpo.deployment.reception import JOIN, Reception
from privfed_dpo.deployment.roster import Roster, load_roster
from privfed_dpo.durable import append_line, cut_torn_line
from privfed_dpo.ending import complete_ending
from privfed_dpo.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from privfed_dpo.engine.events import Observer
from privfed_dpo.engine.messages import START, encode
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.errors import ConfigError, ResumeMismatch
from privfed_dpo.inputs import Inputs
from privfed_dpo.mechanism.keystream import Entropy
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
from privfed_dpo.wire.frames import LocalSocketError, listen
from privfed_dpo.wire.relay_carrier import Delivery, RelayCarrier
from secure_agg import IdentityKey, Phase

TRAFFIC_FILE = "traffic.jsonl"
"""One line per message in the run folder: round, step, client, bytes, seconds, why it was lost."""

_TICKET_BYTES = 6
_FAREWELL_SECONDS = 5.0


def plan_deployed(config: Config) -> RunPlan:
    """Return the plan of a deployment, from the roster's public facts.

    Raises:
        ConfigError, ModelError, PlanRefused: why there is none.
    """
    plan = plan_only(config, _inputs(config, _roster(config), held_out=False))
    require_deliverable(plan, config.deployment)
    return plan


def enrol_coordinator(config: Config, entropy: Entropy = secrets.token_bytes) -> str:
    """Make the coordinator's key if it has none; return its public key, hex."""
    return enrol_identity(Path(config.deployment.identity), entropy).public.hex()


def serve(
    config: Config,
    *,
    journal: Journal,
    folder: Path | None = None,
    observers: Sequence[Observer] = (),
    entropy: Entropy = secrets.token_bytes,
) -> Path:
    """Coordinate a run from the beginning; see `lifecycle.train`.

    Raises:
        PrivFedError: see its subclasses. A ledger that exists is complete whatever happens.
    """
    require_watchers(config)
    folder = new_run_folder(config) if folder is None else folder
    parties = _Parties.load(config)
    assembly = assemble(config, inputs=_inputs(config, parties.roster))
    require_deliverable(assembly.plan, config.deployment)
    with alone_in(folder):
        run_id = entropy(RUN_ID_BYTES)
        write_text_atomic(folder / CONFIG_FILE, dump_config(config))
        write_json_atomic(folder / ENVIRONMENT_FILE, environment_facts())
        checkpoint = Checkpoint(
            round=0,
            state=ServerState.start(assembly.adapter.read()),
            rows=(),
            plan_hash=assembly.plan.plan_hash,
            data_fingerprint=assembly.data_fingerprint,
            seconds=0.0,
        )
        save_checkpoint(folder / CHECKPOINT_FOLDER, checkpoint)
        header = ledger_header(assembly, run_id, folder, parties.roster.public_facts())
        ledger = Ledger.create(folder / LEDGER_FILE, header, signer=parties.identity.sign)
        told = _told(folder, config, journal, observers)
        run = parties.coordination(assembly, folder, ledger, told, entropy)
        return _play(run, parties, run.begin(checkpoint), journal)


def resume_deployed(
    folder: Path,
    *,
    journal: Journal,
    observers: Sequence[Observer] = (),
    entropy: Entropy = secrets.token_bytes,
) -> Path:
    """Go on with an interrupted run, from its last whole round; see `lifecycle.resume`.

    Raises:
        ResumeMismatch: roster, key, data, model or config are not those of the run.
    """
    with alone_in(folder):
        return _resume(folder, journal, observers, entropy)


def _resume(
    folder: Path, journal: Journal, observers: Sequence[Observer], entropy: Entropy
) -> Path:
    config = load_config(folder / CONFIG_FILE)
    parties = _Parties.load(config)
    ledger = Ledger.open(folder / LEDGER_FILE, signer=parties.identity.sign)
    for name in (LOG_FILE, TRAFFIC_FILE):
        cut_torn_line(folder / name)
    told = _told(folder, config, journal, observers)
    if ledger.status is not None:
        summary = complete_ending(folder)
        if summary is not None:
            _send_relay_home(config)
            return conclude(folder, summary, told)
        raise ConfigError((f"the run in {folder} has ended with status {ledger.status}",))
    for name, value in parties.roster.public_facts().items():
        if ledger.header.extra.get(name) != value:
            raise ResumeMismatch("the roster", expected="that of the ledger", found=f"other {name}")
    require_same_config(folder, ledger)
    assembly = assemble(config, inputs=_inputs(config, parties.roster))
    require_deliverable(assembly.plan, config.deployment)
    checkpoint = load_checkpoint(
        folder / CHECKPOINT_FOLDER,
        plan_hash=assembly.plan.plan_hash,
        data_fingerprint=assembly.data_fingerprint,
    )
    run = parties.coordination(assembly, folder, ledger, told, entropy)
    return _play(run, parties, run.recover(checkpoint), journal)


def _told(
    folder: Path, config: Config, journal: Journal, observers: Sequence[Observer]
) -> Sequence[Observer]:
    """Everybody who listens, the recorder first: the report reads what it wrote."""
    kept = (live_report(folder, time.monotonic), journal_of_rounds(journal))
    return (*keepers(folder, config), *kept, *observers)


@dataclass(frozen=True, slots=True)
class _Parties:
    """The roster, and the coordinator's own key in it."""

    roster: Roster
    identity: IdentityKey

    @classmethod
    def load(cls, config: Config) -> _Parties:
        roster = _roster(config)
        identity = load_identity(Path(config.deployment.identity))
        if identity.public != roster.coordinator:
            raise ConfigError(
                ("the roster names another coordinator's key",),
                advice="privfed-dpo enrol shows the key that belongs there.",
            )
        return cls(roster, identity)

    def coordination(
        self,
        assembly: Assembly,
        folder: Path,
        ledger: Ledger,
        told: Sequence[Observer],
        entropy: Entropy,
    ) -> Coordination:
        """The coordinator's part of a run between these parties."""
        keys, sign = self.roster.by_number, self.identity.sign
        return Coordination(assembly, folder, ledger, keys, sign, told, entropy)


def _play(run: Coordination, parties: _Parties, checkpoint: Checkpoint, journal: Journal) -> Path:
    with _carrier(run, journal) as carrier:
        wanted = run.assembly.config.deployment
        reception = Reception(
            carrier=carrier,
            roster=parties.roster,
            document=_document(run),
            identity=parties.identity,
            threshold=run.assembly.plan.threshold,
            join_seconds=wanted.join_seconds,
            patience_seconds=wanted.patience_seconds,
            entropy=run.entropy,
            journal=journal,
        )
        try:
            return run.play(run.training(reception.await_cohort).script(checkpoint), carrier)
        finally:
            if run.ledger.status is not None:
                carrier.finish()


@contextlib.contextmanager
def _carrier(run: Coordination, journal: Journal) -> Iterator[RelayCarrier]:
    """Listen for a relay as long as the run goes on."""
    wanted = run.assembly.config.deployment
    path = Path(wanted.socket)
    try:
        listener = listen(path)
    except LocalSocketError as error:
        raise ConfigError((str(error),), advice="Set deployment.socket.") from error
    trains = Phase.MASKED_INPUT.value if run.assembly.plan.secure_aggregation else START

    def deadline_seconds(step: str) -> float:
        return wanted.training_seconds if step in {trains, JOIN} else wanted.phase_seconds

    def note(delivery: Delivery) -> None:
        line = json.dumps(asdict(delivery)) + "\n"
        append_line(run.folder / TRAFFIC_FILE, line, sync=False)
        if delivery.lost:
            facts = {name: getattr(delivery, name) for name in ("round", "step", "client")}
            journal("lost", **facts, node=delivery.address, reason=delivery.lost)

    carrier = RelayCarrier(
        listener,
        deadline_seconds=deadline_seconds,
        max_reply_bytes=wanted.max_reply_bytes,
        note=note,
        first_ticket=int.from_bytes(run.entropy(_TICKET_BYTES), "big"),
    )
    hashed = run.assembly.plan.plan_hash
    try:
        journal("listening", socket=str(path), run=run.run_id.hex(), plan=hashed)
        yield carrier
    finally:
        carrier.close()
        listener.close()
        path.unlink(missing_ok=True)


def _send_relay_home(config: Config) -> None:
    """Tell a relay that still waits for a coordinator that died after the run's last line."""
    path = Path(config.deployment.socket)
    with contextlib.suppress(LocalSocketError), contextlib.closing(listen(path)) as listener:
        carrier = RelayCarrier(listener, deadline_seconds=lambda _step: 0.0, max_reply_bytes=0)
        carrier.wait(_FAREWELL_SECONDS)
        carrier.finish()
        carrier.close()
        path.unlink(missing_ok=True)


def _document(run: Coordination) -> bytes:
    plan, config = run.assembly.plan, run.assembly.config
    return encode(
        RunDocument(
            version=DOCUMENT_VERSION,
            run_id=run.run_id,
            config=public_settings(config),
            roster=_roster(config).digest,
            model_fingerprint=plan.facts.model_fingerprint,
            plan_hash=plan.plan_hash,
        )
    )


def _roster(config: Config) -> Roster:
    if config.deployment.roster is None:
        raise ConfigError(
            ("deployment.roster is not set, so there is nobody to serve",),
            advice="Simulate with privfed-dpo train, or enrol clients: docs/deploy.md.",
        )
    return load_roster(Path(config.deployment.roster))


def _inputs(config: Config, roster: Roster, *, held_out: bool = True) -> Inputs:
    """What the coordinator has of the data: everybody's number of pairs, and the held-out pairs."""
    data = config.data
    public = held_out and data.eval is not None
    return Inputs(
        partition=roster.partition({}),
        held_out=load_preferences(
            str(data.eval),
            split=data.eval_split,
            columns=data.columns.model_dump(),
            labels_needed=False,
        )
        if public
        else (),
        task=None,
        enrolled_pairs=tuple(roster.pairs.values()),
    )


def is_deployed(folder: Path) -> bool:
    """Whether a run folder is a deployment's."""
    return load_config(folder / CONFIG_FILE).deployment.roster is not None
