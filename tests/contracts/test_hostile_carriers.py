"""Carriers that break the contract: a round then gives the survivors' sum, or none, never another."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.engine.events import ReplyRefused
from privfed_dpo.engine.messages import MalformedEnvelope, decode_envelope, encode
from privfed_dpo.errors import PrivFedError
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import STEPS, LoopbackCarrier
from secure_agg import SecAggError
from tests.support.deep_nesting import with_a_deep_field
from tests.support.round_parties import Parties, small_plan

CLIENTS = 5


class HostileCarrier:
    """A loopback whose messages or replies are tampered with; a client that refuses is silent."""

    def __init__(self, handlers, *, messages=None, replies=None):
        self._carrier = LoopbackCarrier({n: self._silent(h) for n, h in handlers.items()})
        self._messages = messages or (lambda step, sent: sent)
        self._replies = replies or (lambda step, back: back)

    @staticmethod
    def _silent(handle):
        def handle_or_refuse(data):
            try:
                return handle(data)
            except (PrivFedError, SecAggError, MalformedEnvelope):
                return None

        return handle_or_refuse

    def exchange(self, exchange):
        sent = self._messages(exchange.step, dict(exchange.messages))
        tampered = type(exchange)(exchange.round, exchange.step, sent)
        back = self._carrier.exchange(tampered)
        return self._replies(exchange.step, {n: r for n, r in back.items() if r is not None})


def play(*, secure=True, **tampering):
    parties = Parties(small_plan(clients=CLIENTS, secure=secure))
    seen = []
    result = drive(
        parties.script(observer=seen.append), HostileCarrier(parties.handlers, **tampering)
    )
    return parties, result, [event for event in seen if isinstance(event, ReplyRefused)]


def assert_sum_of_survivors_or_none(parties, result):
    if result.total is None:
        assert result.survivors == ()
        assert result.reason
        return
    assert set(result.survivors) <= set(range(CLIENTS))
    assert len(result.survivors) >= parties.plan.threshold
    assert np.array_equal(result.total, parties.plain_sum(result.survivors))


def at(step, change):
    return lambda now, parcel: change(parcel) if now == step else parcel


def flipped(data, place, bit):
    changed = bytearray(data)
    changed[place % len(changed)] ^= 1 << bit
    return bytes(changed)


@given(
    step=st.sampled_from(STEPS),
    victim=st.integers(0, CLIENTS - 1),
    place=st.integers(0, 10**4),
    bit=st.integers(0, 7),
    direction=st.sampled_from(["messages", "replies"]),
)
@settings(max_examples=60, deadline=None)
def test_one_flipped_bit_anywhere(step, victim, place, bit, direction):
    def flip(parcel):
        if victim not in parcel:
            return parcel
        return {**parcel, victim: flipped(parcel[victim], place, bit)}

    parties, result, _ = play(**{direction: at(step, flip)})
    assert_sum_of_survivors_or_none(parties, result)
    assert result.total is not None, "one lost client of five is tolerated"


def of_another_version(data):
    envelope = decode_envelope(data)
    return encode(msgspec.structs.replace(envelope, version=envelope.version + 1))


TAMPERING = {
    "two replies change places": lambda parcel: {**parcel, 0: parcel[1], 1: parcel[0]},
    "one client's reply comes from everybody": lambda parcel: dict.fromkeys(parcel, parcel[0]),
    "one reply is empty": lambda parcel: {**parcel, 3: b""},
    "one reply is cut": lambda parcel: {**parcel, 3: parcel[3][:-1]},
    "one reply is longer": lambda parcel: {**parcel, 3: parcel[3] + b"\0"},
    "one reply is of another version": lambda parcel: {**parcel, 3: of_another_version(parcel[3])},
    "one reply nests deep": lambda parcel: {**parcel, 3: with_a_deep_field(parcel[3])},
    "one reply is lost": lambda parcel: {n: r for n, r in parcel.items() if n != 3},
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", TAMPERING)
def test_replies_that_are_not_the_client_s(name, step):
    parties, result, refused = play(replies=at(step, TAMPERING[name]))
    assert_sum_of_survivors_or_none(parties, result)
    if "lost" not in name:
        assert refused
        answered = "AdvertiseKeys" if step == "Start" else step
        assert {event.phase for event in refused} == {answered}


@pytest.mark.parametrize("step", STEPS[1:])
def test_a_reply_of_an_earlier_step_comes_again(step):
    kept = {}

    def replay(now, parcel):
        if now == step:
            return {**parcel, 2: kept[2]}
        kept.update(parcel)
        return parcel

    parties, result, refused = play(replies=replay)
    assert_sum_of_survivors_or_none(parties, result)
    assert [event.client for event in refused] == [2]


@pytest.mark.parametrize("secure", [True, False], ids=["masked", "in clear"])
def test_a_client_that_was_never_invited_is_not_counted(secure):
    """The parcel holds a well-formed reply under a number that is on no roster."""

    def invent(step, parcel):
        envelope = decode_envelope(parcel[0])
        stranger = type(envelope)(
            version=envelope.version,
            run_id=envelope.run_id,
            round=envelope.round,
            step=envelope.step,
            sender=99,
            payload=envelope.payload,
        )
        return {**parcel, 99: encode(stranger)}

    parties, result, refused = play(secure=secure, replies=invent)
    assert result.survivors == tuple(range(CLIENTS))
    assert_sum_of_survivors_or_none(parties, result)
    assert {event.client for event in refused} == {99}


@pytest.mark.parametrize("step", STEPS)
def test_messages_that_change_places_are_noticed_by_their_receivers(step):
    swap = TAMPERING["two replies change places"]
    parties, result, _ = play(messages=at(step, swap))
    assert_sum_of_survivors_or_none(parties, result)
