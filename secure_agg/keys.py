"""Long-lived Ed25519 identities and the two X25519 keys a client makes for each round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from secure_agg.errors import AuthenticationFailed, LocalProtocolError
from secure_agg.types import Culprit, Entropy, Phase

PUBLIC_KEY_BYTES: Final = 32
PRIVATE_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_FIELD_ORDER: Final = 2**255 - 19


def draw(entropy: Entropy, length_bytes: int) -> bytes:
    """Take exactly `length_bytes` from `entropy`.

    Raises:
        LocalProtocolError: the source returned another number of bytes.
    """
    drawn = entropy(length_bytes)
    if len(drawn) != length_bytes:
        raise LocalProtocolError(
            f"the entropy source gave {len(drawn)} bytes instead of {length_bytes}"
        )
    return drawn


@dataclass(frozen=True, slots=True, eq=False)
class IdentityKey:
    """A client's long-lived signing key; `repr` shows only the public half.

    Guarantee: the caller keeps the private bytes secret and enrols `public` with everyone before
    the first round; then nobody else can speak for this client.
    Source: Ed25519, RFC 8032.
    """

    _private: Ed25519PrivateKey = field(repr=False)
    public: bytes

    @classmethod
    def generate(cls, entropy: Entropy) -> Self:
        """Make a new identity from 32 secret bytes of `entropy`."""
        return cls.from_private_bytes(draw(entropy, PRIVATE_KEY_BYTES))

    @classmethod
    def from_private_bytes(cls, private: bytes) -> Self:
        """Load an identity from its 32 private bytes.

        Raises:
            LocalProtocolError: not 32 bytes.
        """
        if len(private) != PRIVATE_KEY_BYTES:
            raise LocalProtocolError(f"an Ed25519 private key has {PRIVATE_KEY_BYTES} bytes")
        key = Ed25519PrivateKey.from_private_bytes(private)
        return cls(key, key.public_key().public_bytes_raw())

    def private_bytes(self) -> bytes:
        """The 32 secret bytes, for storage by the owner; never send or log them."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Sign `message`; returns 64 bytes."""
        return self._private.sign(message)


def verify_signature(
    public: bytes,
    message: bytes,
    signature: bytes,
    *,
    culprits: tuple[Culprit, ...] = (),
    phase: Phase | None = None,
    detail: str = "the signature does not verify",
) -> None:
    """Return only if `signature` on `message` is by the owner of `public`.

    Args:
        public: Ed25519 public key, 32 bytes.
        message: the signed bytes.
        signature: 64 bytes.
        culprits: whom the error names.
        phase: phase the error names.
        detail: what the error says.

    Raises:
        AuthenticationFailed: it is not, or the key or the signature is malformed.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise AuthenticationFailed(detail, culprits=culprits, phase=phase) from error


@dataclass(frozen=True, slots=True, eq=False)
class AgreementKey:
    """One X25519 key pair of one round; `repr` shows only the public half.

    Source: X25519, RFC 7748.
    """

    _private: X25519PrivateKey = field(repr=False)
    public: bytes

    @classmethod
    def generate(cls, entropy: Entropy) -> Self:
        """Make a fresh pair from 32 secret bytes of `entropy`."""
        return cls.from_private_bytes(draw(entropy, PRIVATE_KEY_BYTES))

    @classmethod
    def from_private_bytes(cls, private: bytes) -> Self:
        """Load a pair from its 32 private bytes (a recovered masking key)."""
        key = X25519PrivateKey.from_private_bytes(private)
        return cls(key, key.public_key().public_bytes_raw())

    def private_bytes(self) -> bytes:
        """The 32 secret bytes; they leave the client only as Shamir shares."""
        return self._private.private_bytes_raw()

    def agree(self, peer_public: bytes) -> bytes:
        """Shared 32-byte secret with the owner of `peer_public`.

        Raises:
            AuthenticationFailed: the peer's key has low order, so the secret would be known to all.
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            raise AuthenticationFailed("the peer's X25519 key is degenerate") from error


def is_canonical(public: bytes) -> bool:
    """Whether an X25519 public key is the one encoding of its coordinate (RFC 7748, section 5).

    X25519 ignores the highest bit and reduces the rest, so that a key has a second spelling, which
    would pass for a key that nobody has advertised.
    """
    return int.from_bytes(public, "little") < _FIELD_ORDER


def is_degenerate(public: bytes) -> bool:
    """Whether an X25519 public key has low order, so that everyone knows what it agrees on."""
    probe = X25519PrivateKey.from_private_bytes(bytes(PRIVATE_KEY_BYTES))
    try:
        probe.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return True
    return False
