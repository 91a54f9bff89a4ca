"""The server's session, a small mutable shell: bytes in, bytes out.

It holds the only reference to the server's state and the replies of the open phase. No sockets, no
clock: whoever carries the bytes decides when a phase is over. What follows what is read from
`phases.EXCHANGES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secure_agg import server
from secure_agg.codec import Frame, encode_request
from secure_agg.errors import (
    DuplicateMessage,
    LocalProtocolError,
    RoundAborted,
    SecAggError,
    SessionFailed,
    UnexpectedMessage,
)
from secure_agg.inbound import open_reply, parse
from secure_agg.messages import Advertisement, ConsistencyCheck, ShareKeys, Unmask
from secure_agg.params import ProtocolParams
from secure_agg.phases import Exchange, ServerStage, server_exchange
from secure_agg.server_states import (
    CollectingInputs,
    CollectingKeys,
    CollectingReveals,
    CollectingShares,
    CollectingSignatures,
    Finished,
    ServerState,
)
from secure_agg.types import AggregateResult, ClientId, Phase


class ServerSession:
    """The aggregator in one round.

    A reply that raises changes nothing: the round goes on, and the client counts as dropped unless
    a valid reply of it arrives before the phase is closed.

    Guarantee: the result is exactly the sum of the survivors' vectors modulo 2**modulus_bits, or
    there is none. Every recovered secret is checked against what its owner published; what is not
    checked is the input itself (docs/LIMITS.md).
    """

    def __init__(self, params: ProtocolParams, *, threads: int = 1) -> None:
        """Start a session in `Phase.ADVERTISE_KEYS`.

        Args:
            params: of this round; every party holds the same.
            threads: coordinate ranges unmasked at the same time.
        """
        self._params = params
        self._threads = threads
        self._state: ServerState | SecAggError = CollectingKeys(params)
        self._admitted: dict[ClientId, Any] = {}
        self._dropped: dict[Phase, tuple[ClientId, ...]] = {}

    def __repr__(self) -> str:
        return f"ServerSession(stage={self.stage}, received={len(self._admitted)})"

    @property
    def stage(self) -> ServerStage:
        """Where the round stands."""
        return ServerStage.ABORTED if self.failure is not None else self._living().stage

    @property
    def failure(self) -> SecAggError | None:
        """What ended the round, if it was aborted."""
        return self._state if isinstance(self._state, SecAggError) else None

    @property
    def phase(self) -> Phase | None:
        """The open phase; None once the round is over."""
        exchange = server_exchange(self.stage)
        return None if exchange is None else exchange.phase

    @property
    def outstanding(self) -> tuple[ClientId, ...]:
        """Clients whose valid reply to the open phase is still missing, ascending."""
        awaited = () if self.failure is not None else self._living().awaited
        return tuple(client for client in awaited if client not in self._admitted)

    @property
    def dropped(self) -> Mapping[Phase, tuple[ClientId, ...]]:
        """Per closed phase, the clients lost in it, ascending."""
        return dict(self._dropped)

    @property
    def result(self) -> AggregateResult:
        """The sum, once `Phase.UNMASK` is closed.

        Raises:
            LocalProtocolError: the round is not over.
            SessionFailed: it was aborted.
        """
        state = self._living()
        if not isinstance(state, Finished):
            raise LocalProtocolError(f"no result before {Phase.UNMASK} is closed")
        return state.result

    def receive(self, client_id: int, data: bytes) -> None:
        """Take one reply to the open phase.

        Args:
            client_id: over whose channel it came.
            data: the message.

        Raises:
            RemoteProtocolError: the reply was refused; names the culprit and changes nothing.
            LocalProtocolError: the client is not enrolled, or the round is over.
            SessionFailed: the round was aborted.
        """
        state, exchange = self._open_phase()
        sender = ClientId(client_id)
        if sender not in self._params.index:
            raise LocalProtocolError(f"client {client_id} is not enrolled in this round")
        frame = open_reply(data, self._params, exchange, sender)
        if sender not in state.awaited:
            raise UnexpectedMessage(
                found=f"{exchange.reply.name} of a client that left",
                expected="silence",
                culprits=(sender,),
                phase=exchange.phase,
            )
        if sender in self._admitted:
            raise DuplicateMessage(
                "a second reply to the same request", culprits=(sender,), phase=exchange.phase
            )
        self._admitted[sender] = self._admit(state, sender, frame, exchange)

    def close_phase(self) -> Mapping[ClientId, bytes]:
        """End the open phase with the replies there are.

        Call it when `outstanding` is empty or the deadline has passed.

        Returns:
            The message for each client of the next phase; empty after `Phase.UNMASK`.

        Raises:
            RoundAborted: too few replies; the round is over and nothing was revealed.
            LocalProtocolError: the round is over.
            SessionFailed: the round was aborted before.
        """
        state, exchange = self._open_phase()
        dropped = {**self._dropped, exchange.phase: self.outstanding}
        try:
            next_state, bodies = self._close(state, dropped)
        except RoundAborted as error:
            self._dropped, self._state, self._admitted = dropped, error, {}
            raise
        self._dropped, self._state, self._admitted = dropped, next_state, {}
        following = server_exchange(next_state.stage)
        if following is None or following.request is None:
            return {}
        return {
            client: encode_request(self._params.digest, following.request, client, body)
            for client, body in bodies.items()
        }

    def _living(self) -> ServerState:
        if isinstance(self._state, SecAggError):
            raise SessionFailed(self._state)
        return self._state

    def _open_phase(self) -> tuple[ServerState, Exchange]:
        state = self._living()
        exchange = server_exchange(state.stage)
        if exchange is None:
            raise LocalProtocolError("the round is over")
        return state, exchange

    def _admit(
        self, state: ServerState, sender: ClientId, frame: Frame, exchange: Exchange
    ) -> object:
        match state:
            case CollectingKeys():
                keys = parse(frame, Advertisement, exchange, sender)
                return server.admit_keys(self._admitted, sender, keys, frame.signature)
            case CollectingShares():
                shares = parse(frame, ShareKeys, exchange, sender)
                return server.admit_shares(state, sender, shares)
            case CollectingInputs():
                server.add_input(state, sender, frame.body)
                return None
            case CollectingSignatures():
                check = parse(frame, ConsistencyCheck, exchange, sender)
                return server.admit_confirmation(state, sender, check, frame.signature)
            case CollectingReveals():
                reveals = parse(frame, Unmask, exchange, sender)
                return server.admit_reveals(state, sender, reveals)
            case Finished():
                raise LocalProtocolError("the round is over")

    def _close(
        self, state: ServerState, dropped: Mapping[Phase, tuple[ClientId, ...]]
    ) -> tuple[ServerState, server.Requests]:
        match state:
            case CollectingKeys():
                return server.close_keys(state, self._admitted)
            case CollectingShares():
                return server.close_shares(state, self._admitted)
            case CollectingInputs():
                return server.close_inputs(state, self._admitted)
            case CollectingSignatures():
                return server.close_confirmations(state, self._admitted)
            case CollectingReveals():
                return server.close_reveals(state, self._admitted, dropped, self._threads)
            case Finished():
                raise LocalProtocolError("the round is over")
