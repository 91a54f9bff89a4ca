"""One round at the coordinator, without input or output: a script of exchanges.

The script yields what to send and is resumed with what came back before the deadline; a carrier
in between moves the bytes and knows nothing of their meaning.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from privfed_dpo.engine.drift_state import Departure
from privfed_dpo.engine.events import Observer, PhaseClosed, SharesDisputed
from privfed_dpo.engine.exchange import Exchange, RoundEnvelopes
from privfed_dpo.engine.invitations import Signer, invite, round_id
from privfed_dpo.engine.messages import PLAIN_INPUT, START, RoundStart, SignedReceipt, encode
from privfed_dpo.engine.plan import RunPlan
from secure_agg import Dispute, Phase, RemoteProtocolError, RoundAborted, ServerSession


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
        sign: the coordinator's key, under which clients know their invitations.
        observer: told when a phase closes, what was refused and whose shares are in dispute.
    """

    def __init__(
        self,
        *,
        plan: RunPlan,
        run_id: bytes,
        round_number: int,
        cohort: Mapping[int, bytes],
        sign: Signer,
        observer: Observer,
    ) -> None:
        self._plan = plan
        self._run_id = run_id
        self._round = round_number
        self._cohort = dict(sorted(cohort.items()))
        self._sign = sign
        self._observer = observer
        self._envelopes = RoundEnvelopes(run_id, round_number, observer)

    def script(self, departure: Departure) -> RoundScript:
        """Play the round.

        Args:
            departure: the adapters that clients set out from.

        Returns:
            (as the generator's value) the result; a round with too few survivors is a result too,
            without a total.
        """
        starts = invite(
            self._plan,
            self._run_id,
            self._round,
            cohort=tuple(self._cohort),
            departure=departure,
            sign=self._sign,
        )
        messages = {age: encode(start) for age, start in starts.items()}
        ages = {client: age for client, (age, _) in departure.late.items()}
        outbox = {client: messages[ages.get(client, 0)] for client in self._cohort}
        if self._plan.secure_aggregation:
            return (yield from self._secure_sum(starts[0], outbox))
        return (yield from self._plain_sum(outbox))

    def _secure_sum(self, start: RoundStart, outbox: Mapping[int, bytes]) -> RoundScript:
        bound = round_id(self._run_id, self._round, start)
        params = self._plan.protocol_params(bound, self._cohort)
        server = ServerSession(params)
        step = START
        dropped: dict[str, int] = {}
        for phase in Phase:
            replies = yield self._envelopes.exchange(step, outbox)
            answered = 0
            for client, payload in self._opened(phase.value, replies):
                try:
                    server.receive(client, payload)
                except RemoteProtocolError as error:
                    self._envelopes.refuse(phase.value, client, str(error))
                    continue
                answered += 1
            missing = len(outbox) - answered
            self._observer(PhaseClosed(self._round, phase.value, answered, missing))
            if missing:
                dropped[phase.value] = missing
            try:
                outbox = {int(client): data for client, data in server.close_phase().items()}
            except RoundAborted as aborted:
                self._tell(aborted.disputes)
                return self._result(None, (), dropped, reason=str(aborted))
            step = _next_step(phase)
        result = server.result
        self._tell(result.disputes)
        return self._result(result.total, tuple(result.survivors), dropped)

    def _plain_sum(self, outbox: Mapping[int, bytes]) -> RoundScript:
        """Without secure aggregation: add what arrives, in clear."""
        grid = self._plan.grid()
        replies = yield self._envelopes.exchange(START, outbox)
        total = np.zeros(self._plan.vector_length, dtype=grid.dtype)
        survivors = []
        for client, payload in self._opened(PLAIN_INPUT, replies):
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

    def _tell(self, disputes: Iterable[Dispute]) -> None:
        for dispute in disputes:
            owner, holders = int(dispute.owner), tuple(map(int, dispute.holders))
            self._observer(SharesDisputed(self._round, owner, holders, str(dispute)))

    def _opened(self, step: str, replies: Mapping[int, bytes]) -> list[tuple[int, bytes]]:
        return list(self._envelopes.opened(step, self._cohort, replies).items())

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
            upload_bytes=self._envelopes.upload_bytes,
            download_bytes=self._envelopes.download_bytes,
            reason=reason,
            receipts={c: r for c, r in self._envelopes.receipts.items() if c in survivors},
        )


def _next_step(phase: Phase) -> str:
    phases = list(Phase)
    place = phases.index(phase) + 1
    return phases[place].value if place < len(phases) else ""
