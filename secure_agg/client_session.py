"""A client's session, a small mutable shell: bytes in, bytes out.

It holds the only reference to the client's state. No sockets, no clock. What follows what is read
from `phases.EXCHANGES`.
"""

from __future__ import annotations

from secure_agg import client
from secure_agg.client_states import (
    AwaitingRoster,
    AwaitingShares,
    AwaitingSignatures,
    AwaitingSurvivors,
    ClientState,
    Done,
    Member,
    Ready,
)
from secure_agg.codec import Frame
from secure_agg.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    SecAggError,
    SessionFailed,
    without_trace,
)
from secure_agg.inbound import open_request, parse
from secure_agg.keys import IdentityKey
from secure_agg.messages import Roster, ShareDelivery, Survivors, UnmaskRequest
from secure_agg.params import ProtocolParams
from secure_agg.phases import ClientStage, Exchange, client_exchange
from secure_agg.types import SERVER, ClientId, Entropy, Phase, RingVector


class ClientSession:
    """One client in one round.

    The caller ensures: one session per round_id and client, a secret `entropy`, and that the roster
    in `params` is the one enrolled, not one the server sent along.

    Guarantee: whatever the server sends, each peer's secrets are revealed at most once and only one
    of the two, after the check of docs/SPEC.md; after any violation the session is dead and holds
    no secret. The error it raises then does, in its traceback: let go of it.
    """

    def __init__(
        self,
        params: ProtocolParams,
        client_id: int,
        identity: IdentityKey,
        entropy: Entropy,
        *,
        threads: int = 1,
    ) -> None:
        """Start a session.

        Args:
            params: of this round; every party holds the same.
            client_id: this client; its roster entry must hold `identity.public`.
            identity: long-lived signing key.
            entropy: secret bytes on demand, `os.urandom` in production.
            threads: coordinate ranges masked at the same time.

        Raises:
            LocalProtocolError: the roster does not hold this client with this key.
        """
        mine = ClientId(client_id)
        if mine not in params.index or params.identity_of(mine) != identity.public:
            raise LocalProtocolError(f"client {client_id} is not enrolled with this identity key")
        self._params = params
        self._client_id = mine
        self._entropy = entropy
        self._threads = threads
        self._state: ClientState | SecAggError = Ready(Member(params, mine, identity))

    def __repr__(self) -> str:
        return f"ClientSession(client_id={self._client_id}, stage={self.stage})"

    @property
    def stage(self) -> ClientStage:
        """Where this client stands."""
        return ClientStage.FAILED if self.failure is not None else self._living().stage

    @property
    def awaiting(self) -> Phase | None:
        """The phase this client answers next; None when it is done or failed."""
        exchange = client_exchange(self.stage)
        return None if exchange is None else exchange.phase

    @property
    def failure(self) -> SecAggError | None:
        """What ended the session, if it failed."""
        return self._state if isinstance(self._state, SecAggError) else None

    @property
    def survivors(self) -> tuple[ClientId, ...] | None:
        """The agreed survivors, once enough signatures on them were seen; None before."""
        return self._state.survivors if isinstance(self._state, Done) else None

    def advertise(self) -> bytes:
        """Open the round; returns the AdvertiseKeys message.

        Raises:
            LocalProtocolError: called twice.
            SessionFailed: the session failed earlier.
        """
        state = self._living()
        if not isinstance(state, Ready):
            raise LocalProtocolError("keys are advertised once, at the start")
        self._state, reply = client.advertise_keys(state, self._entropy)
        return reply

    def handle(self, data: bytes, *, vector: RingVector | None = None) -> bytes:
        """Answer one message of the server.

        Args:
            data: the message.
            vector: this client's input, given exactly when `awaiting` is `Phase.MASKED_INPUT`;
                shape [vector_length], dtype uint16, uint32 or uint64 after `modulus_bits`.

        Returns:
            The reply to send.

        Raises:
            LocalProtocolError: nothing is awaited, or `vector` is missing, superfluous or of the
                wrong form; the session goes on.
            RemoteProtocolError: the server or a peer broke the protocol; the session is dead.
            SessionFailed: it was dead before.
        """
        state = self._living()
        exchange = client_exchange(state.stage)
        if exchange is None or exchange.request is None:
            raise LocalProtocolError(f"a client in stage {state.stage} awaits no message")
        if (vector is not None) is not (exchange.phase is Phase.MASKED_INPUT):
            raise LocalProtocolError(
                f"a vector is given with the message of {Phase.MASKED_INPUT}, and only then; "
                f"this is {exchange.phase}"
            )
        try:
            frame = open_request(data, self._params, exchange, self._client_id)
            self._state, reply = self._step(state, frame, exchange, vector)
        except RemoteProtocolError as error:
            self._state = without_trace(error)
            raise
        return reply

    def _living(self) -> ClientState:
        if isinstance(self._state, SecAggError):
            raise SessionFailed(self._state)
        return self._state

    def _step(
        self, state: ClientState, frame: Frame, exchange: Exchange, vector: RingVector | None
    ) -> tuple[ClientState, bytes]:
        match state:
            case AwaitingRoster():
                roster = parse(frame, Roster, exchange, SERVER)
                return client.share_keys(state, roster, self._entropy)
            case AwaitingShares() if vector is not None:
                delivery = parse(frame, ShareDelivery, exchange, SERVER)
                return client.mask_input(state, delivery, vector, self._threads)
            case AwaitingSurvivors():
                announced = parse(frame, Survivors, exchange, SERVER)
                return client.confirm_survivors(state, announced)
            case AwaitingSignatures():
                request = parse(frame, UnmaskRequest, exchange, SERVER)
                return client.reveal_shares(state, request, self._entropy)
            case _:
                raise LocalProtocolError(f"a client in stage {state.stage} awaits no message")
