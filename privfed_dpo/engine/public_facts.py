"""What everybody may know of a federation before it trains, and how such facts are hashed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublicFacts:
    """What everybody may know before training starts; none of it depends on a pair's content.

    Attributes:
        client_names: enrolled clients, in a fixed order; a client's number is its place.
        client_pairs: pairs each client holds. Sizes are public under zero-out adjacency.
        dimension: length d of the flat adapter.
        model_fingerprint: hash over base model, tokenizer and adapter layout.
        model_bytes: memory of the base weights.
        links: without a server, who averages with whom, where a file says so.
    """

    client_names: tuple[str, ...]
    client_pairs: tuple[int, ...]
    dimension: int
    model_fingerprint: str
    model_bytes: int
    links: tuple[tuple[int, int], ...] = ()

    @property
    def pairs_total(self) -> int:
        """All training pairs."""
        return sum(self.client_pairs)


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal facts give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: object) -> str:
    """SHA-256 of a value's canonical JSON, hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
