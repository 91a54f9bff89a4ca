"""Who signs what in a run: the coordinator's key and the roster of the clients' identities.

In a deployment every party keeps its own key. A simulated run holds all of them in one process; so
that an interrupted run goes on under the same roster they lie in a file only its owner can read,
until the run ends and the file is removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accounting.canonical import JSON
from privfed_dpo.durable import write_new_secret
from privfed_dpo.errors import ResumeMismatch
from privfed_dpo.mechanism.keystream import Entropy
from secure_agg import AuthenticationFailed, IdentityKey, verify_signature

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Enrolment:
    """All signing keys of a simulated run. Secret.

    Attributes:
        coordinator: signs every line of the ledger.
        identities: clients' keys, by number.
    """

    coordinator: IdentityKey = field(repr=False)
    identities: tuple[IdentityKey, ...] = field(repr=False)

    @classmethod
    def draw(cls, clients: int, entropy: Entropy) -> Enrolment:
        """Make fresh keys for the coordinator and for `clients` clients."""
        return cls(
            coordinator=IdentityKey.generate(entropy),
            identities=tuple(IdentityKey.generate(entropy) for _ in range(clients)),
        )

    @property
    def roster(self) -> dict[int, bytes]:
        """Public identity keys, by client number."""
        return {number: identity.public for number, identity in enumerate(self.identities)}

    def save(self, path: Path) -> None:
        """Write all keys to a new file that only its owner can read."""
        keys = [self.coordinator, *self.identities]
        write_new_secret(path, b"".join(key.private_bytes() for key in keys))

    @classmethod
    def load(cls, path: Path, clients: int) -> Enrolment:
        """Read the keys of an interrupted run.

        Raises:
            ResumeMismatch: the file is missing or does not hold the keys of `clients` clients.
        """
        content = path.read_bytes() if path.is_file() else b""
        expected = KEY_BYTES * (clients + 1)
        if len(content) != expected:
            raise ResumeMismatch(
                "the key file", expected=f"{path}, {expected} bytes", found=f"{len(content)} bytes"
            )
        keys = [
            IdentityKey.from_private_bytes(content[start : start + KEY_BYTES])
            for start in range(0, expected, KEY_BYTES)
        ]
        return cls(coordinator=keys[0], identities=tuple(keys[1:]))

    def public_facts(self, client_names: Sequence[str]) -> dict[str, JSON]:
        """What a ledger's header must hold so that a stranger can check all signatures."""
        names = zip(client_names, self.identities, strict=True)
        return {
            "coordinator_key": self.coordinator.public.hex(),
            "roster": {name: identity.public.hex() for name, identity in names},
        }


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """The keys a ledger's header names.

    Attributes:
        coordinator: who signs the lines, 32 bytes.
        roster: who signs receipts, by client name.
    """

    coordinator: bytes
    roster: Mapping[str, bytes]

    @classmethod
    def of_header(cls, extra: Mapping[str, object]) -> PublicKeys:
        """Read the keys from a header's extra facts.

        Raises:
            ValueError: there are none, or they are malformed.
        """
        coordinator, roster = extra.get("coordinator_key"), extra.get("roster")
        if not isinstance(coordinator, str) or not isinstance(roster, Mapping):
            raise ValueError("the ledger's header names no signing keys")  # noqa: TRY004
        keys = {str(name): bytes.fromhex(str(key)) for name, key in roster.items()}
        return cls(bytes.fromhex(coordinator), keys)

    def signed_line(self, message: bytes, signature: bytes) -> bool:
        """Whether the coordinator signed a ledger line."""
        return signed_by(self.coordinator, message, signature)

    def signed_receipt(self, client: str, message: bytes, signature: bytes) -> bool:
        """Whether the client enrolled under this name signed a receipt."""
        return client in self.roster and signed_by(self.roster[client], message, signature)


def signed_by(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of an Ed25519 key signed this message."""
    try:
        verify_signature(public, message, signature)
    except (AuthenticationFailed, ValueError):
        return False
    return True
