"""Who shares masks and secrets with whom: the complete graph, or a ring of random order.

The sparse graph is the Harary graph on a random ring: every client is joined to the degree/2 next
on either side. Every party derives it from the agreed roster, so no party chooses it.
Source: Bell, Bonawitz, Gascón, Lepoint, Raykova (CCS 2020), section 3.1 and appendix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from secure_agg.kdf import Label, digest, u32
from secure_agg.types import ClientId


@dataclass(frozen=True, slots=True)
class Graph:
    """Neighbourhoods of one round.

    Attributes:
        ring: all participants in ring order; ascending ids for the complete graph.
        degree: neighbours per client; None for the complete graph.
        position: place of each participant in `ring`.
    """

    ring: tuple[ClientId, ...]
    degree: int | None
    position: Mapping[ClientId, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = {client: place for place, client in enumerate(self.ring)}
        object.__setattr__(self, "position", MappingProxyType(places))

    def neighbours(self, client: ClientId) -> tuple[ClientId, ...]:
        """Neighbours of `client`, ascending, without itself."""
        if self.degree is None:
            return tuple(other for other in self.ring if other != client)
        count, place = len(self.ring), self.position[client]
        steps = range(1, self.degree // 2 + 1)
        around = {self.ring[(place + sign * step) % count] for step in steps for sign in (1, -1)}
        return tuple(sorted(around - {client}))

    def holders(self, owner: ClientId) -> tuple[ClientId, ...]:
        """Who holds a share of `owner`'s secrets: its neighbours and itself, ascending.

        The share of the i-th holder (from 0) is the polynomial's value at i + 1.
        """
        return tuple(sorted((*self.neighbours(owner), owner)))


@lru_cache(maxsize=4)
def derive_graph(seed: bytes, participants: tuple[ClientId, ...], degree: int | None) -> Graph:
    """The graph that `seed` gives on `participants`.

    Args:
        seed: 32-byte digest of the roster with everyone's fresh keys.
        participants: ids, ascending.
        degree: even, below len(participants) - 1; None for the complete graph.

    Returns:
        The same graph for the same arguments, everywhere.
    """
    if degree is None:
        return Graph(participants, None)
    rank = {client: digest(Label.GRAPH, seed, u32(client)) for client in participants}
    return Graph(tuple(sorted(participants, key=rank.__getitem__)), degree)
