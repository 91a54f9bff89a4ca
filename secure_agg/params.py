"""One frozen set of parameters per round; every participant must hold the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import DTypeLike

from secure_agg.errors import InvalidParams
from secure_agg.kdf import DIGEST_BYTES, Label, digest, u32
from secure_agg.keys import PUBLIC_KEY_BYTES
from secure_agg.types import ClientId

MAX_CLIENTS: Final = 1 << 14
MAX_CLIENT_ID: Final = (1 << 32) - 1
MAX_VECTOR_LENGTH: Final = (1 << 31) - 1
# A masked input is one MessagePack byte string, its 32-byte digest in front of the vector.
MAX_VECTOR_BYTES: Final = (1 << 32) - 1 - DIGEST_BYTES
ROUND_ID_BYTES: Final = (8, 64)
WORD_DTYPES: Final[Mapping[int, type[np.unsignedinteger]]] = MappingProxyType(
    {16: np.uint16, 32: np.uint32, 64: np.uint64}
)


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The sparse graph of a large cohort; `bounds.plan_neighbourhood` computes these numbers.

    Attributes:
        degree: neighbours per client, even; masks and shares go to them only.
        share_threshold: shares that restore a secret, out of degree + 1 (the owner keeps one).
        signature_quorum: survivors' signatures a client must be shown before it reveals.
        signature_checks: how many of those each client verifies, picked by its own randomness.
    """

    degree: int
    share_threshold: int
    signature_quorum: int
    signature_checks: int


@dataclass(frozen=True, slots=True)
class ProtocolParams:
    """Everything public that a round depends on.

    The caller ensures that `round_id` is new for every run and round, that the roster is the one
    fixed at enrolment, and that no client takes part twice with the same `round_id`.

    Attributes:
        round_id: 8 to 64 bytes, bound into every signature and key.
        roster: client ids with their Ed25519 public keys (32 bytes), as a mapping or as pairs;
            kept as ascending pairs, here and in `members`.
        threshold: contributions that every sum is sure to hold, those of colluders included;
            with fewer survivors than `quorum` (the same number in the complete graph) the round
            aborts.
        colluders: clients that may work with the server.
        vector_length: words per vector.
        modulus_bits: word size, 16, 32 or 64; sums are modulo 2**modulus_bits.
        neighbourhood: None for the complete graph.

    Raises:
        InvalidParams: some combination is unsafe or impossible; all problems at once.

    Guarantee: `2 * threshold > len(members) + colluders`, so that no two survivor sets can both be
    signed by enough clients; at least two honest clients stand in every sum.
    """

    round_id: bytes
    roster: Mapping[int, bytes] | Mapping[ClientId, bytes] | Iterable[tuple[int, bytes]] = field(
        repr=False
    )
    threshold: int
    colluders: int
    vector_length: int
    modulus_bits: int
    neighbourhood: Neighbourhood | None = None
    members: tuple[tuple[ClientId, bytes], ...] = field(init=False, repr=False, compare=False)
    index: Mapping[ClientId, int] = field(init=False, repr=False, compare=False)
    digest: bytes = field(init=False, compare=False)

    def __post_init__(self) -> None:
        pairs = self.roster.items() if isinstance(self.roster, Mapping) else self.roster
        members = tuple(sorted((ClientId(client), bytes(key)) for client, key in pairs))
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "roster", members)
        index = {client: place for place, (client, _) in enumerate(members)}
        object.__setattr__(self, "index", MappingProxyType(index))
        problems = [*_roster_problems(self), *_size_problems(self), *_graph_problems(self)]
        if problems:
            raise InvalidParams(*problems)
        object.__setattr__(self, "digest", _digest(self))

    @property
    def client_ids(self) -> tuple[ClientId, ...]:
        """All enrolled ids of this cohort, ascending."""
        return tuple(self.index)

    @property
    def dtype(self) -> DTypeLike:
        """Numpy type of a word."""
        return WORD_DTYPES[self.modulus_bits]

    @property
    def vector_bytes(self) -> int:
        """Size of one vector."""
        return self.vector_length * self.modulus_bits // 8

    @property
    def degree(self) -> int | None:
        """Neighbours per client; None for the complete graph."""
        return None if self.neighbourhood is None else self.neighbourhood.degree

    @property
    def share_threshold(self) -> int:
        """Shares that restore a secret."""
        near = self.neighbourhood
        return self.threshold if near is None else near.share_threshold

    @property
    def quorum(self) -> int:
        """Clients without whom no phase is closed; also the signatures shown before a reveal.

        It equals `threshold` where every signature is checked, and is a little above it where each
        client checks a sample only.
        """
        near = self.neighbourhood
        return self.threshold if near is None else near.signature_quorum

    def identity_of(self, client: ClientId) -> bytes:
        """Ed25519 public key of an enrolled client, 32 bytes."""
        return self.members[self.index[client]][1]


