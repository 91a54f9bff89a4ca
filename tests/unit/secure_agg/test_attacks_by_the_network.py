"""What impostors, lying clients and the network between try with keys and frames against an honest server.

Each test is named after what the attacker wants. A refused message changes nothing: the sender
counts as dropped, the round goes on, and the sum of the others is exact, or the round aborts.
"""

import msgspec
import numpy as np
import pytest

from secure_agg import (
    AuthenticationFailed,
    ClientId,
    DuplicateMessage,
    InconsistentView,
    LocalProtocolError,
    MalformedMessage,
    Phase,
    UnexpectedMessage,
)
from secure_agg.codec import Frame, signed_bytes
from secure_agg.phases import Kind
from secure_agg.views import to_bitmap
from tests.support.secagg_attacks import (
    LIAR,
    body_of,
    changed,
    finishes_without_the_liar,
    frame_of,
    from_client,
    server_refuses,
    tamper_reply,
    tamper_request,
)
from tests.support.secagg_rounds import PHASES, Round, make_cohort


@pytest.fixture
def cohort():
    return make_cohort(6, threshold=4, colluders=1)


# Keys


def test_to_know_everyones_masks_it_advertises_a_degenerate_key(cohort):
    round_ = Round(cohort)
    server_refuses(
        round_,
        tamper_reply(round_, Phase.ADVERTISE_KEYS, LIAR, mask_public=bytes(32)),
        InconsistentView,
    )
    finishes_without_the_liar(round_)


def test_to_make_honest_clients_give_up_it_copies_an_honest_key(cohort):
    round_ = Round(cohort)
    round_.gone.add(LIAR)
    round_.collect(Phase.ADVERTISE_KEYS)
    stolen = body_of(round_.replies[Phase.ADVERTISE_KEYS][ClientId(1)]).mask_public
    for field in ("mask_public", "seal_public"):
        fresh = Round(cohort)
        data = tamper_reply(fresh, Phase.ADVERTISE_KEYS, LIAR, **{field: stolen})
        server_refuses(round_, data, InconsistentView, culprits=(LIAR, ClientId(1)))
    round_.close()
    for later in PHASES[1:]:
        round_.collect(later)
        round_.close()
    assert LIAR not in round_.server.result.survivors


@pytest.mark.parametrize("field", ["mask_public", "seal_public"])
def test_to_pass_a_copied_key_for_another_it_spells_it_differently(cohort, field):
    """X25519 ignores the highest bit, so both spellings agree on the same secrets."""
    round_ = Round(cohort)
    stolen = bytearray(body_of(round_.clients[ClientId(1)].advertise()).mask_public)
    stolen[31] ^= 0x80
    server_refuses(
        round_,
        tamper_reply(round_, Phase.ADVERTISE_KEYS, LIAR, **{field: bytes(stolen)}),
        InconsistentView,
    )


def test_to_have_an_honest_client_blamed_it_hands_in_that_clients_key_first(cohort):
    """Whose key came first proves nothing: the refusal names both."""
    round_ = Round(cohort)
    honest = round_.clients[ClientId(1)].advertise()
    stolen = body_of(honest).seal_public
    data = tamper_reply(round_, Phase.ADVERTISE_KEYS, LIAR, seal_public=stolen)
    round_.server.receive(LIAR, data)
    server_refuses(
        round_, honest, InconsistentView, sender=ClientId(1), culprits=(LIAR, ClientId(1))
    )


def test_to_let_recovery_open_its_boxes_it_uses_one_key_for_both_purposes(cohort):
    round_ = Round(cohort)
    own = body_of(round_.clients[LIAR].advertise())
    data = from_client(cohort, Kind.ADVERTISE_KEYS, LIAR, changed(own, seal_public=own.mask_public))
    server_refuses(round_, data, InconsistentView)


# Speaking for others


def test_to_speak_for_another_it_signs_in_that_clients_name(cohort):
    round_ = Round(cohort)
    body = body_of(round_.clients[ClientId(1)].advertise())
    forged = from_client(cohort, Kind.ADVERTISE_KEYS, 1, body, signer=LIAR)
    server_refuses(round_, forged, AuthenticationFailed, sender=ClientId(1))


def test_to_speak_for_another_it_sends_that_clients_message_over_its_own_line(cohort):
    round_ = Round(cohort)
    theirs = round_.clients[ClientId(1)].advertise()
    server_refuses(round_, theirs, UnexpectedMessage)
    round_.server.receive(ClientId(1), theirs)


def test_to_join_uninvited_an_outsider_sends_keys(cohort):
    stranger = make_cohort(9, threshold=6, seed="elsewhere").client(8)
    with pytest.raises(LocalProtocolError):
        Round(cohort).server.receive(8, stranger.advertise())


def test_to_pass_unsigned_it_strips_the_signature(cohort):
    round_ = Round(cohort)
    frame = frame_of(round_.clients[LIAR].advertise())
    bare = Frame(frame.version, frame.kind, frame.round_digest, frame.party, b"", frame.body)
    server_refuses(round_, msgspec.msgpack.encode(bare), MalformedMessage)


def test_to_move_a_signature_it_puts_it_on_another_kind(cohort):
    """A signed ConsistencyCheck body cannot pass as another 34-byte message."""
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    frame = frame_of(round_.answer(LIAR, Phase.CONSISTENCY_CHECK))
    for kind in Kind:
        if kind is not Kind.CONSISTENCY_CHECK:
            moved = signed_bytes(cohort.params.digest, kind, LIAR, frame.body)
            true = signed_bytes(cohort.params.digest, Kind.CONSISTENCY_CHECK, LIAR, frame.body)
            assert moved != true


