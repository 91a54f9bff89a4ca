"""Every label of the protocol and the one way keys, digests and signed bytes are derived.

A label separates two uses of the same secret or hash; no two uses share one. Source of the key
derivation: HKDF-SHA256, RFC 5869.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PROTOCOL: Final = b"privfed secure_agg v1"
"""Name and version, in front of everything that is hashed, derived or signed."""

DIGEST_BYTES: Final = 32
KEY_BYTES: Final = 32


class Label(Enum):
    """What a derived value is for."""

    PARAMS = b"params"
    ADVERTISEMENT = b"advertisement"
    ROSTER = b"roster"
    GRAPH = b"graph"
    SHARING = b"sharing"
    STATEMENT = b"survivor statement"
    FRAME = b"frame signature"
    SELF_MASK_COMMITMENT = b"self mask commitment"
    SELF_MASK = b"self mask"
    PAIR_MASK = b"pair mask"
    SHARE_BOX = b"share box"
    ROTATION = b"rotation"


def u32(value: int) -> bytes:
    """Four bytes, big-endian; the only form in which ids and counts are hashed."""
    return value.to_bytes(4, "big")


def context(label: Label, *fields: bytes) -> bytes:
    """Unambiguous concatenation: protocol name, label, then each field with its length."""
    parts = [u32(len(part)) + part for part in (PROTOCOL, label.value, *fields)]
    return b"".join(parts)


def digest(label: Label, *fields: bytes) -> bytes:
    """SHA-256 of `context(label, *fields)`, 32 bytes."""
    return hashlib.sha256(context(label, *fields)).digest()


def derive_key(label: Label, secret: bytes, *fields: bytes) -> bytes:
    """HKDF-SHA256 with no salt and `context(label, *fields)` as info.

    Args:
        label: what the key is for.
        secret: input key material with at least 128 bits of entropy, e.g. an X25519 shared secret.
        fields: public values the key is bound to: round, parties, direction.

    Returns:
        32 bytes.
    """
    return HKDF(hashes.SHA256(), KEY_BYTES, None, context(label, *fields)).derive(secret)
