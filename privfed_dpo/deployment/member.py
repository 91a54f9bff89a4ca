"""A client of a deployment: decides, computes, and keeps its own books.

Whatever arrives was written by others. Before anything is computed the client makes the plan itself
from the run's description, its own roster and its own policy; before anything leaves, its own
ledger holds what that costs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from privfed_dpo.assembly import Assembly, assemble, plan_only
from privfed_dpo.config import Config, GossipConfig, RunConfig
from privfed_dpo.config.client_policy import ClientPolicy
from privfed_dpo.data.copies import require_stated_copies
from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.partition import ClientShard
from privfed_dpo.deployment.consent import objections
from privfed_dpo.deployment.joining import (
    Offer,
    RunDocument,
    is_offer,
    offered_by,
    read_document,
    sign_joined,
)
from privfed_dpo.deployment.journal import Journal
from privfed_dpo.deployment.own_ledgers import OwnLedgers
from privfed_dpo.deployment.roster import Roster
from privfed_dpo.engine.client import ClientRefused, FederatedClient
from privfed_dpo.engine.contribution import Contributor
from privfed_dpo.engine.control_variates import ControlVariate
from privfed_dpo.engine.invitations import invitation_message
from privfed_dpo.engine.messages import (
    START,
    Envelope,
    RoundStart,
    decode,
    decode_envelope,
    encode,
)
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.enrolment import signed_by
from privfed_dpo.errors import ConfigError
from privfed_dpo.inputs import Inputs
from privfed_dpo.mechanism.keystream import Entropy, StreamIssuer
from secure_agg import IdentityKey, Phase

_ABANDONED_SECONDS = 600.0
"""A round is taken to be over if nothing more came of it for the default of the longest phase."""


@dataclass(frozen=True, slots=True)
class _Joined:
    """The run that is open: one at a time, since each holds a model."""

    run_id: bytes
    plan: RunPlan
    client: FederatedClient
    control: ControlVariate | None


class Member:
    """One client, whatever carries its messages.

    Args:
        policy: its owner's rules.
        roster: as agreed on at enrolment; its own entry must match key and data.
        identity: its signing key.
        pairs: its data.
        entropy: source of noise, sampling and protocol keys.
        journal: told what it does.
        clock: seconds, monotonic.

    Raises:
        ConfigError: the roster does not know this name, key or number of pairs.
    """

    def __init__(
        self,
        policy: ClientPolicy,
        *,
        roster: Roster,
        identity: IdentityKey,
        pairs: tuple[PreferencePair, ...],
        entropy: Entropy,
        journal: Journal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _require_enrolled(policy.name, roster, identity, len(pairs))
        self._policy = policy
        self._roster = roster
        self._identity = identity
        self._pairs = pairs
        self._entropy = entropy
        self._journal = journal
        self._clock = clock
        self._joined: _Joined | None = None
        self._answered = 0.0
        self._books = OwnLedgers(
            Path(policy.state) / "runs",
            name=policy.name,
            identity=identity,
            limits=policy.limits,
        )
        self._data = _digest(pairs)
        others = self._books.under_other_data(self._data)
        if others:
            journal("other data", runs=others, note="joined with other pairs; rounds are refused")

    def handle(self, data: bytes) -> bytes:
        """Answer one message of the coordinator.

        Raises:
            MalformedEnvelope: no message of this version.
            ClientRefused: the policy, the roster, the ledger or the protocol forbid it.
            ResumeMismatch: the run was joined with other pairs than are here now.
            BooksUnwritable: what the answer costs cannot be written down; start the client again.
            PrivFedError, SecAggError, AccountingError: see `FederatedClient.handle`.
        """
        if is_offer(data):
            return self._join(decode(data, Offer))
        envelope = decode_envelope(data)
        joined = self._run(envelope)
        if envelope.step == START:
            return self._begin_round(joined, envelope, data)
        reply = joined.client.handle(data)
        self._answered = self._clock()
        if envelope.step == Phase.MASKED_INPUT.value:
            self._keep_control(joined)
        self._journal("answered", round=envelope.round, step=envelope.step, bytes=len(reply))
        return reply

    def _begin_round(self, joined: _Joined, envelope: Envelope, data: bytes) -> bytes:
        """Take part in a round: refused if it costs too much, booked before the reply leaves."""
        cohort = decode(envelope.payload, RoundStart).cohort
        names = self._roster.names
        if not all(0 <= number < len(names) for number in cohort):
            raise ClientRefused("the cohort names clients that are not on the roster")
        invited = [names[number] for number in cohort]
        self._books.require_room(joined.run_id, envelope.round, invited)
        reply = joined.client.handle(data)
        self._answered = self._clock()
        spent = self._books.book(joined.run_id, envelope.round, invited)
        if not joined.plan.secure_aggregation:
            self._keep_control(joined)
        self._journal(
            "round booked",
            round=envelope.round,
            epsilon_over_all_runs=round(spent.epsilon, 6),
            epsilon_left=round(self._policy.limits.max_epsilon - spent.epsilon, 6),
        )
        return reply

    def _keep_control(self, joined: _Joined) -> None:
        """What the vector that is about to leave changes here is on the disk before it leaves."""
        if joined.control is not None:
            self._books.keep_control(joined.run_id, joined.control)

    def _join(self, offer: Offer) -> bytes:
        if not offered_by(offer, self._roster.coordinator):
            raise ClientRefused("the offer is not signed by the enrolled coordinator")
        document = read_document(offer.document)
        if self._joined is None or self._joined.run_id != document.run_id:
            self._require_idle()
            self._joined = self._open(document, offer.document)
        elif self._books.document(document.run_id) != offer.document:
            raise ClientRefused("this run was joined before, under another description")
        return encode(sign_joined(offer, self._policy.name, self._identity))

    def _run(self, envelope: Envelope) -> _Joined:
        """The run a message belongs to.

        One that was joined before is opened again, in the place of the one that is open, only for a
        new round that the enrolled coordinator begins: no other message has a use there.
        """
        run_id = envelope.run_id
        if self._joined is not None and self._joined.run_id == run_id:
            return self._joined
        kept = self._books.document(run_id)
        if kept is None:
            raise ClientRefused("the message belongs to a run that was not joined")
        if envelope.step != START or envelope.round <= self._books.last_round(run_id):
            raise ClientRefused(f"round {envelope.round} is not open here")
        start = decode(envelope.payload, RoundStart)
        message = invitation_message(run_id, envelope.round, start)
        if not signed_by(self._roster.coordinator, message, start.signature):
            raise ClientRefused("the invitation is not signed by the enrolled coordinator")
        self._require_idle()
        self._joined = self._open(read_document(kept), kept)
        return self._joined

    def _require_idle(self) -> None:
        """Refuse another run while a round of this one is booked and can still be finished."""
        if (
            self._joined is not None
            and self._joined.client.under_way
            and self._clock() - self._answered < _ABANDONED_SECONDS
        ):
            raise ClientRefused("a round of another run is under way here; ask again after it")

    def _open(self, document: RunDocument, encoded: bytes) -> _Joined:
        """Check a run against roster and policy, then load the model and open the books."""
        if document.roster != self._roster.digest:
            raise ClientRefused("the run has another roster than the one agreed on")
        config = self._localised(document.settings())
        inputs = self._inputs(config)
        plan = _bound_to(document.model_fingerprint, plan_only(config, inputs))
        if plan.plan_hash != document.plan_hash:
            raise ClientRefused("from the same description this client makes another plan")
        problems = objections(plan, self._policy.limits)
        if problems:
            raise ClientRefused("; ".join(problems))
        self._books.begin(document.run_id, plan, encoded, self._data)
        assembly = assemble(config, inputs=inputs)
        if assembly.plan.plan_hash != document.plan_hash:
            raise ClientRefused("the base model on this machine is not the one of the run")
        self._journal(
            "joined",
            run=document.run_id.hex(),
            plan=document.plan_hash,
            last_round=self._books.last_round(document.run_id),
        )
        control = None
        if assembly.plan.drift.scaffold:
            control = self._books.control(document.run_id, assembly.plan.facts.dimension)
        client = self._client(document.run_id, assembly, control)
        return _Joined(document.run_id, assembly.plan, client, control)

    def _client(
        self, run_id: bytes, assembly: Assembly, control: ControlVariate | None
    ) -> FederatedClient:
        number = self._roster.names.index(self._policy.name)
        return FederatedClient(
            contributor=Contributor(
                plan=assembly.plan,
                client=number,
                shard=assembly.shards[number],
                source=assembly.source,
                issuer=StreamIssuer(self._entropy),
            ),
            run_id=run_id,
            identity=self._identity,
            roster=self._roster.by_number,
            coordinator=self._roster.coordinator,
            entropy=self._entropy,
            participations=self._books.participations(run_id),
            last_round=self._books.last_round(run_id),
            control=control,
        )

    def _localised(self, config: Config) -> Config:
        """The run's settings, with this machine's own paths and devices."""
        policy = self._policy
        model = {"device": policy.device}
        if policy.model is not None:
            model["base"] = policy.model
        run = {"seed": config.run.seed, "threads": policy.threads, "cache_dir": policy.cache_dir}
        return config.model_copy(
            update={
                "run": RunConfig().model_copy(update=run),
                "model": config.model.model_copy(update=model),
                "gossip": GossipConfig(),
            }
        )

    def _inputs(self, config: Config) -> Inputs:
        shard = ClientShard(self._policy.name, self._pairs)
        privacy = config.privacy
        if privacy.mode != "none":
            require_stated_copies([shard], mode=privacy.mode, record_copies=privacy.record_copies)
        return Inputs(
            partition=self._roster.partition({self._policy.name: shard}),
            held_out=(),
            task=None,
            enrolled_pairs=tuple(self._roster.pairs.values()),
        )


def _digest(pairs: Iterable[PreferencePair]) -> str:
    """SHA-256 over what is trained on, hex; in the order of the pairs."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(repr((pair.prompt, pair.chosen, pair.rejected)).encode())
    return digest.hexdigest()


def _bound_to(fingerprint: str, plan: RunPlan) -> RunPlan:
    return replace(plan, facts=replace(plan.facts, model_fingerprint=fingerprint))


def _require_enrolled(name: str, roster: Roster, identity: IdentityKey, pairs: int) -> None:
    if roster.keys.get(name) != identity.public:
        raise ConfigError(
            (f"the roster has no client {name!r} with this client's key",),
            advice="privfed-dpo enrol shows what belongs in the roster.",
        )
    if roster.pairs[name] != pairs:
        raise ConfigError(
            (f"the roster says that {name!r} holds {roster.pairs[name]} pairs; there are {pairs}",),
            advice="Have the roster corrected: sizes are public, and the plan depends on them.",
        )
