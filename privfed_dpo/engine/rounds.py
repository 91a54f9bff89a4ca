"""One round at the coordinator, without input or output: a script of exchanges.

The script yields what to send and is resumed with what came back before the deadline; a carrier
in between moves the bytes and knows nothing of their meaning.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from privfed_dpo.engine.client import round_id
from privfed_dpo.engine.events import Observer, PhaseClosed, ReplyRefused
from privfed_dpo.engine.messages import (
    COORDINATOR,
    PLAIN_INPUT,
    START,
    WIRE_VERSION,
    Envelope,
    MalformedEnvelope,
    RoundStart,
    SignedReceipt,
    decode_envelope,
    encode,
)
from privfed_dpo.engine.plan import RunPlan
from secure_agg import Phase, RemoteProtocolError, RoundAborted, ServerSession


@dataclass(frozen=True, slots=True)
class Exchange:
    """Messages to deliver now; the carrier answers with the replies it got in time.

    Attributes:
        round: training round.
        step: name of the step the replies will belong to.
        messages: bytes for each client number.
    """

    round: int
    step: str
    messages: Mapping[int, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round gave.

    Attributes:
        total: the sum in the ring, shape [vector_length]; None if the round was aborted.
        survivors: client numbers whose input is in the sum.
        dropped: clients lost, by step.
        upload_bytes: bytes received from clients.
        download_bytes: bytes sent to clients.
        reason: why the round was aborted, or an empty string.
        receipts: by client number, what clients that finished the round vouch for.
    """

    total: npt.NDArray[np.unsignedinteger] | None
    survivors: tuple[int, ...]
    dropped: Mapping[str, int]
    upload_bytes: int
    download_bytes: int
    reason: str = ""
    receipts: Mapping[int, SignedReceipt] = field(default_factory=dict)


RoundScript = Generator[Exchange, Mapping[int, bytes], RoundResult]


class RoundCoordinator:
    """Runs one round with a given cohort.

    Args:
        plan: the run's plan.
        run_id: 16 bytes that name the run.
        round_number: training round, from 1.
        cohort: identity keys of the invited clients, by number.
        observer: told when a phase closes.
    """

    def __init__(
        self,
        *,
        plan: RunPlan,
        run_id: bytes,
        round_number: int,
        cohort: Mapping[int, bytes],
        observer: Observer,
    ) -> None:
        self._plan = plan
        self._run_id = run_id
        self._round = round_number
        self._cohort = dict(sorted(cohort.items()))
        self._observer = observer
        self._upload_bytes = 0
        self._download_bytes = 0
        self._receipts: dict[int, SignedReceipt] = {}

    def script(self, weights: npt.NDArray[np.float32]) -> RoundScript:
        """Play the round from the given global adapter, shape [d].

        Returns:
            (as the generator's value) the result; a round with too few survivors is a result too,
            without a total.
        """
        start = RoundStart(
            plan_hash=bytes.fromhex(self._plan.plan_hash),
            cohort=tuple(self._cohort),
            weights=weights.astype("<f4").tobytes(),
        )
        outbox: Mapping[int, bytes] = dict.fromkeys(self._cohort, encode(start))
        if self._plan.secure_aggregation:
            return (yield from self._secure_sum(outbox))
        return (yield from self._plain_sum(outbox))

    def _secure_sum(self, outbox: Mapping[int, bytes]) -> RoundScript:
        params = self._plan.protocol_params(round_id(self._run_id, self._round), self._cohort)
        server = ServerSession(params)
        step = START
        dropped: dict[str, int] = {}
        for phase in Phase:
            replies = yield self._exchange(step, outbox)
            answered = 0
            for client, payload in self._payloads(replies, phase.value):
                try:
                    server.receive(client, payload)
                except RemoteProtocolError as error:
                    self._refuse(phase.value, client, str(error))
                    continue
                answered += 1
            missing = len(outbox) - answered
            self._observer(PhaseClosed(self._round, phase.value, answered, missing))
            if missing:
                dropped[phase.value] = missing
            try:
                outbox = {int(client): data for client, data in server.close_phase().items()}
            except RoundAborted as aborted:
                return self._result(None, (), dropped, reason=str(aborted))
            step = _next_step(phase)
        result = server.result
        return self._result(result.total, tuple(result.survivors), dropped)

    def _plain_sum(self, outbox: Mapping[int, bytes]) -> RoundScript:
        """Without secure aggregation: add what arrives, in clear."""
        grid = self._plan.grid()
        replies = yield self._exchange(START, outbox)
        total = np.zeros(self._plan.vector_length, dtype=grid.dtype)
        survivors = []
        for client, payload in self._payloads(replies, PLAIN_INPUT):
            if len(payload) == total.nbytes:
                total += np.frombuffer(payload, dtype=grid.dtype)
                survivors.append(client)
        missing = len(outbox) - len(survivors)
        self._observer(PhaseClosed(self._round, PLAIN_INPUT, len(survivors), missing))
        dropped = {PLAIN_INPUT: missing} if missing else {}
        if len(survivors) < self._plan.threshold:
            reason = f"{len(survivors)} of {self._plan.threshold} needed clients answered"
            return self._result(None, (), dropped, reason=reason)
        return self._result(total, tuple(survivors), dropped)

    def _exchange(self, step: str, outbox: Mapping[int, bytes]) -> Exchange:
        messages = {
            client: encode(
                Envelope(
                    version=WIRE_VERSION,
                    run_id=self._run_id,
                    round=self._round,
                    step=step,
                    sender=COORDINATOR,
                    payload=payload,
                )
            )
            for client, payload in outbox.items()
        }
        self._download_bytes += sum(map(len, messages.values()))
        return Exchange(round=self._round, step=step, messages=messages)

    def _payloads(self, replies: Mapping[int, bytes], step: str) -> list[tuple[int, bytes]]:
        """Open the replies that belong to this step; anything else counts as no answer."""
        opened = []
        for client, data in sorted(replies.items()):
            self._upload_bytes += len(data)
            if client not in self._cohort:
                self._refuse(step, client, "nobody of this number was invited")
                continue
            try:
                envelope = decode_envelope(data)
            except MalformedEnvelope as error:
                self._refuse(step, client, str(error))
                continue
            expected = (self._run_id, self._round, step, client)
            if (envelope.run_id, envelope.round, envelope.step, envelope.sender) == expected:
                opened.append((client, envelope.payload))
                if envelope.receipt is not None:
                    self._receipts[client] = envelope.receipt
            else:
                self._refuse(step, client, "the reply belongs to another run, round or step")
        return opened

    def _refuse(self, step: str, client: int, reason: str) -> None:
        self._observer(ReplyRefused(self._round, step, client, reason))

    def _result(
        self,
        total: npt.NDArray[np.unsignedinteger] | None,
        survivors: tuple[int, ...],
        dropped: Mapping[str, int],
        *,
        reason: str = "",
    ) -> RoundResult:
        return RoundResult(
            total=total,
            survivors=survivors,
            dropped=dropped,
            upload_bytes=self._upload_bytes,
            download_bytes=self._download_bytes,
            reason=reason,
            receipts={c: r for c, r in self._receipts.items() if c in survivors},
        )


def _next_step(phase: Phase) -> str:
    phases = list(Phase)
    place = phases.index(phase) + 1
    return phases[place].value if place < len(phases) else ""
