"""Rounds in process whose steps are timed one by one."""

from __future__ import annotations

import os
import time

import numpy as np

from secure_agg import (
    ClientId,
    ClientSession,
    IdentityKey,
    Neighbourhood,
    Phase,
    ProtocolParams,
    ServerSession,
)


class TimedRound:
    """One round; `seconds` holds the CPU time of every client in every phase."""

    def __init__(self, params: ProtocolParams, identities: dict[ClientId, IdentityKey]) -> None:
        self.params = params
        self.server = ServerSession(params)
        self.clients = {
            client: ClientSession(params, client, identity, os.urandom)
            for client, identity in identities.items()
        }
        self.requests = dict.fromkeys(self.clients, b"")
        self.seconds: dict[Phase, list[float]] = {}

    def play(self, vector: np.ndarray, until: Phase | None, lost: frozenset[int]) -> None:
        """Run all phases before `until`; `lost` vanish before their masked input."""
        while (phase := self.server.phase) is not until and phase is not None:
            self.seconds[phase] = []
            for client, request in self.requests.items():
                if phase is Phase.MASKED_INPUT and client in lost:
                    continue
                words = vector if phase is Phase.MASKED_INPUT else None
                started = time.process_time()
                session = self.clients[client]
                reply = session.handle(request, vector=words) if request else session.advertise()
                self.seconds[phase].append(time.process_time() - started)
                self.server.receive(client, reply)
            if phase is not Phase.UNMASK or until is not Phase.UNMASK:
                self.requests = dict(self.server.close_phase())


def enrol(
    clients: int, threshold: int, dimension: int, bits: int, near: Neighbourhood | None = None
) -> TimedRound:
    """A cohort with fresh keys."""
    identities = {ClientId(c): IdentityKey.generate(os.urandom) for c in range(clients)}
    params = ProtocolParams(
        os.urandom(16),
        {client: identity.public for client, identity in identities.items()},
        threshold=threshold,
        colluders=0,
        vector_length=dimension,
        modulus_bits=bits,
        neighbourhood=near,
    )
    return TimedRound(params, identities)
