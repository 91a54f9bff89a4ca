"""What a lying server tries with keys and shares, each test named after what it wants.

Every attempt ends in one typed error that names the culprit, reveals nothing, and leaves the
victim's session dead.
"""

import msgspec
import pytest

from secure_agg import (
    SERVER,
    AuthenticationFailed,
    ClientId,
    InconsistentView,
    LocalProtocolError,
    MalformedMessage,
    Neighbourhood,
    Phase,
    UnexpectedMessage,
)
from secure_agg.keys import AgreementKey
from secure_agg.messages import (
    Advertisement,
    Box,
    ShareDelivery,
)
from secure_agg.phases import Kind
from secure_agg.seal import SharePair, seal
from secure_agg.views import advertisement_digest, to_bitmap
from tests.support.secagg_attacks import (
    VICTIM,
    body_of,
    changed,
    encode_body,
    frame_of,
    from_client,
    from_server,
    refused,
    tamper_request,
)
from tests.support.secagg_rounds import Round, entropy_from, make_cohort


@pytest.fixture
def cohort():
    return make_cohort(6, threshold=4, colluders=1)


def test_to_send_two_spellings_of_a_message_it_signs_its_own_frame(cohort):
    """Whatever stands there, a client could not check it: the server has no key in the protocol."""
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    frame = frame_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    data = msgspec.msgpack.encode(msgspec.structs.replace(frame, signature=b"\x55" * 64))
    refused(round_, Phase.SHARE_KEYS, data, MalformedMessage)


# Roster


