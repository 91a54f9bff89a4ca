"""Rounds between a real coordinator and real clients, over a network that may misbehave."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.contribution import Contributor
from privfed_dpo.engine.drift_state import Departure
from privfed_dpo.engine.events import PhaseClosed, ReplyRefused, SharesDisputed
from privfed_dpo.engine.messages import RoundStart, decode, decode_envelope, encode
from privfed_dpo.mechanism.keystream import StreamIssuer, StreamReused
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import STEPS
from secure_agg import Phase
from secure_agg.seal import SharePair
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import (
    DIMENSION,
    fake_clients,
    fake_coordinator,
    fake_plan,
    signed_start,
)

WEIGHTS = np.zeros(DIMENSION, dtype=np.float32)


class Network:
    """Delivers everything, except where a rule changes or swallows a reply."""

    def __init__(self, clients, rule=lambda _step, _client, reply: reply):
        self.clients, self.rule, self.seen = clients, rule, []

    def exchange(self, exchange):
        replies = {}
        for client, message in exchange.messages.items():
            self.seen.append((exchange.step, client, message))
            reply = self.rule(exchange.step, client, None)
            if reply is not False:
                reply = self.rule(exchange.step, client, self.clients[client].handle(message))
                if reply is not None:
                    replies[client] = reply
        return replies


def play(plan, rule=lambda _step, _client, reply: reply, observer=lambda _: None):
    clients, roster = fake_clients(plan)
    network = Network(clients, rule)
    result = drive(fake_coordinator(plan, roster, observer).script(Departure(WEIGHTS)), network)
    return result, clients, network


def contribution_of(plan, number):
    """What this client puts in, computed a second time with the same randomness."""
    clients, _ = fake_clients(plan)
    original = clients[number]._contributor
    again = Contributor(
        plan=plan,
        client=number,
        shard=original.shard,
        source=original.source,
        issuer=StreamIssuer(counted_entropy(f"fake/noise/{number}")),
    )
    return again.contribute(1, WEIGHTS)


@settings(deadline=None, max_examples=25)
@given(st.dictionaries(st.integers(0, 7), st.sampled_from(STEPS), max_size=4))
def test_a_secure_sum_equals_the_plain_sum_of_the_survivors(lost):
    plan = fake_plan("privacy.mode=distributed")

    def rule(step, client, reply):
        gone = client in lost and STEPS.index(step) >= STEPS.index(lost[client])
        return False if gone else reply

    result, _, _ = play(plan, rule)
    if len(lost) > 2:
        assert result.total is None, "below the threshold nothing is opened"
        assert result.reason
        return
    uploaded = {c for c in range(8) if c not in lost or STEPS.index(lost[c]) > 2}
    assert set(result.survivors) == uploaded
    plain = sum(contribution_of(plan, number) for number in result.survivors)
    assert np.array_equal(plan.grid().from_ring(result.total), plain)
    assert sum(result.dropped.values()) == len(lost)


def test_a_client_holds_no_adapter_between_rounds():
    """A thousand simulated clients would else hold a thousand adapters."""
    result, clients, _ = play(fake_plan())
    assert result.total is not None
    assert all(client._start is None for client in clients.values())


@pytest.mark.parametrize("step", list(Phase))
def test_garbage_is_named_and_the_round_goes_on(step):
    refused = []

    def rule(exchange_step, client, reply):
        phase = Phase.ADVERTISE_KEYS if exchange_step == "Start" else Phase(exchange_step)
        return b"garbage" if client == 3 and phase is step and reply is not None else reply

    def observer(event):
        if isinstance(event, ReplyRefused):
            refused.append((event.client, event.phase))

    result, _, _ = play(fake_plan(), rule, observer)
    assert refused == [(3, step.value)]
    assert result.total is not None


@pytest.mark.parametrize("due", list(Phase)[1:])
def test_a_client_does_no_step_under_the_name_of_another(due):
    """What else hangs on a step's name would not be done; the round goes on with the true one."""
    plan, refused = fake_plan(), []
    clients, roster = fake_clients(plan)

    class Relabelling(Network):
        def exchange(self, exchange):
            for name in Phase:
                if exchange.step == due.value != name:
                    true = decode_envelope(exchange.messages[3])
                    with pytest.raises(ClientRefused, match=f"where {due.value} is due"):
                        clients[3].handle(encode(msgspec.structs.replace(true, step=name.value)))
                    refused.append(name)
            return super().exchange(exchange)

    script = fake_coordinator(plan, roster).script(Departure(WEIGHTS))
    result = drive(script, Relabelling(clients))
    assert len(refused) == 4
    assert 3 in result.survivors


def test_a_reply_in_somebody_elses_name_is_refused():
    refused = []

    def rule(step, client, reply):
        if client == 3 and step == "Start" and reply is not None:
            envelope = decode_envelope(reply)
            return encode(msgspec.structs.replace(envelope, sender=4, receipt=None))
        return reply

    result, _, _ = play(
        fake_plan(), rule, lambda e: refused.append(e) if isinstance(e, ReplyRefused) else None
    )
    assert [event.client for event in refused] == [3]
    assert 3 not in result.survivors


