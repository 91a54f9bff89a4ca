"""Frames on a local socket: how processes of one machine hand each other opaque bytes.

A frame is the mark `PFD1`, the length of its body as 8 bytes, big-endian, and the body: one of the
messages below in canonical MessagePack. The mark holds the version: another one is refused, and so
is a length above the limit, before any of the body is read.

This module and `relay` need nothing but msgspec, so that a transport's short-lived processes load
neither a model library nor anything of the engine.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

MARK = b"PFD1"
HEADER_BYTES = len(MARK) + 8
MAX_FRAME_BYTES = 1 << 31
MAX_REASON_CHARACTERS = 1000
"""What people get to read of a reason; a node may send more, and it would all go into the log."""

_CHUNK_BYTES = 1 << 20
_BACKLOG = 16


class LocalSocketError(Exception):
    """The other end of a local socket is not there, or is not one of ours."""


class BadFrame(LocalSocketError):
    """Bytes that are no frame of this version, or a frame above the limit."""


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A MessagePack array of exactly the declared fields; one too many is refused unread."""


class Members(_Body, frozen=True, tag=1):
    """Relay to coordinator: who can be reached now.

    Attributes:
        addresses: names of the transport's nodes, ascending.
    """

    addresses: tuple[str, ...]


class Deliver(_Body, frozen=True, tag=2):
    """Coordinator to relay: bytes for one node.

    Attributes:
        ticket: number that the answer repeats; no two deliveries share one, not even when the
            coordinator was started again in between.
        address: the node.
        seconds: after this time no answer is wanted any more.
        max_reply_bytes: a longer answer is not wanted either.
        data: opaque.
    """

    ticket: int
    address: str
    seconds: float
    max_reply_bytes: int
    data: bytes


class Returned(_Body, frozen=True, tag=3):
    """Relay to coordinator: what a node answered."""

    ticket: int
    data: bytes


class Failed(_Body, frozen=True, tag=4):
    """Relay to coordinator: a node will not answer; the reason is for people."""

    ticket: int
    reason: str


class Finish(_Body, frozen=True, tag=5):
    """Coordinator to relay: the run is over."""


class Ask(_Body, frozen=True, tag=6):
    """Transport to client: a message of the coordinator."""

    data: bytes


class Answer(_Body, frozen=True, tag=7):
    """Client to transport: its reply."""

    data: bytes


class Refusal(_Body, frozen=True, tag=8):
    """Client to transport: it will not answer; the reason holds no secret."""

    reason: str


class Look(_Body, frozen=True, tag=9):
    """Coordinator to relay: look now who can be reached, and say so even if nothing changed.

    Attributes:
        ticket: number that the answer repeats.
    """

    ticket: int


class Looked(_Body, frozen=True, tag=10):
    """Relay to coordinator: who could be reached after the question had come.

    Attributes:
        ticket: of the question.
        addresses: as in `Members`.
    """

    ticket: int
    addresses: tuple[str, ...]


Frame = Members | Deliver | Returned | Failed | Finish | Ask | Answer | Refusal | Look | Looked


def encode_frame(frame: Frame) -> bytes:
    """Return a frame's bytes, mark and length included."""
    body = msgspec.msgpack.encode(frame)
    return MARK + struct.pack(">Q", len(body)) + body


class FrameReader:
    """Frames out of a stream of bytes that arrives in pieces.

    Args:
        max_bytes: longest body that is taken.
    """

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take a piece; yield the frames that are whole now.

        Raises:
            BadFrame: another mark or version, a body that is too long or no message of ours.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER_BYTES:
            length = self._body_bytes()
            if len(self._buffer) < HEADER_BYTES + length:
                return
            body = bytes(self._buffer[HEADER_BYTES : HEADER_BYTES + length])
            del self._buffer[: HEADER_BYTES + length]
            yield _decode(body)

    def _body_bytes(self) -> int:
        if self._buffer[: len(MARK)] != MARK:
            raise BadFrame(f"no frame of this version: it must begin with {MARK.decode()}")
        (length,) = struct.unpack(">Q", self._buffer[len(MARK) : HEADER_BYTES])
        if length > self._max_bytes:
            raise BadFrame(f"{length} bytes are above the limit of {self._max_bytes}")
        return int(length)


def _decode(body: bytes) -> Frame:
    try:
        frame: Frame = msgspec.msgpack.decode(body, type=Frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame(f"not a message of a local socket: {error}") from error
    if msgspec.msgpack.encode(frame) != body:
        raise BadFrame("a message in non-canonical form")
    return frame


def receive_frame(
    connection: socket.socket,
    reader: FrameReader,
    *,
    left: Callable[[], float] | None = None,
) -> Frame | None:
    """Wait for one frame; None if the other end hangs up before a frame begins or ends.

    For conversations of one question and one answer: what follows the frame is refused.

    Args:
        connection: a connected local socket.
        reader: takes the pieces.
        left: asked before each piece, the seconds that are left for the whole frame; raises
            TimeoutError if there are none. Without it each piece has the socket's own time-out.

    Raises:
        BadFrame: see `FrameReader`.
        TimeoutError: the frame took too long.
    """
    while True:
        if left is not None:
            connection.settimeout(left())
        data = connection.recv(_CHUNK_BYTES)
        if not data:
            return None
        frames = list(reader.feed(data))
        if len(frames) > 1:
            raise BadFrame("one frame was expected, several came")
        if frames:
            return frames[0]


def ask_client(
    path: Path, data: bytes, *, seconds: float, max_bytes: int = MAX_FRAME_BYTES
) -> Answer | Refusal:
    """Hand a message to the client process behind a socket and wait for its reply.

    Args:
        path: the client's socket.
        data: the coordinator's bytes.
        seconds: longest wait for each piece of the reply.
        max_bytes: longest reply.

    Raises:
        LocalSocketError: nobody is there, or what came back is no answer.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(str(path))
            connection.sendall(encode_frame(Ask(data)))
            reply = receive_frame(connection, FrameReader(max_bytes))
    except OSError as error:
        raise LocalSocketError(f"no answer from the client process: {error}") from error
    if isinstance(reply, Answer | Refusal):
        return reply
    raise LocalSocketError("the client process hung up without an answer")


def listen(path: Path, *, group: int | None = None) -> socket.socket:
    """Open a socket that only its owner, and if wanted one group, can connect to.

    Args:
        path: where; a socket left behind by a dead process is replaced, a living one is not.
        group: number of a group whose members may connect too; None for the owner alone.

    Returns:
        A listening socket. Whoever closes it removes the file.

    Raises:
        LocalSocketError: somebody listens there already, or the place is not a socket's.
    """
    _clear(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o660)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise LocalSocketError(f"no socket can be opened at {path}: {error}") from error
    return listener


def _clear(path: Path) -> None:
    """Remove the socket of a process that is gone."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise LocalSocketError(f"{path} exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise LocalSocketError(f"{path} cannot be used: {error}") from error
    raise LocalSocketError(f"another process listens at {path}")