def test_to_read_shares_it_puts_its_own_key_in_a_neighbours_place(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    own = AgreementKey.generate(entropy_from("server"))
    first = roster.neighbours[0]
    forged = changed(first, advertisement=changed(first.advertisement, seal_public=own.public))
    leaf = advertisement_digest(cohort.params, ClientId(1), encode_body(forged.advertisement))
    data = tamper_request(
        round_,
        Phase.SHARE_KEYS,
        VICTIM,
        neighbours=(forged, *roster.neighbours[1:]),
        digests=roster.digests[:32] + leaf + roster.digests[64:],
    )
    refused(round_, Phase.SHARE_KEYS, data, AuthenticationFailed)


def test_to_read_shares_it_changes_a_key_but_not_the_digest(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    own = AgreementKey.generate(entropy_from("server"))
    first = roster.neighbours[0]
    forged = changed(first, advertisement=changed(first.advertisement, mask_public=own.public))
    data = tamper_request(
        round_, Phase.SHARE_KEYS, VICTIM, neighbours=(forged, *roster.neighbours[1:])
    )
    refused(round_, Phase.SHARE_KEYS, data, InconsistentView)


def test_to_confuse_recovery_it_swaps_the_keys_of_two_neighbours(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    one, two, *rest = roster.neighbours
    swapped = (
        changed(one, advertisement=two.advertisement, signature=two.signature),
        changed(two, advertisement=one.advertisement, signature=one.signature),
        *rest,
    )
    leaves = [
        advertisement_digest(cohort.params, ClientId(e.client), encode_body(e.advertisement))
        for e in swapped
    ]
    data = tamper_request(
        round_,
        Phase.SHARE_KEYS,
        VICTIM,
        neighbours=swapped,
        digests=roster.digests[:32] + b"".join(leaves),
    )
    refused(round_, Phase.SHARE_KEYS, data, AuthenticationFailed)


def test_to_surround_the_victim_it_sends_a_roster_below_the_threshold(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    data = tamper_request(
        round_,
        Phase.SHARE_KEYS,
        VICTIM,
        participants=to_bitmap(cohort.params, [ClientId(c) for c in (0, 1, 2)]),
        digests=roster.digests[:96],
        neighbours=roster.neighbours[:2],
    )
    refused(round_, Phase.SHARE_KEYS, data, InconsistentView)


def test_to_mask_the_victim_alone_it_hides_the_victims_key_from_the_roster(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    data = tamper_request(round_, Phase.SHARE_KEYS, VICTIM, digests=bytes(32) + roster.digests[32:])
    refused(round_, Phase.SHARE_KEYS, data, InconsistentView)


def test_to_choose_the_neighbours_it_leaves_one_out(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    data = tamper_request(round_, Phase.SHARE_KEYS, VICTIM, neighbours=roster.neighbours[1:])
    refused(round_, Phase.SHARE_KEYS, data, InconsistentView)


def test_to_choose_the_neighbours_it_sends_those_of_another_client():
    near = Neighbourhood(degree=4, share_threshold=4, signature_quorum=8, signature_checks=8)
    cohort = make_cohort(12, threshold=8, neighbourhood=near)
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    foreign = body_of(round_.requests[Phase.SHARE_KEYS][ClientId(5)])
    data = tamper_request(round_, Phase.SHARE_KEYS, VICTIM, neighbours=foreign.neighbours)
    refused(round_, Phase.SHARE_KEYS, data, InconsistentView)


def forwarding(round_, bad):
    """The victim's roster with these keys of an accomplice, client 1, which has signed them."""
    cohort, roster = round_.cohort, body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    signature = frame_of(from_client(cohort, Kind.ADVERTISE_KEYS, 1, bad)).signature
    entry = changed(roster.neighbours[0], advertisement=bad, signature=signature)
    leaf = advertisement_digest(cohort.params, ClientId(1), encode_body(bad))
    return tamper_request(
        round_,
        Phase.SHARE_KEYS,
        VICTIM,
        neighbours=(entry, *roster.neighbours[1:]),
        digests=roster.digests[:32] + leaf + roster.digests[64:],
    )


@pytest.mark.parametrize("which", ["mask", "seal"])
def test_to_know_a_secret_it_forwards_a_degenerate_key_of_an_accomplice(cohort, which):
    """The accomplice signs a key of low order, on which every agreement gives zero."""
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    honest = roster.neighbours[0].advertisement
    bad = Advertisement(
        bytes(32) if which == "mask" else honest.mask_public,
        b"\x01" + bytes(31) if which == "seal" else honest.seal_public,
        honest.self_mask_commitment,
    )
    data = forwarding(round_, bad)
    culprits = (SERVER, ClientId(1))
    if which == "seal":
        refused(round_, Phase.SHARE_KEYS, data, AuthenticationFailed, culprits=culprits)
        return
    round_.clients[VICTIM].handle(data)
    mine = body_of(round_.replies[Phase.ADVERTISE_KEYS][VICTIM])
    view = round_.clients[VICTIM]._state.view
    pair = SharePair(bytes(33), bytes(33))
    boxes = []
    for client in view.graph.neighbours(VICTIM):
        box_secret = round_.clients[client]._state.secrets.seal_key.agree(mine.seal_public)
        boxes.append(
            Box(
                client,
                seal(pair, shared=box_secret, view_digest=view.digest, owner=client, holder=VICTIM),
            )
        )
    delivery = ShareDelivery(to_bitmap(cohort.params, cohort.params.client_ids), tuple(boxes))
    data = from_server(cohort.params, Kind.SHARE_DELIVERY, VICTIM, delivery)
    refused(round_, Phase.MASKED_INPUT, data, AuthenticationFailed, culprits=culprits)


@pytest.mark.parametrize("field", ["mask_public", "seal_public"])
def test_to_pass_the_victims_key_for_another_an_accomplice_spells_it_differently(cohort, field):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    copied = bytearray(getattr(body_of(round_.replies[Phase.ADVERTISE_KEYS][VICTIM]), field))
    copied[31] ^= 0x80
    bad = changed(roster.neighbours[0].advertisement, **{field: bytes(copied)})
    data = forwarding(round_, bad)
    refused(round_, Phase.SHARE_KEYS, data, InconsistentView, culprits=(SERVER, ClientId(1)))


def test_to_pair_the_victim_with_itself_an_accomplice_advertises_the_victims_key(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    mine = body_of(round_.replies[Phase.ADVERTISE_KEYS][VICTIM])
    copied = changed(roster.neighbours[0].advertisement, mask_public=mine.mask_public)
    signature = frame_of(from_client(cohort, Kind.ADVERTISE_KEYS, 1, copied)).signature
    leaf = advertisement_digest(cohort.params, ClientId(1), encode_body(copied))
    data = tamper_request(
        round_,
        Phase.SHARE_KEYS,
        VICTIM,
        neighbours=(
            changed(roster.neighbours[0], advertisement=copied, signature=signature),
            *roster.neighbours[1:],
        ),
        digests=roster.digests[:32] + leaf + roster.digests[64:],
    )
    refused(round_, Phase.SHARE_KEYS, data, InconsistentView, culprits=(ClientId(1),))


@pytest.mark.parametrize(("copier", "honest"), [(1, 3), (3, 1)])
@pytest.mark.parametrize("field", ["mask_public", "seal_public"])
def test_to_have_an_honest_client_blamed_it_forwards_an_accomplices_copy_of_its_key(
    cohort, copier, honest, field
):
    """The victim cannot tell who copied, and names both, whatever the order."""
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    keys = {entry.client: entry.advertisement for entry in roster.neighbours}
    copied = changed(keys[copier], **{field: keys[honest].mask_public})
    signature = frame_of(from_client(cohort, Kind.ADVERTISE_KEYS, copier, copied)).signature
    leaf = advertisement_digest(cohort.params, ClientId(copier), encode_body(copied))
    data = tamper_request(
        round_,
        Phase.SHARE_KEYS,
        VICTIM,
        neighbours=tuple(
            changed(entry, advertisement=copied, signature=signature)
            if entry.client == copier
            else entry
            for entry in roster.neighbours
        ),
        digests=roster.digests[: 32 * copier] + leaf + roster.digests[32 * (copier + 1) :],
    )
    culprits = (ClientId(1), ClientId(3))
    error = refused(round_, Phase.SHARE_KEYS, data, InconsistentView, culprits=culprits)
    assert "the server forwards" in error.detail


def test_to_open_a_neighbours_boxes_an_accomplice_has_one_key_for_both_purposes(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    first = roster.neighbours[0]
    double = changed(first.advertisement, seal_public=first.advertisement.mask_public)
    signature = frame_of(from_client(cohort, Kind.ADVERTISE_KEYS, 1, double)).signature
    leaf = advertisement_digest(cohort.params, ClientId(1), encode_body(double))
    data = tamper_request(
        round_,
        Phase.SHARE_KEYS,
        VICTIM,
        neighbours=(
            changed(first, advertisement=double, signature=signature),
            *roster.neighbours[1:],
        ),
        digests=roster.digests[:32] + leaf + roster.digests[64:],
    )
    refused(round_, Phase.SHARE_KEYS, data, InconsistentView, culprits=(ClientId(1),))


# Shares


def test_to_confuse_owners_it_swaps_two_boxes(cohort):
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    one, two, *rest = body_of(round_.requests[Phase.MASKED_INPUT][VICTIM]).boxes
    swapped = (changed(one, sealed=two.sealed), changed(two, sealed=one.sealed), *rest)
    data = tamper_request(round_, Phase.MASKED_INPUT, VICTIM, boxes=swapped)
    refused(round_, Phase.MASKED_INPUT, data, AuthenticationFailed, culprits=(SERVER, ClientId(1)))


def test_to_collect_shares_at_one_holder_it_delivers_another_holders_box(cohort):
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    foreign = body_of(round_.requests[Phase.MASKED_INPUT][ClientId(2)]).boxes
    mine = body_of(round_.requests[Phase.MASKED_INPUT][VICTIM]).boxes
    meant_for_two = next(box for box in foreign if box.client == 1)
    data = tamper_request(round_, Phase.MASKED_INPUT, VICTIM, boxes=(meant_for_two, *mine[1:]))
    refused(round_, Phase.MASKED_INPUT, data, AuthenticationFailed, culprits=(SERVER, ClientId(1)))


def test_to_reuse_a_key_it_reflects_the_victims_own_box(cohort):
    """Both directions agree on one secret; with one key for both, a constant nonce would be fatal."""
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    sent = body_of(round_.replies[Phase.SHARE_KEYS][VICTIM]).boxes
    mine = body_of(round_.requests[Phase.MASKED_INPUT][VICTIM]).boxes
    assert sent[0].client == mine[0].client == 1
    data = tamper_request(round_, Phase.MASKED_INPUT, VICTIM, boxes=(sent[0], *mine[1:]))
    refused(round_, Phase.MASKED_INPUT, data, AuthenticationFailed, culprits=(SERVER, ClientId(1)))


def test_to_reuse_shares_it_replays_the_boxes_of_an_earlier_round(cohort):
    earlier = make_cohort(6, threshold=4, colluders=1, round_id=b"round-0000", seed="cohort")
    old = Round(earlier).run(Phase.MASKED_INPUT)
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    boxes = body_of(old.requests[Phase.MASKED_INPUT][VICTIM]).boxes
    data = tamper_request(round_, Phase.MASKED_INPUT, VICTIM, boxes=boxes)
    refused(round_, Phase.MASKED_INPUT, data, AuthenticationFailed, culprits=(SERVER, ClientId(1)))


def test_to_leave_a_mask_uncancelled_it_names_a_sharer_without_a_box(cohort):
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    boxes = body_of(round_.requests[Phase.MASKED_INPUT][VICTIM]).boxes
    data = tamper_request(round_, Phase.MASKED_INPUT, VICTIM, boxes=boxes[1:])
    refused(round_, Phase.MASKED_INPUT, data, InconsistentView)


def test_to_drop_a_mask_it_delivers_a_box_of_one_who_is_not_said_to_share(cohort):
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    without_one = to_bitmap(cohort.params, [c for c in cohort.params.client_ids if c != 1])
    data = tamper_request(round_, Phase.MASKED_INPUT, VICTIM, sharers=without_one)
    refused(round_, Phase.MASKED_INPUT, data, InconsistentView)


def test_to_unmask_the_victim_it_lets_too_few_clients_share(cohort):
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    boxes = body_of(round_.requests[Phase.MASKED_INPUT][VICTIM]).boxes
    few = to_bitmap(cohort.params, [ClientId(c) for c in (0, 1, 2)])
    data = tamper_request(round_, Phase.MASKED_INPUT, VICTIM, sharers=few, boxes=boxes[:2])
    refused(round_, Phase.MASKED_INPUT, data, InconsistentView)


def test_to_subtract_two_uploads_it_asks_for_a_second_masked_input(cohort):
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    round_.collect(Phase.MASKED_INPUT)
    victim = round_.clients[VICTIM]
    again = round_.requests[Phase.MASKED_INPUT][VICTIM]
    with pytest.raises(LocalProtocolError):
        victim.handle(again, vector=round_.vectors[VICTIM])
    refused(round_, Phase.CONSISTENCY_CHECK, again, UnexpectedMessage)
