"""Deterministic stand-ins for the operating system's randomness, for tests only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable


def counted_entropy(seed: str) -> Callable[[int], bytes]:
    """Bytes that depend only on `seed` and on how often the source was asked."""
    calls = 0

    def draw(count: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(count)

    return draw
