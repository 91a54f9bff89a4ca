"""Opaque bytes as Flower records: one array, which Flower sends in chunks however long it is."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

ACTION = "carry"
MESSAGE_TYPE = f"query.{ACTION}"
_VERSION = b"\x01"
_DATA, _REFUSED = "privfed", "refused"
_STYPE = "privfed-bytes"


class NotOurs(ValueError):
    """Records that no shim of this version made."""


def to_records(data: bytes) -> RecordDict:
    """Wrap bytes."""
    body = _VERSION + data
    array = Array(dtype="uint8", shape=(len(body),), stype=_STYPE, data=body)
    return RecordDict({_DATA: ArrayRecord({_DATA: array})})


def to_refusal(reason: str) -> RecordDict:
    """Wrap the reason for which there is no answer."""
    return RecordDict({_REFUSED: ConfigRecord({"reason": reason})})


def from_records(records: RecordDict) -> bytes:
    """Unwrap bytes.

    Raises:
        NotOurs: something else, another version, or a refusal; says which.
    """
    refused = records.config_records.get(_REFUSED)
    if refused is not None:
        raise NotOurs(str(refused.get("reason", "refused without a reason")))
    record = records.array_records.get(_DATA)
    if record is None or set(record) != {_DATA}:
        raise NotOurs("a message without our bytes")
    body = record[_DATA].data
    if body[:1] != _VERSION:
        raise NotOurs("a message of another version")
    return bytes(body[1:])