def _roster_problems(params: ProtocolParams) -> Iterable[str]:
    count = len(params.members)
    low, high = ROUND_ID_BYTES
    if not low <= len(params.round_id) <= high:
        yield f"round_id has {len(params.round_id)} bytes, not {low} to {high}"
    if not 1 < count <= MAX_CLIENTS:
        yield f"the roster has {count} clients, not 2 to {MAX_CLIENTS}"
    if len(params.index) != count:
        yield "a client id stands twice in the roster"
    if any(not 0 <= client <= MAX_CLIENT_ID for client in params.index):
        yield f"client ids must lie in 0..{MAX_CLIENT_ID}"
    if any(len(key) != PUBLIC_KEY_BYTES for _, key in params.members):
        yield f"an identity key does not have {PUBLIC_KEY_BYTES} bytes"
    if len({key for _, key in params.members}) != count:
        yield "two clients share an identity key"


def _size_problems(params: ProtocolParams) -> Iterable[str]:
    count, threshold, colluders = len(params.members), params.threshold, params.colluders
    if params.modulus_bits not in WORD_DTYPES:
        yield f"modulus_bits is {params.modulus_bits}, not one of {sorted(WORD_DTYPES)}"
    if not 0 < params.vector_length <= MAX_VECTOR_LENGTH:
        yield f"vector_length is {params.vector_length}, not 1 to {MAX_VECTOR_LENGTH}"
    if params.vector_bytes > MAX_VECTOR_BYTES:
        yield f"a vector of {params.vector_bytes} bytes exceeds {MAX_VECTOR_BYTES}: split it"
    if colluders < 0:
        yield f"colluders is {colluders}, below 0"
    if threshold > count:
        yield f"threshold {threshold} exceeds the {count} clients"
    if 2 * threshold <= count + colluders:
        yield (
            f"2 * threshold = {2 * threshold} must exceed clients + colluders = "
            f"{count + colluders}, or two survivor sets could both be signed"
        )
    if threshold < colluders + 2:
        yield f"threshold {threshold} leaves fewer than 2 honest clients among {colluders} others"


def _graph_problems(params: ProtocolParams) -> Iterable[str]:
    near = params.neighbourhood
    if near is None:
        return
    threshold, count = params.threshold, len(params.members)
    if near.degree < 2 or near.degree % 2:  # noqa: PLR2004
        yield f"degree is {near.degree}, not an even number of at least 2"
    if near.degree + 1 >= threshold:
        yield f"degree {near.degree} reaches the threshold {threshold}: use the complete graph"
    if not near.degree // 2 + 2 <= near.share_threshold <= near.degree + 1:
        yield (
            f"share_threshold is {near.share_threshold}, not degree/2 + 2 = "
            f"{near.degree // 2 + 2} to degree + 1 = {near.degree + 1}"
        )
    if not threshold <= near.signature_quorum <= count:
        yield f"signature_quorum is {near.signature_quorum}, not threshold to clients"
    if not 0 < near.signature_checks <= count:
        yield f"signature_checks is {near.signature_checks}, not 1 to clients"


def _digest(params: ProtocolParams) -> bytes:
    near = params.neighbourhood or Neighbourhood(0, 0, 0, 0)
    numbers = (
        params.threshold,
        params.colluders,
        params.vector_length,
        params.modulus_bits,
        near.degree,
        near.share_threshold,
        near.signature_quorum,
        near.signature_checks,
    )
    roster = b"".join(u32(client) + key for client, key in params.members)
    return digest(Label.PARAMS, params.round_id, roster, b"".join(map(u32, numbers)))
