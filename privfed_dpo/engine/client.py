"""A client of a federated run: bytes in, bytes out.

It holds its own pairs, keys and randomness, checks what it is asked against its own copy of the
plan and the roster fixed at enrolment, and answers every round once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from accounting import receipt_message
from privfed_dpo.engine.contribution import Contributor
from privfed_dpo.engine.control_variates import ControlVariate, ControlVariateLost, Correction
from privfed_dpo.engine.invitations import holds_its_adapter, invitation_message, round_id
from privfed_dpo.engine.messages import (
    COORDINATOR,
    PLAIN_INPUT,
    START,
    WIRE_VERSION,
    Envelope,
    MalformedEnvelope,
    RoundStart,
    SignedReceipt,
    decode,
    decode_envelope,
    encode,
)
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.enrolment import signed_by
from privfed_dpo.errors import PrivFedError
from privfed_dpo.mechanism.keystream import Entropy
from secure_agg import ClientSession, IdentityKey, Phase


class ClientRefused(PrivFedError):
    """A client will not do what it was asked; nothing was computed and nothing left it."""

    exit_code = 4


class FederatedClient:
    """One client's side of all rounds.

    Args:
        contributor: data, model and randomness of this client, bound to its plan.
        run_id: 16 bytes that name the run.
        identity: the client's long-lived signing key.
        roster: identity keys of all enrolled clients, by number, fixed before the run.
        coordinator: identity key of the coordinator, fixed before the run.
        entropy: source of protocol keys; `os.urandom` outside tests.
        participations: rounds of this run the client took part in before this process.
        last_round: the latest of them; it and all before it are refused.
        control: the client's control variate, for SCAFFOLD; this object changes it. None begins at
            zero.
    """

    __slots__ = (
        "_contributor",
        "_control",
        "_coordinator",
        "_entropy",
        "_identity",
        "_last_round",
        "_participations",
        "_roster",
        "_run_id",
        "_session",
        "_start",
    )

    def __init__(
        self,
        *,
        contributor: Contributor,
        run_id: bytes,
        identity: IdentityKey,
        roster: Mapping[int, bytes],
        coordinator: bytes,
        entropy: Entropy,
        participations: int = 0,
        last_round: int = 0,
        control: ControlVariate | None = None,
    ) -> None:
        self._contributor = contributor
        self._control = control
        self._run_id = run_id
        self._identity = identity
        self._roster = roster
        self._coordinator = coordinator
        self._entropy = entropy
        self._last_round = last_round
        self._participations = participations
        self._session: ClientSession | None = None
        self._start: RoundStart | None = None

    def __repr__(self) -> str:
        return f"FederatedClient({self.number}, round={self._last_round})"

    @property
    def number(self) -> int:
        """This client's number on the roster."""
        return self._contributor.client

    @property
    def under_way(self) -> bool:
        """Whether a round has begun here that is neither done nor failed."""
        return self._session is not None and self._session.awaiting is not None

    @property
    def _plan(self) -> RunPlan:
        return self._contributor.plan

    def handle(self, data: bytes) -> bytes:
        """Answer one message of the coordinator.

        Args:
            data: an encoded Envelope.

        Returns:
            The encoded reply.

        Raises:
            MalformedEnvelope: not a canonical message of this version.
            ClientRefused: another run or plan, an old round, a roster or step that does not fit.
            SecAggError: the protocol inside was violated; the round is over for this client.
        """
        envelope = decode_envelope(data)
        if envelope.run_id != self._run_id or envelope.sender != COORDINATOR:
            raise ClientRefused("the message belongs to another run")
        if envelope.step == START:
            step, payload = self._begin(envelope)
            return self._reply(envelope, step, payload)
        if envelope.round != self._last_round or self._session is None:
            raise ClientRefused(
                f"round {envelope.round} is not open here; the last one was {self._last_round}"
            )
        awaiting = self._session.awaiting
        if awaiting is not None and envelope.step != awaiting.value:
            raise ClientRefused(f"{envelope.step} was asked where {awaiting.value} is due")
        payload = self._continue(self._session, envelope)
        return self._reply(envelope, envelope.step, payload, self._receipt(self._session))

    def _begin(self, envelope: Envelope) -> tuple[str, bytes]:
        """Check the invitation, then start the protocol or, without it, answer at once."""
        start = decode(envelope.payload, RoundStart)
        self._check(envelope.round, start)
        self._last_round, self._start = envelope.round, start
        self._participations += 1
        if not self._plan.secure_aggregation:
            vector = self._vector()
            return PLAIN_INPUT, vector.tobytes()
        params = self._plan.protocol_params(
            round_id(self._run_id, envelope.round, start),
            {number: self._roster[number] for number in start.cohort},
        )
        self._session = ClientSession(params, self.number, self._identity, self._entropy)
        return Phase.ADVERTISE_KEYS.value, self._session.advertise()

    def _check(self, round_number: int, start: RoundStart) -> None:
        if not 1 <= round_number <= self._plan.rounds:
            raise ClientRefused(f"the plan has no round {round_number}")
        message = invitation_message(self._run_id, round_number, start)
        if not signed_by(self._coordinator, message, start.signature):
            raise ClientRefused("the invitation is not signed by the enrolled coordinator")
        if round_number <= self._last_round:
            raise ClientRefused(
                f"round {round_number} was asked after round {self._last_round}: a client answers "
                "each round once"
            )
        if self._participations >= self._plan.participations:
            raise ClientRefused(
                f"this client took part in {self._participations} rounds, and the plan allows no "
                "more"
            )
        if start.plan_hash != bytes.fromhex(self._plan.plan_hash):
            raise ClientRefused("the coordinator follows another plan than this client")
        cohort = start.cohort
        if (
            not self._plan.allows_cohort(len(cohort))
            or list(cohort) != sorted(set(cohort))
            or self.number not in cohort
            or not set(cohort) <= self._roster.keys()
        ):
            raise ClientRefused("the cohort is not one that the plan and the roster allow")
        self._check_contents(round_number, start)

    def _check_contents(self, round_number: int, start: RoundStart) -> None:
        if len(start.weights) != 4 * self._plan.facts.dimension:
            raise MalformedEnvelope("the adapter has the wrong length")
        if not holds_its_adapter(self._plan, round_number, self.number, start):
            raise ClientRefused("the adapter is not the one that all clients were told of")
        if not np.isfinite(np.frombuffer(start.weights, dtype="<f4")).all():
            raise ClientRefused("the adapter is not finite, so nothing can be learned from it")
        control = start.control
        if (control is not None) != self._plan.drift.scaffold:
            raise MalformedEnvelope("the plan and the invitation disagree about control variates")
        if control is not None and (
            len(control.values) != 4 * self._plan.facts.dimension
            or len(control.counted) != len(start.cohort)
        ):
            raise MalformedEnvelope("the control variate does not fit the adapter and the cohort")

    def _continue(self, session: ClientSession, envelope: Envelope) -> bytes:
        vector = self._vector() if session.awaiting is Phase.MASKED_INPUT else None
        return session.handle(envelope.payload, vector=vector)

    def _receipt(self, session: ClientSession) -> SignedReceipt | None:
        """Vouch for the round, once its survivors are agreed."""
        if session.survivors is None:
            return None
        names = self._plan.facts.client_names
        message = receipt_message(
            run_id=self._run_id.hex(),
            plan_hash=self._plan.plan_hash,
            round_=self._last_round,
            survivors=[names[number] for number in session.survivors],
            participation=self._participations,
        )
        return SignedReceipt(self._participations, self._identity.sign(message))

    def _vector(self) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
        # Let go of, or each of many simulated clients would hold an adapter until its next round.
        start, self._start = self._start, None
        if start is None:
            raise ClientRefused("no round is open here")
        weights = np.frombuffer(start.weights, dtype="<f4").astype(np.float32)
        correction = self._correction(start)
        steps = self._contributor.contribute(self._last_round, weights, correction)
        grid = self._plan.grid()
        if self._control is not None:
            dimension = self._plan.facts.dimension
            change = grid.to_units(steps[dimension : 2 * dimension])
            self._control.sent(self._last_round, change)
        return grid.to_ring(steps)

    def _correction(self, start: RoundStart) -> Correction | None:
        """What corrects this round's local steps; settles first what the last sum did not show."""
        if start.control is None:
            return None
        if self._control is None:
            self._control = ControlVariate.start(self._plan.facts.dimension)
        try:
            self._control.settle(start.control.counted[start.cohort.index(self.number)])
        except ControlVariateLost as error:
            raise ClientRefused(
                f"{error}; keep a client's control variate from process to process"
            ) from error
        server = np.frombuffer(start.control.values, dtype="<f4").astype(np.float64)
        return Correction(server, self._control.value)

    def _reply(
        self, envelope: Envelope, step: str, payload: bytes, receipt: SignedReceipt | None = None
    ) -> bytes:
        return encode(
            Envelope(
                version=WIRE_VERSION,
                run_id=self._run_id,
                round=envelope.round,
                step=step,
                sender=self.number,
                payload=payload,
                receipt=receipt,
            )
        )
