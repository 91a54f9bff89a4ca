"""The client process's end of the local socket: one question per connection, one at a time."""

from __future__ import annotations

import contextlib
import socket
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

_PIECE_SECONDS = 60.0
"""Longest wait for a piece of a question, or for the other side to take a piece of the answer."""


class Declined(Exception):
    """A question that gets no answer; its text goes to the other side and holds no secret."""


def answer_one(listener: socket.socket, handle: Callable[[bytes], bytes], *, max_bytes: int) -> str:
    """Wait for a connection and answer its question.

    Args:
        listener: a listening local socket; see `frames.listen`.
        handle: from question to answer.
        max_bytes: longest question.

    Returns:
        Why there was no answer, for the log; empty if there was one. A peer that talks nonsense,
        hangs up or dawdles costs its own connection and nothing else.
    """
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(_PIECE_SECONDS)
        try:
            question = receive_frame(connection, FrameReader(max_bytes))
            if not isinstance(question, Ask):
                return "the peer asked nothing"
            reply: Answer | Refusal = Answer(handle(question.data))
        except Declined as declined:
            reply = Refusal(str(declined))
        except BadFrame as error:
            reply = Refusal(str(error))
        except OSError as error:
            return f"the peer went away: {error}"
        with contextlib.suppress(OSError):
            connection.sendall(encode_frame(reply))
        return reply.reason if isinstance(reply, Refusal) else ""