# The network


@pytest.mark.parametrize("phase", PHASES)
def test_to_count_twice_it_repeats_its_message(cohort, phase):
    round_ = Round(cohort).run(phase)
    round_.collect(phase)
    with pytest.raises(DuplicateMessage) as caught:
        round_.server.receive(LIAR, round_.replies[phase][LIAR])
    assert caught.value.culprits == (LIAR,)
    round_.close()
    for later in PHASES[PHASES.index(phase) + 1 :]:
        round_.collect(later)
        round_.close()
    result = round_.server.result
    assert LIAR in result.survivors
    np.testing.assert_array_equal(result.total, round_.expected_sum(result.survivors))


@pytest.mark.parametrize("phase", PHASES[:-1])
def test_to_slip_in_late_it_sends_after_the_phase_is_closed(cohort, phase):
    round_ = Round(cohort).run(phase)
    late = round_.answer(LIAR, phase)
    round_.gone.add(LIAR)
    round_.collect(phase)
    round_.close()
    server_refuses(round_, late, UnexpectedMessage)
    finishes = {Phase.CONSISTENCY_CHECK: True}
    for later in PHASES[PHASES.index(phase) + 1 :]:
        round_.collect(later)
        round_.close()
    assert (LIAR in round_.server.result.survivors) is finishes.get(phase, False)


def test_to_confuse_the_server_it_replies_although_it_left_before(cohort):
    round_ = Round(cohort, {Phase.SHARE_KEYS: [LIAR]}).run(Phase.MASKED_INPUT)
    vector = bytes(32 + cohort.params.vector_bytes)
    server_refuses(round_, from_client(cohort, Kind.MASKED_INPUT, LIAR, vector), UnexpectedMessage)


def test_to_reuse_an_old_message_it_replays_one_of_an_earlier_round(cohort):
    earlier = make_cohort(6, threshold=4, colluders=1, round_id=b"round-0000")
    round_ = Round(cohort)
    server_refuses(round_, earlier.client(LIAR).advertise(), UnexpectedMessage)


def test_to_crash_the_server_the_network_truncates_and_extends(cohort):
    round_ = Round(cohort)
    data = round_.clients[LIAR].advertise()
    for cut in range(len(data)):
        server_refuses(round_, data[:cut], MalformedMessage)
    server_refuses(round_, data + b"\0", MalformedMessage)
    round_.server.receive(LIAR, data)


def test_to_go_unnoticed_the_network_flips_one_bit(cohort):
    """Every single-bit change of a signed message is refused, wherever it is."""
    round_ = Round(cohort)
    data = round_.clients[LIAR].advertise()
    for place in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises((MalformedMessage, UnexpectedMessage, AuthenticationFailed)):
            round_.server.receive(LIAR, bytes(flipped))
    assert LIAR in round_.server.outstanding


def test_to_evade_comparison_it_encodes_the_same_content_differently(cohort):
    """A wider integer or a longer header means the same to a lenient parser; we refuse both."""
    round_ = Round(cohort)
    data = round_.clients[LIAR].advertise()
    assert data[:3] == b"\x96\x01\x01"
    server_refuses(round_, b"\xdc\x00\x06" + data[1:], MalformedMessage)
    server_refuses(round_, b"\x96\xcc\x01\x01" + data[3:], MalformedMessage)


def test_to_evade_comparison_it_signs_another_encoding_of_the_same_body(cohort):
    round_ = Round(cohort).run(Phase.UNMASK)
    body = bytes(frame_of(round_.answer(LIAR, Phase.UNMASK)).body)
    # [[[0, share], [1, share], ...]]: owner 0 as a two-byte integer, then a wide array header.
    assert body[:4] == b"\x91\x96\x92\x00"
    for other in (b"\x91\x96\x92\xcc\x00" + body[4:], b"\xdc\x00\x01" + body[1:]):
        server_refuses(round_, from_client(cohort, Kind.UNMASK, LIAR, other), MalformedMessage)
    server_refuses(round_, from_client(cohort, Kind.UNMASK, LIAR, body + b"\0"), MalformedMessage)
    round_.server.receive(LIAR, from_client(cohort, Kind.UNMASK, LIAR, body))


def test_to_downgrade_it_speaks_another_version(cohort):
    round_ = Round(cohort)
    data = round_.clients[LIAR].advertise()
    server_refuses(round_, b"\x96\x02" + data[2:], MalformedMessage)
    with pytest.raises(MalformedMessage, match="version 2, this side speaks 1"):
        round_.server.receive(LIAR, b"\x96\x02" + data[2:])


def test_to_reach_other_code_it_invents_a_message_kind(cohort):
    round_ = Round(cohort)
    data = round_.clients[LIAR].advertise()
    server_refuses(round_, b"\x96\x01\x0a" + data[3:], MalformedMessage)


def test_to_spoil_the_sum_it_tells_one_client_that_a_neighbour_left(cohort):
    """The client leaves out a mask that its neighbour puts in; its input must not be added."""
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    everyone = cohort.params.client_ids
    boxes = body_of(round_.requests[Phase.MASKED_INPUT][LIAR]).boxes
    data = tamper_request(
        round_,
        Phase.MASKED_INPUT,
        LIAR,
        sharers=to_bitmap(cohort.params, [c for c in everyone if c != 1]),
        boxes=boxes[1:],
    )
    reply = round_.clients[LIAR].handle(data, vector=round_.vectors[LIAR])
    server_refuses(round_, reply, InconsistentView)
    finishes_without_the_liar(round_)
