"""What travels between coordinator and client around the opaque protocol bytes."""

from __future__ import annotations

from typing import TypeVar

import msgspec

WIRE_VERSION = 2
MAX_ENVELOPE_BYTES = 1 << 31

START = "Start"
PLAIN_INPUT = "PlainInput"


class MalformedEnvelope(ValueError):
    """Bytes that are not a canonical message of this version."""


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A MessagePack array of exactly the declared fields, in order.

    A field too many is refused unread: to skip it would mean to follow it as deep as it is nested.
    """


class SignedReceipt(Message, frozen=True):
    """A client's signature on a round it finished; see `accounting.receipts`.

    Attributes:
        participation: the client's own count of rounds, this one included.
        signature: 64 bytes, by the client's identity key.
    """

    participation: int
    signature: bytes


class Envelope(Message, frozen=True, tag=1):
    """One message in either direction.

    Attributes:
        version: wire version; another one is refused.
        run_id: 16 random bytes that name the run.
        round: training round, from 1.
        step: "Start", "PlainInput" or the name of a secure-aggregation phase.
        sender: client number, or -1 for the coordinator.
        payload: bytes of the step; opaque to the carrier.
        receipt: with the last reply of a round, what the client vouches for.
    """

    version: int
    run_id: bytes
    round: int
    step: str
    sender: int
    payload: bytes
    receipt: SignedReceipt | None = None


class ControlStart(Message, frozen=True, tag=3):
    """What an invitation adds for SCAFFOLD.

    Attributes:
        values: the mean control variate c, float32 little-endian, shape [d].
        counted: for each client of the cohort, the last round whose opened sum holds it; 0 if none.
    """

    values: bytes
    counted: tuple[int, ...]


class RoundStart(Message, frozen=True, tag=2):
    """The coordinator's invitation to a round.

    Attributes:
        plan_hash: 32 bytes; a client that holds another plan refuses.
        cohort: client numbers invited, ascending.
        weights: adapter to set out from, float32 little-endian, shape [d].
        adapters: SHA-256 of every adapter that a client of the round sets out from, by its age in
            rounds, the fresh one first; empty bytes for an age that no client has.
        signature: the coordinator's, see `invitations`.
        control: for SCAFFOLD.
    """

    plan_hash: bytes
    cohort: tuple[int, ...]
    weights: bytes
    adapters: tuple[bytes, ...]
    signature: bytes
    control: ControlStart | None = None


COORDINATOR = -1
_Message = TypeVar("_Message", bound=msgspec.Struct)


def encode(message: msgspec.Struct) -> bytes:
    """Return the canonical MessagePack bytes of a message."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes, kind: type[_Message]) -> _Message:
    """Read a message strictly.

    Raises:
        MalformedEnvelope: wrong type, too long, nested too deeply, or not in canonical form.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MalformedEnvelope(f"{len(data)} bytes is above the limit of {MAX_ENVELOPE_BYTES}")
    try:
        message = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEnvelope(f"not a {kind.__name__}: {error}") from error
    if encode(message) != data:
        raise MalformedEnvelope(f"a {kind.__name__} in non-canonical form")
    return message


def decode_envelope(data: bytes) -> Envelope:
    """Read an envelope strictly.

    Raises:
        MalformedEnvelope: wrong type or version, too long, or not in canonical form.
    """
    envelope = decode(data, Envelope)
    if envelope.version != WIRE_VERSION:
        raise MalformedEnvelope(f"wire version {envelope.version}, this side speaks {WIRE_VERSION}")
    return envelope
