"""Messages with one field too many that nests deeper than an interpreter can follow."""

from __future__ import annotations

DEEP = b"\x91" * 5000 + b"\xc0"
"""A list in a list in a list, 5000 times."""


def with_a_deep_field(message: bytes) -> bytes:
    """An encoded message, DEEP behind its last field; its header must have room for one more."""
    assert 0x90 <= message[0] < 0x9F
    return bytes([message[0] + 1]) + message[1:] + DEEP
