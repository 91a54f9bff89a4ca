"""Whole rounds in a few lines: cohorts with deterministic keys, and a driver with drop-outs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from secure_agg import (
    ClientId,
    ClientSession,
    Entropy,
    IdentityKey,
    Neighbourhood,
    Phase,
    ProtocolParams,
    ServerSession,
)

PHASES = tuple(Phase)
ROUND_ID = b"round-0001"


def entropy_from(seed: str) -> Entropy:
    """A reproducible stream of bytes: SHAKE-256 of the seed and a counter."""
    counter = 0

    def draw(length: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(f"{seed}/{counter}".encode()).digest(length)

    return draw


@dataclass
class Cohort:
    params: ProtocolParams
    identities: Mapping[ClientId, IdentityKey]
    seed: str = "cohort"

    def client(self, client: int, params: ProtocolParams | None = None) -> ClientSession:
        return ClientSession(
            params or self.params,
            client,
            self.identities[ClientId(client)],
            entropy_from(f"{self.seed}/session/{client}"),
        )

    def vectors(self) -> dict[ClientId, np.ndarray]:
        params = self.params
        rng = np.random.default_rng(int.from_bytes(params.digest[:8], "big"))
        high = (1 << params.modulus_bits) - 1
        return {
            client: rng.integers(
                0, high, size=params.vector_length, dtype=params.dtype, endpoint=True
            )
            for client in params.client_ids
        }


def make_cohort(
    ids: Iterable[int] | int,
    *,
    threshold: int,
    colluders: int = 0,
    vector_length: int = 7,
    modulus_bits: int = 32,
    neighbourhood: Neighbourhood | None = None,
    round_id: bytes = ROUND_ID,
    seed: str = "cohort",
) -> Cohort:
    clients = [ClientId(i) for i in (range(ids) if isinstance(ids, int) else ids)]
    identities = {
        client: IdentityKey.generate(entropy_from(f"{seed}/identity/{client}"))
        for client in clients
    }
    params = ProtocolParams(
        round_id,
        {client: identity.public for client, identity in identities.items()},
        threshold=threshold,
        colluders=colluders,
        vector_length=vector_length,
        modulus_bits=modulus_bits,
        neighbourhood=neighbourhood,
    )
    return Cohort(params, identities, seed)


@dataclass
class Round:
    """One honest round, phase by phase; `lost[phase]` are clients that vanish before replying."""

    cohort: Cohort
    lost: Mapping[Phase, Iterable[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server = ServerSession(self.cohort.params)
        self.clients = {c: self.cohort.client(c) for c in self.cohort.params.client_ids}
        self.vectors = self.cohort.vectors()
        self.requests: dict[Phase, Mapping[ClientId, bytes]] = {
            Phase.ADVERTISE_KEYS: dict.fromkeys(self.clients, b"")
        }
        self.replies: dict[Phase, dict[ClientId, bytes]] = {}
        self.gone: set[int] = set()

    def answer(self, client: ClientId, phase: Phase) -> bytes:
        session = self.clients[client]
        if phase is Phase.ADVERTISE_KEYS:
            return session.advertise()
        vector = self.vectors[client] if phase is Phase.MASKED_INPUT else None
        return session.handle(self.requests[phase][client], vector=vector)

    def collect(self, phase: Phase) -> None:
        """Let everyone who is still there answer, and hand the replies to the server."""
        self.gone |= set(self.lost.get(phase, ()))
        self.replies[phase] = {
            client: self.answer(client, phase)
            for client in self.requests[phase]
            if client not in self.gone
        }
        for client, reply in self.replies[phase].items():
            self.server.receive(client, reply)

    def close(self) -> None:
        phase = self.server.phase
        requests = self.server.close_phase()
        following = PHASES.index(phase) + 1
        if following < len(PHASES):
            self.requests[PHASES[following]] = requests

    def run(self, until: Phase | None = None) -> Round:
        """Run every phase before `until`, or the whole round."""
        for phase in PHASES:
            if phase is until:
                return self
            self.collect(phase)
            self.close()
        return self

    def expected_sum(self, survivors: Iterable[int]) -> np.ndarray:
        """The plain sum of the survivors, in Python integers, reduced once."""
        modulus = 1 << self.cohort.params.modulus_bits
        columns = zip(*(self.vectors[ClientId(c)].tolist() for c in survivors), strict=True)
        plain = [sum(column) % modulus for column in columns]
        return np.array(plain, dtype=self.cohort.params.dtype)
