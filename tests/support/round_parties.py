"""Clients with known vectors, so that the sum of any survivors is known bit for bit."""

from __future__ import annotations

import numpy as np

from privfed_dpo.engine.client import FederatedClient
from privfed_dpo.engine.drift_state import Departure
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import (
    COORDINATOR_KEY,
    DIMENSION,
    RUN_ID,
    fake_coordinator,
    fake_plan,
)


def small_plan(*, clients=5, secure=True):
    """A plan in local mode, where the sum may travel masked or in clear; one loss is tolerated."""
    return fake_plan(
        "privacy.mode=local",
        "privacy.dropout_tolerance=1",
        "privacy.colluders=0",
        f"secure_agg.enabled={str(secure).lower()}",
        clients=clients,
    )


class FixedContributor:
    """Contributes the same known steps in every round."""

    def __init__(self, plan, client):
        self.plan, self.client = plan, client
        rng = np.random.default_rng(client)
        self.steps = rng.integers(-(2**20), 2**20, size=plan.vector_length)

    def contribute(self, round_number, weights, correction=None):
        return self.steps


class Parties:
    """Clients and coordinator of one run; `plain_sum` is what a round over survivors must give."""

    def __init__(self, plan, *, seed="parties"):
        self.plan = plan
        entropy = counted_entropy(seed)
        count = len(plan.facts.client_names)
        identities = [IdentityKey.generate(entropy) for _ in range(count)]
        self.roster = {n: identity.public for n, identity in enumerate(identities)}
        self.contributors = [FixedContributor(plan, n) for n in range(count)]
        self.clients = {
            n: FederatedClient(
                contributor=self.contributors[n],
                run_id=RUN_ID,
                identity=identities[n],
                roster=self.roster,
                coordinator=COORDINATOR_KEY.public,
                entropy=entropy,
            )
            for n in range(count)
        }

    @property
    def handlers(self):
        return {n: client.handle for n, client in self.clients.items()}

    def script(self, round_number=1, observer=lambda _: None):
        coordinator = fake_coordinator(self.plan, self.roster, observer, round_number)
        return coordinator.script(Departure(np.zeros(DIMENSION, dtype=np.float32)))

    def plain_sum(self, survivors):
        total = sum(self.contributors[n].steps for n in survivors)
        return self.plan.grid().to_ring(np.asarray(total))
