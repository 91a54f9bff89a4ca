"""Flower's ServerApp: a relay between the coordinator's socket and Flower's nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from privfed_dpo.wire.flower.records import MESSAGE_TYPE, NotOurs, from_records, to_records
from privfed_dpo.wire.frames import MAX_REASON_CHARACTERS, Deliver, Failed, Returned
from privfed_dpo.wire.relay import Relay

SOCKET_KEY = "coordinator-socket"
_REASONS = {2: "its ClientApp failed", 3: "the message expired", 5: "the node is gone"}


@dataclass(frozen=True, slots=True)
class _UnderWay:
    letter: Deliver
    until: float


class GridPost:
    """Flower's grid as a transport; polls, so that deadlines are the coordinator's.

    Args:
        grid: given to the ServerApp.
        clock: seconds, monotonic.
    """

    def __init__(self, grid: Grid, clock: Callable[[], float] = time.monotonic) -> None:
        self._grid = grid
        self._clock = clock
        self._under_way: dict[str, _UnderWay] = {}

    def members(self) -> Iterable[str]:
        """Ids of the nodes that Flower takes to be there, as text."""
        return [str(node) for node in self._grid.get_node_ids()]

    def push(self, letters: Sequence[Deliver]) -> Iterable[Failed]:
        """Send letters off; returns those Flower does not take."""
        messages = [
            Message(
                to_records(letter.data),
                int(letter.address),
                MESSAGE_TYPE,
                ttl=letter.seconds,
                group_id=str(letter.ticket),
            )
            for letter in letters
        ]
        failed = []
        for letter, sent in zip(letters, self._grid.push_messages(messages), strict=True):
            if sent:
                until = self._clock() + letter.seconds
                self._under_way[sent] = _UnderWay(letter, until)
            else:
                failed.append(Failed(letter.ticket, "Flower did not take the message"))
        return failed

    def pull(self) -> Iterable[Returned | Failed]:
        """Answers since the last call; letters whose time is up are forgotten."""
        if not self._under_way:
            return []
        answers = []
        for reply in self._grid.pull_messages(list(self._under_way)):
            sent = self._under_way.pop(reply.metadata.reply_to_message_id, None)
            if sent is not None:
                answers.append(_answer(sent.letter, reply))
        now = self._clock()
        self._under_way = {key: sent for key, sent in self._under_way.items() if sent.until > now}
        return answers


def _answer(letter: Deliver, reply: Message) -> Returned | Failed:
    if reply.has_error():
        code = reply.error.code
        return Failed(letter.ticket, _REASONS.get(code, f"Flower's error {code}"))
    try:
        data = from_records(reply.content)
    except NotOurs as error:
        return Failed(letter.ticket, str(error)[:MAX_REASON_CHARACTERS])
    if len(data) > letter.max_reply_bytes:
        limit = letter.max_reply_bytes
        return Failed(letter.ticket, f"{len(data)} bytes are above the limit of {limit}")
    return Returned(letter.ticket, data)


def relay(grid: Grid, context: Context) -> None:
    """Serve the coordinator behind the socket that the run's configuration names."""
    Relay(GridPost(grid), Path(str(context.run_config[SOCKET_KEY]))).run()


app = ServerApp()
app.main()(relay)
