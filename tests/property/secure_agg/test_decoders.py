"""Any byte string is a message or `MalformedMessage`; what decodes has exactly one encoding."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_agg import MalformedMessage
from secure_agg.codec import (
    ReplyBuffer,
    decode_body,
    decode_frame,
    encode_body,
    encode_reply,
    frame_limit_bytes,
)
from secure_agg.messages import BODY_TYPES
from secure_agg.phases import EXCHANGES, Kind
from tests.support.deep_nesting import DEEP, with_a_deep_field
from tests.support.secagg_attacks import frame_of
from tests.support.secagg_rounds import PHASES, Round, make_cohort

COHORT = make_cohort(5, threshold=4, colluders=1)
ROUND = Round(COHORT).run()
REAL = [
    data
    for phase in PHASES
    for messages in (ROUND.requests[phase], ROUND.replies[phase])
    for data in list(messages.values())[:2]
    if data
]
# Values of every type MessagePack knows, nested: nearly messages, but not quite.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary(max_size=100),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)  # fmt: skip


def decodes_or_refuses(data):
    """Decode the frame and its body; every outcome but a message or a refusal is a bug."""
    try:
        frame = decode_frame(data, limit_bytes=1 << 20)
        if frame.kind in BODY_TYPES:
            body = decode_body(frame.body, BODY_TYPES[Kind(frame.kind)])
            assert encode_body(body) == frame.body
    except MalformedMessage:
        return False
    assert msgspec.msgpack.encode(frame) == data
    return True


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_malformed(data):
    decodes_or_refuses(data)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_any_msgpack_value_is_a_message_or_malformed(value):
    decodes_or_refuses(msgspec.msgpack.encode(value))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(BODY_TYPES)), VALUES)
def test_any_value_as_a_body_is_a_message_or_malformed(kind, value):
    encoded = msgspec.msgpack.encode(value)
    try:
        body = decode_body(encoded, BODY_TYPES[kind])
    except MalformedMessage:
        return
    assert encode_body(body) == encoded


@pytest.mark.parametrize("message", REAL)
def test_a_field_that_nests_deep_is_malformed_like_any_other(message):
    """Behind a frame's last field, behind a body's, and as a body."""
    assert not decodes_or_refuses(with_a_deep_field(message))
    assert not decodes_or_refuses(message[:1] + DEEP + message[2:])
    frame = frame_of(message)
    if frame.kind in BODY_TYPES:
        for body in (with_a_deep_field(bytes(frame.body)), DEEP, b"\x91" + DEEP):
            with pytest.raises(MalformedMessage):
                decode_body(body, BODY_TYPES[Kind(frame.kind)])


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_edit_of_a_real_message_is_a_message_or_malformed(data):
    """Overwrite, cut or insert somewhere in a true message."""
    message = data.draw(st.sampled_from(REAL))
    start = data.draw(st.integers(0, len(message)))
    end = data.draw(st.integers(start, len(message)))
    decodes_or_refuses(message[:start] + data.draw(st.binary(max_size=8)) + message[end:])


@pytest.mark.parametrize("message", REAL)
def test_every_real_message_round_trips_and_keeps_its_limit(message):
    assert decodes_or_refuses(message)
    kind = Kind(frame_of(message).kind)
    assert len(message) <= frame_limit_bytes(COHORT.params, kind)


@pytest.mark.parametrize(("clients", "length"), [(2, 1), (7, 1), (8, 1), (9, 1), (24, 300)])
def test_the_largest_true_messages_stay_below_the_limits(clients, length):
    """Ids of five bytes each, everybody alive: nothing can be longer."""
    cohort = make_cohort(
        range(2**32 - clients, 2**32), threshold=clients, vector_length=length, modulus_bits=64
    )
    round_ = Round(cohort).run()
    for row in EXCHANGES:
        limit = frame_limit_bytes(cohort.params, row.reply)
        assert max(map(len, round_.replies[row.phase].values())) <= limit
        if row.request is not None:
            limit = frame_limit_bytes(cohort.params, row.request)
            assert max(map(len, round_.requests[row.phase].values())) <= limit


@pytest.mark.parametrize("size", [1, 255, 256, 65535, 65536, 100_000])
def test_a_reply_written_in_place_equals_one_built_from_copies(size):
    identity = COHORT.identities[COHORT.params.client_ids[0]]
    content = bytes(i * 7 % 256 for i in range(size))
    buffer = ReplyBuffer(COHORT.params.digest, Kind.MASKED_INPUT, 0, size)
    buffer.body[:] = content
    expected = encode_reply(COHORT.params.digest, Kind.MASKED_INPUT, 0, content, identity)
    assert buffer.finish(identity) == expected


def test_a_longer_message_is_refused_unread():
    with pytest.raises(MalformedMessage, match="limit"):
        decode_frame(REAL[0], limit_bytes=len(REAL[0]) - 1)
