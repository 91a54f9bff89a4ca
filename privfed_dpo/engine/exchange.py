"""The envelopes of one round, at whoever keeps it in step: made, counted, opened and checked."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from privfed_dpo.engine.events import Observer, ReplyRefused
from privfed_dpo.engine.messages import (
    COORDINATOR,
    WIRE_VERSION,
    Envelope,
    MalformedEnvelope,
    SignedReceipt,
    decode_envelope,
    encode,
)


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


@dataclass(slots=True)
class RoundEnvelopes:
    """What goes out and comes back in one round.

    Attributes:
        run_id: 16 bytes that name the run.
        round: training round, from 1.
        observer: told what was refused.
        upload_bytes: bytes received so far, refused ones included.
        download_bytes: bytes sent so far.
        receipts: by client number, the latest receipt that came with a reply.
    """

    run_id: bytes
    round: int
    observer: Observer
    upload_bytes: int = 0
    download_bytes: int = 0
    receipts: dict[int, SignedReceipt] = field(default_factory=dict)

    def exchange(self, step: str, outbox: Mapping[int, bytes], *, counted: bool = True) -> Exchange:
        """Put each payload into an envelope.

        Args:
            step: what is asked for.
            outbox: payload for each client number.
            counted: whether the bytes belong to the cost of the round.
        """
        messages = {
            client: encode(
                Envelope(
                    version=WIRE_VERSION,
                    run_id=self.run_id,
                    round=self.round,
                    step=step,
                    sender=COORDINATOR,
                    payload=payload,
                )
            )
            for client, payload in outbox.items()
        }
        if counted:
            self.download_bytes += sum(map(len, messages.values()))
        return Exchange(round=self.round, step=step, messages=messages)

    def opened(
        self,
        step: str,
        invited: Container[int],
        replies: Mapping[int, bytes],
        *,
        counted: bool = True,
    ) -> dict[int, bytes]:
        """Open the replies that belong to a step; anything else counts as no answer.

        Args:
            step: what was asked for.
            invited: numbers that may answer.
            replies: what came back, by the number it came from.
            counted: whether the bytes belong to the cost of the round.

        Returns:
            Payload by client number, ascending.
        """
        payloads: dict[int, bytes] = {}
        for client, data in sorted(replies.items()):
            if counted:
                self.upload_bytes += len(data)
            if client not in invited:
                self.refuse(step, client, "nobody of this number was invited")
                continue
            try:
                envelope = decode_envelope(data)
            except MalformedEnvelope as error:
                self.refuse(step, client, str(error))
                continue
            expected = (self.run_id, self.round, step, client)
            if (envelope.run_id, envelope.round, envelope.step, envelope.sender) != expected:
                self.refuse(step, client, "the reply belongs to another run, round or step")
                continue
            payloads[client] = envelope.payload
            if envelope.receipt is not None:
                self.receipts[client] = envelope.receipt
        return payloads

    def refuse(self, step: str, client: int, reason: str) -> None:
        """Tell that a reply was not taken."""
        self.observer(ReplyRefused(self.round, step, client, reason))
