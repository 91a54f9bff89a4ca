import contextlib
import hashlib
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.engine.invitations import invitation_message, round_id
from privfed_dpo.engine.messages import (
    COORDINATOR,
    WIRE_VERSION,
    ControlStart,
    Envelope,
    MalformedEnvelope,
    RoundStart,
    SignedReceipt,
    decode,
    decode_envelope,
    encode,
)
from tests.architecture.documents import ROOT

ENVELOPE = Envelope(
    version=WIRE_VERSION,
    run_id=b"r" * 16,
    round=3,
    step="ShareKeys",
    sender=-1,
    payload=b"\x00\xff",
)
START = RoundStart(
    plan_hash=b"h" * 32,
    cohort=(0, 2, 5),
    weights=b"\x00" * 8,
    adapters=(b"d" * 32, b""),
    signature=b"s" * 64,
)


def test_round_trips():
    assert decode_envelope(encode(ENVELOPE)) == ENVELOPE
    assert decode(encode(START), RoundStart) == START


@given(st.binary(max_size=80))
def test_any_bytes_give_a_message_or_malformed(data):
    for read in (decode_envelope, partial(decode, kind=RoundStart)):
        with contextlib.suppress(MalformedEnvelope):
            assert encode(read(data)) == data


@given(st.data())
def test_a_changed_byte_never_passes_as_the_same_message(data):
    good = encode(ENVELOPE)
    place = data.draw(st.integers(0, len(good) - 1))
    flip = data.draw(st.integers(1, 255))
    bad = good[:place] + bytes([good[place] ^ flip]) + good[place + 1 :]
    with contextlib.suppress(MalformedEnvelope):
        assert decode_envelope(bad) != ENVELOPE


@pytest.mark.parametrize(
    "bad",
    [
        encode(ENVELOPE) + b"\x00",
        encode(ENVELOPE)[:-1],
        encode(msgspec.structs.replace(ENVELOPE, version=WIRE_VERSION + 1)),
        encode(START),
        msgspec.msgpack.encode([1, WIRE_VERSION, b"r" * 16, 3, "ShareKeys", -1]),
        # 3 written as a two-byte integer: the same value, not the canonical form
        encode(ENVELOPE).replace(b"\x03\xa9", b"\xcc\x03\xa9"),
    ],
)
def test_foreign_truncated_and_non_canonical_bytes_are_refused(bad):
    with pytest.raises(MalformedEnvelope):
        decode_envelope(bad)


def test_the_wire_is_what_the_specification_says():
    """Decoded as plain arrays, and the round's id computed a second time from the page."""
    control = ControlStart(b"c", (1, 2))
    start = RoundStart(b"h" * 32, (0, 3), b"w" * 8, (b"a" * 32, b""), b"s" * 64, control)
    receipt = SignedReceipt(4, b"v" * 64)
    sent = Envelope(WIRE_VERSION, b"r" * 16, 7, "Start", COORDINATOR, encode(start), receipt)
    fields = msgspec.msgpack.decode(encode(sent))
    shown = [2, b"h" * 32, [0, 3], b"w" * 8, [b"a" * 32, b""], b"s" * 64, [3, b"c", [1, 2]]]
    payload = msgspec.msgpack.encode(shown)
    assert fields == [1, 2, b"r" * 16, 7, "Start", -1, payload, [4, b"v" * 64]]
    shown[3] = shown[5] = b""
    common = hashlib.sha256(msgspec.msgpack.encode(shown)).digest()
    place = b"r" * 16 + (7).to_bytes(8, "big")
    expected = hashlib.sha256(b"privfed-dpo/round/2/" + place + common).digest()
    assert round_id(b"r" * 16, 7, start) == expected
    assert invitation_message(b"r" * 16, 7, start) == b"privfed-dpo/invitation/1/" + expected
    page = (ROOT / "docs" / "SPEC.md").read_text()
    assert f"wire version {WIRE_VERSION}:" in page
    assert f"`[1, version {WIRE_VERSION}, run_id 16, round, step, sender, payload, " in page
