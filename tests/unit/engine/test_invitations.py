"""Invitations: signed, the same for all, and no sum for a server that tells clients different things."""

import hashlib

import msgspec
import numpy as np
import pytest

from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.drift_state import Departure
from privfed_dpo.engine.invitations import holds_its_adapter, invitation_message, invite, round_id
from privfed_dpo.engine.messages import START, RoundStart, decode, decode_envelope, encode
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import LoopbackCarrier
from secure_agg import IdentityKey, verify_signature
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import (
    COORDINATOR_KEY,
    DIMENSION,
    RUN_ID,
    fake_clients,
    fake_coordinator,
    fake_plan,
    fake_start,
    invitation,
    signed_start,
)

WEIGHTS = np.zeros(DIMENSION, dtype=np.float32)
FAR_AWAY = np.full(DIMENSION, 1e30, dtype=np.float32)


class TwoStories:
    """A server with the coordinator's key that sends the victim one adapter and everybody else another."""

    def __init__(self, carrier, other, victim):
        self.carrier, self.other, self.victim = carrier, other, victim

    def exchange(self, exchange):
        if exchange.step != START:
            return self.carrier.exchange(exchange)
        messages = {
            client: data if client == self.victim else self.other
            for client, data in exchange.messages.items()
        }
        return self.carrier.exchange(type(exchange)(exchange.round, exchange.step, messages))


def test_a_server_that_tells_one_client_another_adapter_gets_no_sum_with_it():
    """Were they to share masks, everybody else's gradients would vanish and the victim's be left."""
    plan = fake_plan()
    clients, roster = fake_clients(plan)
    carrier = LoopbackCarrier({n: c.handle for n, c in clients.items()})
    cohort = range(plan.cohort)
    other = invitation(fake_start(plan, cohort, FAR_AWAY))
    script = fake_coordinator(plan, roster).script(Departure(WEIGHTS))
    result = drive(script, TwoStories(carrier, other, victim=0))
    assert result.total is None
    assert result.survivors == ()


def test_the_same_round_told_truly_is_opened():
    plan = fake_plan()
    clients, roster = fake_clients(plan)
    carrier = LoopbackCarrier({n: c.handle for n, c in clients.items()})
    result = drive(fake_coordinator(plan, roster).script(Departure(WEIGHTS)), carrier)
    assert result.survivors == tuple(range(plan.cohort))


@pytest.mark.parametrize(
    "change",
    [
        {"cohort": (0, 1, 2)},
        {"adapters": (b"x" * 32,)},
        {"plan_hash": bytes(32)},
    ],
)
def test_whatever_is_told_is_bound_into_the_round(change):
    plan = fake_plan()
    start = fake_start(plan, range(8), WEIGHTS)
    changed = msgspec.structs.replace(start, **change)
    assert round_id(RUN_ID, 1, start) != round_id(RUN_ID, 1, changed)
    assert round_id(RUN_ID, 1, start) != round_id(RUN_ID, 2, start)
    assert round_id(RUN_ID, 1, start) != round_id(b"another-run-16-b", 1, start)
    own = msgspec.structs.replace(start, weights=b"", signature=b"")
    assert round_id(RUN_ID, 1, start) == round_id(RUN_ID, 1, own), "ages differ, the round does not"


def test_nobody_else_s_signature_will_do():
    plan = fake_plan()
    clients, _ = fake_clients(plan)
    start = fake_start(plan, range(8), WEIGHTS)
    stranger = IdentityKey.generate(counted_entropy("stranger"))
    member = clients[1]._identity
    for signed in (
        signed_start(start, 1, stranger),
        signed_start(start, 1, member),
        signed_start(start, 2),
        msgspec.structs.replace(start, signature=b""),
        msgspec.structs.replace(start, cohort=tuple(range(7))),
    ):
        with pytest.raises(ClientRefused, match="not signed by the enrolled coordinator"):
            clients[0].handle(invitation(signed))
    assert clients[0].handle(invitation(start)), "a refusal is not an answer"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_adapter_that_is_not_finite_is_refused(value):
    plan = fake_plan()
    clients, _ = fake_clients(plan)
    weights = WEIGHTS.copy()
    weights[3] = value
    with pytest.raises(ClientRefused, match="not finite"):
        clients[0].handle(invitation(fake_start(plan, range(8), weights)))


def invited(plan, departure, number=9):
    return invite(
        plan,
        RUN_ID,
        number,
        cohort=range(8),
        departure=departure,
        sign=COORDINATOR_KEY.sign,
    )


def test_late_clients_get_the_adapter_of_their_age_and_one_signature_is_for_all():
    plan = fake_plan("federation.max_staleness=3", "privacy.mode=local", "secure_agg.enabled=true")
    ages = {client: plan.drift.delay(9, client) for client in range(8)}
    assert len(set(ages.values())) > 2
    old = {age: np.full(DIMENSION, age, np.float32) for age in set(ages.values())}
    late = {client: (age, old[age]) for client, age in ages.items() if age}
    starts = invited(plan, Departure(WEIGHTS, late))
    assert len({start.signature for start in starts.values()}) == 1
    assert len({round_id(RUN_ID, 9, start) for start in starts.values()}) == 1
    for client, age in ages.items():
        start = decode(encode(starts[age]), RoundStart)
        verify_signature(
            COORDINATOR_KEY.public, invitation_message(RUN_ID, 9, start), start.signature
        )
        assert np.frombuffer(start.weights, "<f4")[0] == age
        assert start.adapters[age] == hashlib.sha256(start.weights).digest()
        for other, start in starts.items():
            assert holds_its_adapter(plan, 9, client, start) is (other == age)


def test_there_are_no_more_ages_than_the_plan_has_and_at_least_one():
    plan = fake_plan()
    start = fake_start(plan, range(8), WEIGHTS)
    digest = start.adapters[0]
    for adapters in ((), (digest, digest)):
        changed = msgspec.structs.replace(start, adapters=adapters)
        assert not holds_its_adapter(plan, 1, 0, changed)
    assert holds_its_adapter(plan, 1, 0, start)


def test_what_the_coordinator_sends_is_what_clients_check():
    plan = fake_plan()
    _, roster = fake_clients(plan)
    exchange = next(fake_coordinator(plan, roster).script(Departure(WEIGHTS)))
    (sent,) = set(exchange.messages.values())
    assert (
        decode(decode_envelope(sent).payload, RoundStart)
        == invited(plan, Departure(WEIGHTS), number=1)[0]
    )
