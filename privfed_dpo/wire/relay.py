"""The relay: moves a coordinator's bytes between its local socket and a transport.

It runs in a process of the transport's own (Flower's ServerApp, say), knows nothing of rounds or
protocols, and may die at any moment: the coordinator then counts what was under way as lost. Where
the coordinator dies, the relay waits for it to come back.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from privfed_dpo.wire.frames import (
    BadFrame,
    Deliver,
    Failed,
    Finish,
    Frame,
    FrameReader,
    LocalSocketError,
    Look,
    Looked,
    Members,
    Returned,
    encode_frame,
)

_CHUNK_BYTES = 1 << 20


class Post(Protocol):
    """A transport, as the relay uses it."""

    def members(self) -> Iterable[str]:
        """Addresses of the nodes that can be reached now."""

    def push(self, letters: Sequence[Deliver]) -> Iterable[Failed]:
        """Send letters off; returns those that cannot be sent.

        Whoever answers with more bytes than a letter allows has failed.
        """

    def pull(self) -> Iterable[Returned | Failed]:
        """Answers and failures since the last call; does not wait."""


class Relay:
    """One end of a transport.

    Args:
        post: the transport.
        socket_path: the coordinator's socket.
        poll_seconds: pause between two looks at the transport while answers are awaited.
        members_seconds: pause between two looks at who can be reached.
        patience_seconds: how long a coordinator that went away is waited for.
        clock: seconds, monotonic.
        pause: waits for that many seconds.
    """

    def __init__(
        self,
        post: Post,
        socket_path: Path,
        *,
        poll_seconds: float = 0.2,
        members_seconds: float = 2.0,
        patience_seconds: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._post = post
        self._path = socket_path
        self._poll_seconds = poll_seconds
        self._members_seconds = members_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._pause = pause

    def run(self) -> None:
        """Serve until the coordinator says that the run is over.

        Raises:
            LocalSocketError: no coordinator came, or none came back, in time.
        """
        while not self._serve(self._connect()):
            pass

    def _connect(self) -> socket.socket:
        """Wait for the coordinator; a relay whose transport fails must not take another's place."""
        self._post.members()
        until = self._clock() + self._patience_seconds
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(self._path))
            except OSError as error:
                connection.close()
                if self._clock() >= until:
                    raise LocalSocketError(f"no coordinator at {self._path}: {error}") from error
                self._pause(self._poll_seconds)
            else:
                return connection

    def _serve(self, connection: socket.socket) -> bool:
        """Move bytes until either end stops; says whether the run is over."""
        inbox: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        listener = threading.Thread(target=_read_all, args=(connection, inbox), daemon=True)
        listener.start()
        over = False
        try:
            over = self._exchange(connection, inbox)
        except OSError:
            pass  # hung up while it was being told something; it may have said good-bye before
        finally:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            listener.join()
            connection.close()
        return over or _said_goodbye(inbox)

    def _exchange(self, connection: socket.socket, inbox: queue.SimpleQueue[Frame | None]) -> bool:
        known: tuple[str, ...] | None = None
        looked = float("-inf")
        while True:
            if self._clock() - looked >= self._members_seconds:
                members = self._look()
                looked = self._clock()
                if members != known:
                    connection.sendall(encode_frame(Members(members)))
                    known = members
            letters, asked, over = _collect(inbox, self._poll_seconds)
            for look in asked:
                connection.sendall(encode_frame(Looked(look.ticket, self._look())))
            for failed in self._post.push(letters) if letters else ():
                connection.sendall(encode_frame(failed))
            for answer in self._post.pull():
                connection.sendall(encode_frame(answer))
            if over is not None:
                return over

    def _look(self) -> tuple[str, ...]:
        return tuple(sorted(self._post.members()))


def _collect(
    inbox: queue.SimpleQueue[Frame | None], seconds: float
) -> tuple[list[Deliver], list[Look], bool | None]:
    """Wait a moment for letters and questions, then take all that are there.

    Returns:
        Both, and whether the run is over; None if it goes on, False if the line is dead.
    """
    letters: list[Deliver] = []
    asked: list[Look] = []
    try:
        frame = inbox.get(timeout=seconds)
        while True:
            if frame is None:
                return letters, asked, False
            if isinstance(frame, Finish):
                return letters, asked, True
            if isinstance(frame, Deliver):
                letters.append(frame)
            if isinstance(frame, Look):
                asked.append(frame)
            frame = inbox.get_nowait()
    except queue.Empty:
        return letters, asked, None


def _said_goodbye(inbox: queue.SimpleQueue[Frame | None]) -> bool:
    """Whether what was read but not looked at says that the run is over."""
    while not inbox.empty():
        if isinstance(inbox.get_nowait(), Finish):
            return True
    return False


def _read_all(connection: socket.socket, inbox: queue.SimpleQueue[Frame | None]) -> None:
    """Read frames as they come, so that the coordinator never waits for a slow transport."""
    reader = FrameReader()
    with contextlib.suppress(OSError, BadFrame):
        while data := connection.recv(_CHUNK_BYTES):
            for frame in reader.feed(data):
                inbox.put(frame)
    inbox.put(None)
