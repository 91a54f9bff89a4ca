"""Bytes <-> messages: MessagePack, versioned, size-limited, one encoding per message.

A frame is the array [version, kind, round digest, party, signature, body]. `party` is the sender on
the way up and the addressee on the way down; frames from the server carry an empty signature.
A frame whose re-encoding would differ from what arrived is refused.
"""

from __future__ import annotations

import hashlib
import io
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from secure_agg.errors import MalformedMessage
from secure_agg.kdf import DIGEST_BYTES, Label, context, u32
from secure_agg.keys import SIGNATURE_BYTES, IdentityKey
from secure_agg.messages import BODY_TYPES, Body, WireDigest, WireId
from secure_agg.params import ProtocolParams
from secure_agg.phases import Kind
from secure_agg.seal import BOX_BYTES
from secure_agg.types import ClientId

VERSION: Final = 1
_ITEM_OVERHEAD_BYTES: Final = 16
_FRAME_OVERHEAD_BYTES: Final = 128

_BodyT = TypeVar("_BodyT", bound=Body)


class Frame(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Envelope of every message; `body` is a view into the received bytes, not a copy."""

    version: Annotated[int, Meta(ge=0, le=127)]
    kind: Annotated[int, Meta(ge=1, le=127)]
    round_digest: WireDigest
    party: WireId
    signature: Annotated[bytes, Meta(max_length=SIGNATURE_BYTES)]
    body: memoryview


def signed_bytes(
    round_digest: bytes, kind: Kind, sender: ClientId, body: bytes | memoryview
) -> bytes:
    """What a client signs: the round, the kind, the sender and SHA-256 of the body."""
    hashed = hashlib.sha256(body).digest()
    return context(Label.FRAME, round_digest, bytes([kind]), u32(sender), hashed)


def encode_body(body: Body) -> bytes:
    """The one encoding of a body."""
    return msgspec.msgpack.encode(body)


def encode_request(round_digest: bytes, kind: Kind, addressee: ClientId, body: Body) -> bytes:
    """A frame from the server; it is not signed, a client believes only what clients signed."""
    encoded = encode_body(body)
    return _prefix(kind, round_digest, addressee, b"", len(encoded)) + encoded


def encode_reply(
    round_digest: bytes, kind: Kind, sender: ClientId, body: bytes, identity: IdentityKey
) -> bytes:
    """A frame from a client, signed with its identity."""
    signature = identity.sign(signed_bytes(round_digest, kind, sender, body))
    return _prefix(kind, round_digest, sender, signature, len(body)) + body


class ReplyBuffer:
    """A signed reply whose large body is written in place, so that it exists once in memory."""

    def __init__(self, round_digest: bytes, kind: Kind, sender: ClientId, body_bytes: int) -> None:
        self._header = (round_digest, kind, sender)
        prefix = _prefix(kind, round_digest, sender, bytes(SIGNATURE_BYTES), body_bytes)
        self._body_start = len(prefix)
        self._size = len(prefix) + body_bytes
        self._file = io.BytesIO()
        self._file.seek(self._size - 1)
        self._file.write(b"\0")
        self._view = self._file.getbuffer()
        self._view[: len(prefix)] = prefix

    @property
    def body(self) -> memoryview:
        """Writable view of the body; release every array over it before `finish`."""
        return self._view[self._body_start :]

    def finish(self, identity: IdentityKey) -> bytes:
        """Sign the body and return the frame; the buffer is handed over without a copy."""
        round_digest, kind, sender = self._header
        with self.body as body:
            signature = identity.sign(signed_bytes(round_digest, kind, sender, body))
            prefix = _prefix(kind, round_digest, sender, signature, len(body))
        self._view[: len(prefix)] = prefix
        self._view.release()
        return self._file.getvalue()


def decode_frame(data: bytes, *, limit_bytes: int) -> Frame:
    """Parse an envelope; the body stays unparsed.

    Args:
        data: what arrived.
        limit_bytes: refuse anything longer before looking inside.

    Raises:
        MalformedMessage: too long, not a frame, foreign version, unknown kind, signed by the server
            or not by a client, or not the one encoding of its content.
    """
    if len(data) > limit_bytes:
        raise MalformedMessage(f"{len(data)} bytes exceed the limit of {limit_bytes}")
    try:
        frame = _FRAME_DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise MalformedMessage("not a frame of this protocol") from error
    if frame.version != VERSION:
        raise MalformedMessage(f"protocol version {frame.version}, this side speaks {VERSION}")
    if frame.kind not in _KINDS:
        raise MalformedMessage(f"unknown message kind {frame.kind}")
    if len(frame.signature) != (SIGNATURE_BYTES if frame.kind % 2 else 0):
        raise MalformedMessage(
            f"a signature of {len(frame.signature)} bytes; clients sign, the server does not"
        )
    prefix = _prefix(
        Kind(frame.kind),
        frame.round_digest,
        ClientId(frame.party),
        frame.signature,
        len(frame.body),
    )
    if data[: len(prefix)] != prefix or len(data) != len(prefix) + len(frame.body):
        raise MalformedMessage("the frame is not in canonical form")
    return frame


def decode_body(body: bytes | memoryview, expected: type[_BodyT]) -> _BodyT:
    """Parse a body of the type its kind prescribes.

    Raises:
        MalformedMessage: other fields, types or sizes, or not the one encoding of its content.
    """
    try:
        parsed = msgspec.msgpack.decode(body, type=expected)
    except msgspec.DecodeError as error:
        raise MalformedMessage(f"the body is no {expected.__name__}") from error
    if encode_body(parsed) != body:
        raise MalformedMessage(f"the {expected.__name__} body is not in canonical form")
    return parsed


def frame_limit_bytes(params: ProtocolParams, kind: Kind) -> int:
    """Most bytes a valid frame of this kind can have in this round."""
    clients = len(params.members)
    near = clients if params.degree is None else params.degree + 1
    bitmap = clients // 8 + _ITEM_OVERHEAD_BYTES
    item = {
        Kind.ADVERTISE_KEYS: 3 * (32 + 2),
        Kind.ROSTER: bitmap + 32 * clients + near * (3 * 34 + 66 + _ITEM_OVERHEAD_BYTES),
        Kind.SHARE_KEYS: 34 + near * (BOX_BYTES + _ITEM_OVERHEAD_BYTES),
        Kind.SHARE_DELIVERY: bitmap + near * (BOX_BYTES + _ITEM_OVERHEAD_BYTES),
        Kind.MASKED_INPUT: DIGEST_BYTES + params.vector_bytes,
        Kind.SURVIVORS: bitmap,
        Kind.CONSISTENCY_CHECK: 34,
        Kind.UNMASK_REQUEST: clients * (SIGNATURE_BYTES + _ITEM_OVERHEAD_BYTES),
        Kind.UNMASK: near * (35 + _ITEM_OVERHEAD_BYTES),
    }
    return _FRAME_OVERHEAD_BYTES + _ITEM_OVERHEAD_BYTES + item[kind]


def _prefix(
    kind: Kind, round_digest: bytes, party: ClientId, signature: bytes, body_bytes: int
) -> bytes:
    """Everything of a frame in front of the body's content."""
    empty = Frame(VERSION, kind, round_digest, party, signature, memoryview(b""))
    head = msgspec.msgpack.encode(empty)[:-2]
    if body_bytes < 1 << 8:
        return head + b"\xc4" + body_bytes.to_bytes(1, "big")
    if body_bytes < 1 << 16:
        return head + b"\xc5" + body_bytes.to_bytes(2, "big")
    return head + b"\xc6" + body_bytes.to_bytes(4, "big")


_FRAME_DECODER: Final = msgspec.msgpack.Decoder(Frame)
_KINDS: Final = frozenset({*BODY_TYPES, Kind.MASKED_INPUT})
