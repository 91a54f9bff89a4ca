"""The roster: who takes part in a deployment, agreed on by all parties before any run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from accounting.canonical import JSON, canonical_bytes
from privfed_dpo.config.loading import parse_mapping
from privfed_dpo.config.section import PositiveInt, Section
from privfed_dpo.data.partition import ClientShard, Partition, PartitionFacts
from privfed_dpo.errors import ConfigError

_Key = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Enrolled(Section):
    pairs: PositiveInt
    key: _Key


class _RosterFile(Section):
    coordinator: _Key
    clients: dict[str, _Enrolled] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Roster:
    """All parties' public facts. Clients are numbered in the order of their names.

    Attributes:
        coordinator: its Ed25519 key, 32 bytes.
        keys: clients' Ed25519 keys, 32 bytes each, by name, ascending.
        pairs: how many pairs each holds, by name.
    """

    coordinator: bytes
    keys: Mapping[str, bytes]
    pairs: Mapping[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        """Clients' names; a client's number is its place."""
        return tuple(self.keys)

    @property
    def by_number(self) -> dict[int, bytes]:
        """Clients' keys, by number."""
        return dict(enumerate(self.keys.values()))

    @property
    def digest(self) -> str:
        """SHA-256 over everything in the roster, hex: parties with equal digests agree."""
        return hashlib.sha256(
            canonical_bytes(self.public_facts() | {"pairs": self._pairs()})
        ).hexdigest()

    def public_facts(self) -> dict[str, JSON]:
        """What a ledger's header must hold so that a stranger can check all signatures."""
        return {
            "coordinator_key": self.coordinator.hex(),
            "roster": {name: key.hex() for name, key in self.keys.items()},
        }

    def partition(self, shards: Mapping[str, ClientShard]) -> Partition:
        """All clients, with the pairs of those whose shard is at hand."""
        held = self.pairs.values()
        return Partition(
            shards=tuple(shards.get(name, ClientShard(name, ())) for name in self.names),
            facts=PartitionFacts(
                kind="natural",
                clients=len(self.names),
                pairs_total=sum(held),
                pairs_min=min(held),
                pairs_max=max(held),
                dropped_clients=0,
                dropped_pairs=0,
            ),
        )

    def _pairs(self) -> dict[str, JSON]:
        return dict(self.pairs)


def load_roster(path: Path) -> Roster:
    """Read a roster file: `coordinator: KEY`, and `clients: {NAME: {pairs: N, key: KEY}}`.

    Raises:
        ConfigError: it cannot be read, or two parties share a key.
    """
    try:
        tree = parse_mapping(path.read_text(encoding="utf-8"), source=str(path))
        file = _RosterFile.model_validate(tree)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError((f"cannot read the roster {path}: {error}",)) from error
    except ValidationError as error:
        problems = tuple(
            f"{'.'.join(map(str, item['loc']))}: {item['msg'][0].lower()}{item['msg'][1:]}"
            for item in error.errors()
        )
        raise ConfigError(problems, advice=f"Correct {path}; see docs/deploy.md.") from error
    keys = [file.coordinator, *(client.key for client in file.clients.values())]
    if len(set(keys)) < len(keys):
        raise ConfigError((f"{path}: two parties have the same key",))
    ordered = sorted(file.clients.items())
    return Roster(
        coordinator=bytes.fromhex(file.coordinator),
        keys={name: bytes.fromhex(client.key) for name, client in ordered},
        pairs={name: client.pairs for name, client in ordered},
    )
