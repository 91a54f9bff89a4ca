"""A real round in one process, with drop-outs, measured phase by phase.

Every message is built, sealed, signed, parsed and checked as between machines; only the network is
missing. Vectors come from a seeded generator, one at a time, so memory does not grow with clients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from secure_agg.bounds import NeighbourhoodPlan, plan_neighbourhood
from secure_agg.client_session import ClientSession
from secure_agg.errors import InvalidParams, RoundAborted
from secure_agg.keys import IdentityKey
from secure_agg.params import ProtocolParams
from secure_agg.phases import PHASES
from secure_agg.server_session import ServerSession
from secure_agg.types import ClientId, Entropy, Phase, RingVector


@dataclass(frozen=True, slots=True)
class PhaseStatistics:
    """What one phase cost.

    Attributes:
        phase: which one.
        requests: messages from the server.
        replies: messages from clients.
        download_bytes: size of all requests together.
        upload_bytes: size of all replies together.
        client_seconds: CPU time of all clients together.
        slowest_client_seconds: CPU time of the one that took longest.
        server_seconds: CPU time of the server: taking the replies and closing the phase.
        dropped: clients lost in this phase.
    """

    phase: Phase
    requests: int
    replies: int
    download_bytes: int
    upload_bytes: int
    client_seconds: float
    slowest_client_seconds: float
    server_seconds: float
    dropped: int


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """One rehearsed round.

    Attributes:
        plan: graph and threshold, with the bounds they were computed for.
        dimension: words per vector.
        modulus_bits: bits per word.
        phases: one entry per phase that was opened, in order.
        survivors: clients in the sum.
        exact: the sum equals the plain sum of the survivors, bit for bit; False if aborted.
        aborted: why there is no sum, or an empty string.
    """

    plan: NeighbourhoodPlan
    dimension: int
    modulus_bits: int
    phases: tuple[PhaseStatistics, ...]
    survivors: int
    exact: bool
    aborted: str

    @property
    def seconds(self) -> float:
        """CPU time of everybody together."""
        return sum(row.client_seconds + row.server_seconds for row in self.phases)


def rehearse(
    *,
    clients: int,
    dimension: int,
    dropout_share: float = 0.0,
    drop_phase: Phase | None = None,
    colluder_share: float = 0.05,
    modulus_bits: int = 32,
    threads: int = 1,
    seed: int = 0,
    clock: Callable[[], float],
) -> Rehearsal:
    """Run one round and measure it.

    Args:
        clients: cohort size, at least 3.
        dimension: words per vector.
        dropout_share: share of the clients that vanish, rounded down; the plan tolerates as many.
        drop_phase: the phase before whose reply they vanish; None spreads them over all five.
        colluder_share: share of the clients the graph is safe against, rounded down.
        modulus_bits: 16, 32 or 64.
        threads: coordinate ranges worked on at the same time, by each client and by the server.
        seed: decides vectors, keys and who drops out. The keys of a rehearsal protect nothing.
        clock: seconds; `time.process_time` for CPU time.

    Raises:
        InvalidParams: no safe round has these numbers.
    """
    if not 0 <= dropout_share < 1 or not 0 <= colluder_share < 1:
        raise InvalidParams("shares must lie in [0, 1)")
    if threads < 1 or seed < 0:
        raise InvalidParams(f"threads is {threads}, at least 1; seed is {seed}, not negative")
    plan = plan_neighbourhood(
        clients=clients,
        max_dropped=int(clients * dropout_share),
        colluders=int(clients * colluder_share),
    )
    identities = {
        ClientId(number): IdentityKey.generate(_stream(f"{seed}/identity/{number}"))
        for number in range(clients)
    }
    params = ProtocolParams(
        hashlib.sha256(f"rehearsal {seed}".encode()).digest(),
        {number: identity.public for number, identity in identities.items()},
        threshold=plan.threshold,
        colluders=plan.colluders,
        vector_length=dimension,
        modulus_bits=modulus_bits,
        neighbourhood=plan.neighbourhood,
    )
    stage = _Stage(params, identities, seed, threads, clock)
    lost = _choose_lost(clients, plan.max_dropped, drop_phase, seed)
    return stage.play(plan, lost)


class _Stage:
    """The actors of one rehearsal and the carrier between them."""

    def __init__(
        self,
        params: ProtocolParams,
        identities: Mapping[ClientId, IdentityKey],
        seed: int,
        threads: int,
        clock: Callable[[], float],
    ) -> None:
        self.params = params
        self.seed = seed
        self.clock = clock
        self.server = ServerSession(params, threads=threads)
        self.sessions = {
            client: ClientSession(
                params, client, identity, _stream(f"{seed}/session/{client}"), threads=threads
            )
            for client, identity in identities.items()
        }
        self.plain = np.zeros(params.vector_length, dtype=params.dtype)

    def play(self, plan: NeighbourhoodPlan, lost: Mapping[ClientId, Phase]) -> Rehearsal:
        requests: Mapping[ClientId, bytes] = dict.fromkeys(self.sessions, b"")
        rows: list[PhaseStatistics] = []
        aborted = ""
        for phase in PHASES:
            requests, row, aborted = self.exchange(phase, requests, lost)
            rows.append(row)
            if aborted:
                break
        exact = not aborted and bool(np.array_equal(self.server.result.total, self.plain))
        return Rehearsal(
            plan,
            self.params.vector_length,
            self.params.modulus_bits,
            tuple(rows),
            0 if aborted else len(self.server.result.survivors),
            exact,
            aborted,
        )

    def exchange(
        self, phase: Phase, requests: Mapping[ClientId, bytes], lost: Mapping[ClientId, Phase]
    ) -> tuple[Mapping[ClientId, bytes], PhaseStatistics, str]:
        upload_bytes = 0
        client_seconds: list[float] = []
        server_seconds = 0.0
        for client, request in requests.items():
            if lost.get(client) is phase:
                continue
            vector = self.vector(client) if phase is Phase.MASKED_INPUT else None
            started = self.clock()
            session = self.sessions[client]
            reply = session.handle(request, vector=vector) if request else session.advertise()
            client_seconds.append(self.clock() - started)
            upload_bytes += len(reply)
            started = self.clock()
            self.server.receive(client, reply)
            server_seconds += self.clock() - started
            if vector is not None:
                np.add(self.plain, vector, out=self.plain)
        aborted = ""
        following: Mapping[ClientId, bytes] = {}
        started = self.clock()
        try:
            following = self.server.close_phase()
        except RoundAborted as error:
            aborted = str(error)
        server_seconds += self.clock() - started
        row = PhaseStatistics(
            phase=phase,
            requests=sum(map(bool, requests.values())),
            replies=len(client_seconds),
            download_bytes=sum(map(len, requests.values())),
            upload_bytes=upload_bytes,
            client_seconds=sum(client_seconds),
            slowest_client_seconds=max(client_seconds, default=0.0),
            server_seconds=server_seconds,
            dropped=len(requests) - len(client_seconds),
        )
        return following, row, aborted

    def vector(self, client: ClientId) -> RingVector:
        """The input of one client; made when it is needed and forgotten afterwards."""
        words = np.random.default_rng((self.seed, client)).bytes(self.params.vector_bytes)
        return np.frombuffer(words, dtype=self.params.dtype)


def _stream(name: str) -> Entropy:
    """Reproducible bytes for a rehearsal: SHAKE-256 of the name and a counter."""
    drawn = 0

    def entropy(length_bytes: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_256(f"rehearsal/{name}/{drawn}".encode()).digest(length_bytes)

    return entropy


def _choose_lost(
    clients: int, count: int, drop_phase: Phase | None, seed: int
) -> dict[ClientId, Phase]:
    generator = np.random.default_rng((seed, clients))
    chosen = generator.choice(clients, size=count, replace=False)
    return {
        ClientId(int(client)): drop_phase or PHASES[place % len(PHASES)]
        for place, client in enumerate(chosen)
    }
