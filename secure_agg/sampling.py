"""Uniform samples without replacement from secret bytes."""

from __future__ import annotations

from secure_agg.keys import draw
from secure_agg.types import Entropy


def uniform_below(bound: int, entropy: Entropy) -> int:
    """A number in 0..bound-1; its bias is below 2**-64 for bounds up to 2**64."""
    return int.from_bytes(draw(entropy, 16), "big") % bound


def sample_indices(count: int, size: int, entropy: Entropy) -> tuple[int, ...]:
    """`size` distinct indices out of range(count), ascending; all of them if size >= count.

    Nothing is drawn when the whole range is asked for.
    """
    if size >= count:
        return tuple(range(count))
    pool = list(range(count))
    for place in range(size):
        other = place + uniform_below(count - place, entropy)
        pool[place], pool[other] = pool[other], pool[place]
    return tuple(sorted(pool[:size]))
