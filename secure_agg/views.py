"""What all honest parties must see alike, as bytes that can be hashed and signed.

Sets of clients travel as bitmaps over the roster: bit i % 8 of byte i // 8 stands for the i-th
enrolled client in ascending order of ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from secure_agg.graph import Graph, derive_graph
from secure_agg.kdf import Label, digest, u32
from secure_agg.params import ProtocolParams
from secure_agg.types import ClientId


def bitmap_bytes(params: ProtocolParams) -> int:
    """Length of a bitmap over the roster."""
    return (len(params.members) + 7) // 8


def to_bitmap(params: ProtocolParams, clients: Iterable[ClientId]) -> bytes:
    """The set as a bitmap."""
    bits = 0
    for client in clients:
        bits |= 1 << params.index[client]
    return bits.to_bytes(bitmap_bytes(params), "little")


def from_bitmap(params: ProtocolParams, bitmap: bytes) -> tuple[ClientId, ...] | None:
    """The set as ascending ids; None if the length is wrong or a spare bit is set."""
    bits = int.from_bytes(bitmap, "little")
    if len(bitmap) != bitmap_bytes(params) or bits >> len(params.members):
        return None
    return tuple(client for client, place in params.index.items() if bits >> place & 1)


def advertisement_digest(params: ProtocolParams, client: ClientId, body: bytes) -> bytes:
    """What the roster says about one client's advertised keys, 32 bytes."""
    return digest(Label.ADVERTISEMENT, params.digest, u32(client), body)


def commit_self_mask(params: ProtocolParams, client: ClientId, secret: bytes) -> bytes:
    """Digest that binds `client` to a self-mask secret of 256 uniform bits and hides it."""
    return digest(Label.SELF_MASK_COMMITMENT, params.digest, u32(client), secret)


@dataclass(frozen=True, slots=True)
class RosterView:
    """The roster of a round as one party sees it.

    Attributes:
        digest: 32 bytes; two parties with equal digests see the same keys and the same graph.
        participants: clients with advertised keys, ascending.
        graph: neighbourhoods among them.
    """

    digest: bytes
    participants: tuple[ClientId, ...]
    graph: Graph


def roster_view(
    params: ProtocolParams, advertisement_digests: Mapping[ClientId, bytes]
) -> RosterView:
    """The view that follows from who advertised what.

    The graph's seed is the digest of everyone's fresh keys: nobody knows it before the last honest
    client has spoken, and whoever speaks later can only try again (`bounds` counts the tries).
    """
    participants = tuple(sorted(advertisement_digests))
    leaves = b"".join(advertisement_digests[client] for client in participants)
    seen = digest(Label.ROSTER, params.digest, to_bitmap(params, participants), leaves)
    return RosterView(seen, participants, derive_graph(seen, participants, params.degree))


def sharing_digest(params: ProtocolParams, view: RosterView, sharers: Iterable[ClientId]) -> bytes:
    """Digest of the roster and of the clients that shared keys, 32 bytes.

    It travels with every masked input: an input masked for another set would spoil the sum.
    """
    return digest(Label.SHARING, params.digest, view.digest, to_bitmap(params, sharers))


def survivor_statement(
    params: ProtocolParams, sharing: bytes, survivors: Iterable[ClientId]
) -> bytes:
    """What the survivors sign before anyone reveals, 32 bytes.

    It binds the roster, the clients that shared keys (both in `sharing`) and the clients whose
    input is summed, so a server cannot tell two honest clients different stories and have both
    confirmed.
    """
    return digest(Label.STATEMENT, params.digest, sharing, to_bitmap(params, survivors))
