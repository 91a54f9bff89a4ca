"""A coordinator that waits for its clients, and a client that comes back in the middle of a run."""

import numpy as np
import pytest

from accounting import Ledger
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.client import ClientRefused, FederatedClient
from privfed_dpo.server_update import ServerState
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import LoopbackCarrier
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import (
    COORDINATOR_KEY,
    DIMENSION,
    RUN_ID,
    fake_clients,
    fake_ledger,
    fake_plan,
    fake_training,
)

WEIGHTS = np.zeros(DIMENSION, dtype=np.float32)


class NobodyThere(Exception):
    pass


def training_of(plan, roster, path, before_round):
    return fake_training(plan, roster, fake_ledger(plan, path), before_round=before_round)


def test_nothing_is_booked_while_a_round_still_waits_for_its_clients(tmp_path):
    plan = fake_plan("federation.rounds=5")
    clients, roster = fake_clients(plan)
    waited = []

    def wait(number, names):
        waited.append((number, len(names)))
        if number == 3:
            raise NobodyThere

    training = training_of(plan, roster, tmp_path / "ledger.jsonl", wait)
    start = Checkpoint(0, ServerState.start(WEIGHTS), (), plan.plan_hash, "d", 0.0)
    carrier = LoopbackCarrier({n: c.handle for n, c in clients.items()})
    with pytest.raises(NobodyThere):
        drive(training.script(start), carrier)
    assert waited == [(1, 8), (2, 8), (3, 8)]
    ledger = Ledger.open(tmp_path / "ledger.jsonl")
    assert ledger.last_round == 2
    assert not ledger.awaiting_outcome


def test_a_client_that_comes_back_refuses_the_rounds_it_has_answered(tmp_path):
    """Its memory is gone, but not its books: the same round again would be answered twice."""
    plan = fake_plan("federation.rounds=5")
    clients, roster = fake_clients(plan)
    asked = []

    def recording(handle):
        def recorded(data):
            asked.append(data)
            return handle(data)

        return recorded

    handlers = {n: c.handle for n, c in clients.items()}
    handlers[0] = recording(handlers[0])
    training = training_of(plan, roster, tmp_path / "l.jsonl", lambda _number, _names: None)
    start = Checkpoint(0, ServerState.start(WEIGHTS), (), plan.plan_hash, "d", 0.0)
    drive(training.script(start), LoopbackCarrier(handlers))
    invitations = asked[::5]
    assert len(invitations) == 5

    fresh, _ = fake_clients(plan)
    came_back = FederatedClient(
        contributor=fresh[0]._contributor,
        run_id=RUN_ID,
        identity=fresh[0]._identity,
        roster=roster,
        coordinator=COORDINATOR_KEY.public,
        entropy=counted_entropy("after"),
        participations=3,
        last_round=3,
    )
    for old in invitations[:3]:
        with pytest.raises(ClientRefused, match="answers each round once"):
            came_back.handle(old)
    assert came_back.handle(invitations[3])