def played_with_a_liar(lost):
    """Client 3 reveals a wrong share of client 0's secret; `lost` do not reveal."""
    plan, seen = fake_plan(), []
    clients, roster = fake_clients(plan)

    def rule(step, client, reply):
        if step != Phase.UNMASK.value or reply is not None:
            return reply
        if client == 3:
            clients[3]._session._state.held[0] = SharePair(bytes(33), bytes(33))
        return False if client in lost else None

    coordinator = fake_coordinator(plan, roster, seen.append)
    result = drive(coordinator.script(Departure(WEIGHTS)), Network(clients, rule))
    return result, [event for event in seen if not isinstance(event, PhaseClosed)]


def test_a_wrong_share_that_is_corrected_leaves_a_trace_that_blames_nobody_alone():
    result, (told,) = played_with_a_liar(lost=())
    plain = sum(contribution_of(fake_plan(), number) for number in range(8))
    assert np.array_equal(fake_plan().grid().from_ring(result.total), plain)
    assert isinstance(told, SharesDisputed)
    assert (told.round, told.owner, told.holders) == (1, 0, (3,))
    assert told.reason == (
        "the share of client 3 contradicts what client 0 published: one of them lied"
    )


def test_a_round_that_a_wrong_share_ends_says_between_whom_it_was():
    result, (told,) = played_with_a_liar(lost=(6, 7))
    assert result.total is None
    assert isinstance(told, SharesDisputed)
    assert (told.owner, told.holders) == (0, (1, 2, 3, 4, 5))
    assert told.reason in result.reason
    assert "client 0 lied, or at least 1 of them did" in told.reason


def test_a_client_answers_a_round_once_and_checks_its_invitation():
    plan = fake_plan()
    result, clients, network = play(plan)
    assert result.total is not None
    _, _, start = next(seen for seen in network.seen if seen[:2] == ("Start", 0))
    with pytest.raises(ClientRefused, match="answers each round once"):
        clients[0].handle(start)
    fresh, _ = fake_clients(plan)
    envelope = decode_envelope(start)
    invitation = decode(envelope.payload, RoundStart)

    def changed(envelope_changes=(), **changes):
        """By a coordinator who signs anything."""
        signed = signed_start(msgspec.structs.replace(invitation, **changes), 1)
        fields = {"payload": encode(signed), **dict(envelope_changes)}
        return encode(msgspec.structs.replace(envelope, **fields))

    for bad in (
        changed(plan_hash=b"x" * 32),
        changed(cohort=invitation.cohort[:-1]),
        changed(cohort=(*invitation.cohort[:-1], 99)),
        changed(cohort=(*invitation.cohort[:-1], invitation.cohort[0])),
        changed({"run_id": b"y" * 16}),
        changed({"sender": 2}),
        changed({"step": "Unmask"}),
    ):
        with pytest.raises(ClientRefused):
            fresh[0].handle(bad)
    assert decode_envelope(fresh[0].handle(changed())).step == "AdvertiseKeys"


def test_noise_of_a_round_is_never_drawn_twice():
    clients, _ = fake_clients(fake_plan())
    contributor = clients[0]._contributor
    contributor.contribute(1, WEIGHTS)
    with pytest.raises(StreamReused):
        contributor.contribute(1, WEIGHTS)
    assert not np.array_equal(
        contributor.contribute(2, WEIGHTS), contributor.contribute(3, WEIGHTS)
    )


def test_an_empty_batch_sends_pure_noise():
    plan = fake_plan("privacy.sample_rate=1.0e-9", "privacy.noise_multiplier=2.0")
    sent = contribution_of(plan, 0)
    sigma = plan.noise.share_stddev_steps
    assert (np.abs(sent) < 7 * sigma).all()
    assert np.count_nonzero(sent) == DIMENSION


def test_an_exploding_pair_moves_the_sum_by_at_most_the_sensitivity():
    plan = fake_plan("privacy.sample_rate=1.0")
    clients, _ = fake_clients(plan)
    contributor = clients[0]._contributor
    calm = contributor.contribute(1, WEIGHTS)
    shard = contributor.shard
    fewer = Contributor(
        plan=plan,
        client=0,
        shard=type(shard)(shard.pairs[1:], shard.reference[1:]),
        source=contributor.source,
        issuer=StreamIssuer(counted_entropy("fake/noise/0")),
    )
    moved = calm - fewer.contribute(1, WEIGHTS)
    assert 0 < int((moved**2).sum()) <= plan.clipper().sensitivity_steps ** 2


def test_measured_upload_matches_the_plan():
    for overrides, clients in (
        (("federation.cohort=8",), 8),
        (("privacy.dropout_tolerance=6",), 20),
    ):
        plan = fake_plan(*overrides, clients=clients)
        result, _, _ = play(plan)
        each = result.upload_bytes / clients
        assert each <= plan.upload_bytes * 1.02
        assert each >= plan.upload_bytes * 0.85
