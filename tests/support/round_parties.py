"""One round's parties without a model: clients with known vectors, and their coordinator."""

from __future__ import annotations

import numpy as np

from privfed_dpo.config import parse_config
from privfed_dpo.engine.client import FederatedClient
from privfed_dpo.engine.plan import PublicFacts
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.engine.rounds import RoundCoordinator
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy

RUN_ID = b"contract-run-id!"
DIMENSION = 12


def small_plan(*, clients=5, secure=True, tolerance=1):
    """A plan in local mode, where the sum may travel masked or in clear."""
    config = parse_config(
        f"privacy: {{mode: local, noise_multiplier: 1.0, dropout_tolerance: {tolerance}}}\n"
        f"secure_agg: {{enabled: {str(secure).lower()}}}\n"
        f"data: {{clients: {clients}}}\n"
        "federation: {rounds: 3, local_steps: 2}\n"
    )
    facts = PublicFacts(
        client_names=tuple(f"client-{n}" for n in range(clients)),
        client_pairs=(10,) * clients,
        dimension=DIMENSION,
        model_fingerprint="none",
        model_bytes=0,
    )
    return make_plan(config, facts)


class FixedContributor:
    """Contributes the same known steps in every round."""

    def __init__(self, plan, client):
        self.plan, self.client = plan, client
        rng = np.random.default_rng(client)
        self.steps = rng.integers(-(2**20), 2**20, size=plan.vector_length)

    def contribute(self, round_number, weights):
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
                entropy=entropy,
            )
            for n in range(count)
        }

    @property
    def handlers(self):
        return {n: client.handle for n, client in self.clients.items()}

    def script(self, round_number=1, observer=lambda event: None):
        coordinator = RoundCoordinator(
            plan=self.plan,
            run_id=RUN_ID,
            round_number=round_number,
            cohort=self.roster,
            observer=observer,
        )
        return coordinator.script(np.zeros(DIMENSION, dtype=np.float32))

    def plain_sum(self, survivors):
        total = sum(self.contributors[n].steps for n in survivors)
        return self.plan.grid().to_ring(np.asarray(total))


def drive(script, carrier):
    """Plays a script over a carrier and returns its result."""
    try:
        exchange = next(script)
        while True:
            exchange = script.send(carrier.exchange(exchange))
    except StopIteration as stop:
        return stop.value
