"""The coordinator's end of a relay: a carrier with deadlines of its own."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from privfed_dpo.engine.exchange import Exchange
from privfed_dpo.wire.frames import (
    MAX_REASON_CHARACTERS,
    BadFrame,
    Deliver,
    Failed,
    Finish,
    Frame,
    FrameReader,
    Look,
    Looked,
    Members,
    Returned,
    encode_frame,
)

_CHUNK_BYTES = 1 << 20
_FAREWELL_SECONDS = 1.0
_SHORTEST_SECONDS = 0.001
"""A time-out of zero would mean: do not wait at all."""
_AROUND_BYTES = 1 << 20
"""Room around a reply in a frame, and for the list of members."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message, for the books of a deployment.

    Attributes:
        round: training round; 0 before the first.
        step: what was asked.
        client: client number, or None while it is not known who answers.
        address: the transport's name of the node.
        sent_bytes: length of the message.
        received_bytes: length of the reply; 0 if none came.
        seconds: from sending to the reply or to giving up.
        lost: why there is no reply; empty if there is one.
    """

    round: int
    step: str
    client: int | None
    address: str
    sent_bytes: int
    received_bytes: int
    seconds: float
    lost: str = ""


@dataclass(slots=True)
class _Awaited:
    address: str
    data: bytes | None = None
    lost: str = ""
    seconds: float = 0.0

    @property
    def open(self) -> bool:
        return self.data is None and not self.lost


class RelayCarrier:
    """Hands messages to whatever relay is connected, and waits no longer than a deadline.

    One relay at a time: a new connection takes the place of the old one, whose messages count as
    lost. A reply that comes late, twice or unasked is dropped.

    Args:
        listener: a listening local socket; see `frames.listen`. The carrier does not close it.
        deadline_seconds: longest wait for the replies of a step, by its name.
        max_reply_bytes: longest reply of a client.
        note: told what became of every message.
        first_ticket: numbers of deliveries begin here. A relay outlives coordinators, and may still
            hold answers to one that died: no two of them may count from the same place.
        clock: seconds, monotonic.

    Attributes:
        addresses: where each client can be reached, by number; a client without an address is
            lost at once.
        members: addresses that the relay can reach now.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        deadline_seconds: Callable[[str], float],
        max_reply_bytes: int,
        note: Callable[[Delivery], None] = lambda _delivery: None,
        first_ticket: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.addresses: dict[int, str] = {}
        self.members: frozenset[str] = frozenset()
        self._listener = listener
        self._deadline_seconds = deadline_seconds
        self._max_reply_bytes = max_reply_bytes
        self._note = note
        self._clock = clock
        self._relay: socket.socket | None = None
        self._reader = FrameReader(max_reply_bytes + _AROUND_BYTES)
        self._tickets = first_ticket
        self._asked = 0
        self._awaited: dict[int, _Awaited] = {}
        self._begun = 0.0
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def exchange(self, exchange: Exchange) -> Mapping[int, bytes]:
        """Deliver to every client with an address and return the replies that came in time."""
        reachable = {n: self.addresses[n] for n in exchange.messages if n in self.addresses}
        numbers = {address: number for number, address in reachable.items()}
        replies = self.send(
            {address: exchange.messages[n] for n, address in reachable.items()},
            round_number=exchange.round,
            step=exchange.step,
            numbers=numbers,
        )
        for number in exchange.messages.keys() - reachable.keys():
            sent = len(exchange.messages[number])
            self._note(
                Delivery(exchange.round, exchange.step, number, "", sent, 0, 0.0, "not connected")
            )
        return {numbers[address]: data for address, data in replies.items()}

    def send(
        self,
        messages: Mapping[str, bytes],
        *,
        round_number: int,
        step: str,
        numbers: Mapping[str, int],
        seconds: float | None = None,
        enough: Callable[[Mapping[str, bytes]], bool] = lambda _replies: False,
    ) -> dict[str, bytes]:
        """Send one message to each address and wait for the replies, or for the deadline.

        Args:
            messages: bytes by address.
            round_number: for the books.
            step: decides the deadline.
            numbers: for the books: client number by address, where it is known.
            seconds: longest wait; None takes the step's deadline.
            enough: told the replies so far whenever there is news; waiting ends when it says so.

        Returns:
            Replies by address.
        """
        if seconds is None:
            seconds = self._deadline_seconds(step)
        self._begun = self._clock()
        self._awaited = {}
        until = self._begun + seconds
        for address, data in messages.items():
            self._tickets += 1
            self._awaited[self._tickets] = _Awaited(address)
            letter = Deliver(self._tickets, address, seconds, self._max_reply_bytes, data)
            self._post(letter, until - self._clock())
        lost = "no answer in time"
        while any(asked.open for asked in self._awaited.values()) and self._clock() < until:
            self._listen(until - self._clock())
            if enough(_replies(self._awaited)):
                lost = "not waited for any longer"
                break
        taken, self._awaited = self._awaited, {}
        for asked in taken.values():
            self._note(
                Delivery(
                    round=round_number,
                    step=step,
                    client=numbers.get(asked.address),
                    address=asked.address,
                    sent_bytes=len(messages[asked.address]),
                    received_bytes=len(asked.data or b""),
                    seconds=self._clock() - self._begun if asked.open else asked.seconds,
                    lost=lost if asked.open else asked.lost,
                )
            )
        return _replies(taken)

    def look(self, seconds: float) -> None:
        """Have the relay look who can be reached now; nobody, if it does not say so in time.

        A relay whose transport has failed may hang, still connected, and what it said before is
        then worth nothing.
        """
        until, relay = self._clock() + seconds, self._relay
        self._tickets += 1
        self._asked = self._tickets
        self._post(Look(self._asked), seconds)
        while self._asked and self._relay is relay is not None and self._clock() < until:
            self._listen(until - self._clock())
        if self._asked:
            self._asked, self.members = 0, frozenset()

    def wait(self, seconds: float) -> None:
        """Listen for news of who can be reached, for at most so long."""
        self._listen(seconds)

    def finish(self) -> None:
        """Tell the relay that the run is over; then call `close`."""
        if self._relay is not None:
            self._post(Finish(), _FAREWELL_SECONDS)

    def close(self) -> None:
        """Hang up; the relay waits for a coordinator to come back."""
        self._hang_up("the coordinator stopped")
        self._selector.close()

    def _post(self, frame: Deliver | Finish | Look, seconds: float) -> None:
        """Hand a frame to the relay; one that does not take it in time is hung up on."""
        if self._relay is None:
            self._lose("no relay is connected")
            return
        try:
            self._relay.settimeout(max(_SHORTEST_SECONDS, seconds))
            self._relay.sendall(encode_frame(frame))
        except TimeoutError:
            self._hang_up("the relay stopped reading")
        except OSError:
            self._hang_up("the relay went away")

    def _listen(self, seconds: float) -> None:
        """Wait for one piece of news and take it."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._relay:
                self._read(self._relay)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self.finish()  # else the two would take turns for ever
        self._hang_up("another relay took over")
        self._relay, self._reader = connection, FrameReader(self._max_reply_bytes + _AROUND_BYTES)
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, relay: socket.socket) -> None:
        try:
            data = relay.recv(_CHUNK_BYTES)
            frames = list(self._reader.feed(data))
        except (OSError, BadFrame) as error:
            self._hang_up(f"the relay was cut off: {error}")
            return
        if not data:
            self._hang_up("the relay went away")
        for frame in frames:
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, Members):
            self.members = frozenset(frame.addresses)
        elif isinstance(frame, Looked):
            if frame.ticket == self._asked:
                self._asked, self.members = 0, frozenset(frame.addresses)
        elif isinstance(frame, Returned | Failed):
            letter = self._awaited.get(frame.ticket)
            if letter is None or not letter.open:
                return
            letter.seconds = self._clock() - self._begun
            if isinstance(frame, Returned):
                letter.data = frame.data
            else:
                letter.lost = frame.reason[:MAX_REASON_CHARACTERS] or "no reason given"

    def _hang_up(self, reason: str) -> None:
        if self._relay is None:
            return
        self._selector.unregister(self._relay)
        with contextlib.suppress(OSError):
            self._relay.close()
        self._relay = None
        self.members = frozenset()
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        for letter in self._awaited.values():
            if letter.open:
                letter.lost = reason


def _replies(awaited: Mapping[int, _Awaited]) -> dict[str, bytes]:
    return {letter.address: letter.data for letter in awaited.values() if letter.data is not None}
