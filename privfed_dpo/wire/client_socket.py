"""The client process's end of the local socket: one question per connection, one at a time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from privfed_dpo.wire.frames import (
    Answer,
    Ask,
    BadFrame,
    FrameReader,
    Refusal,
    encode_frame,
    receive_frame,
)

_PEER_SECONDS = 60.0
"""Longest time a connection's peer may take to ask and to take the answer, both together."""


class Declined(Exception):
    """A question that gets no answer; its text goes to the other side and holds no secret."""


def answer_one(
    listener: socket.socket,
    handle: Callable[[bytes], bytes],
    *,
    max_bytes: int,
    seconds: float = _PEER_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Wait for a connection and answer its question.

    Args:
        listener: a listening local socket; see `frames.listen`.
        handle: from question to answer; the time it takes is not the peer's.
        max_bytes: longest question.
        seconds: longest time the peer may take in all, in however many pieces it asks.
        clock: seconds, monotonic.

    Returns:
        Why there was no answer, for the log; empty if there was one. A peer that talks nonsense,
        hangs up or dawdles costs its own connection, and who waits behind it at most `seconds`.
    """
    connection, _ = listener.accept()
    until = clock() + seconds

    def left() -> float:
        rest = until - clock()
        if rest <= 0:
            raise TimeoutError
        return rest

    with connection:
        try:
            question = receive_frame(connection, FrameReader(max_bytes), left=left)
            if not isinstance(question, Ask):
                return "the peer asked nothing"
            connection.settimeout(left())
            reply: Answer | Refusal = Answer(handle(question.data))
        except Declined as declined:
            reply = Refusal(str(declined))
        except BadFrame as error:
            reply = Refusal(str(error))
        except TimeoutError:
            return f"the peer took more than {seconds:g} s to ask"
        except OSError as error:
            return f"the peer went away: {error}"
        try:
            connection.sendall(encode_frame(reply))
        except OSError as error:
            return f"the peer did not take the answer: {error}"
        return reply.reason if isinstance(reply, Refusal) else ""
