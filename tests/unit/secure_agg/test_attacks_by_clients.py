"""What lying clients try with shares, inputs and reveals against an honest server.

Each test is named after what the attacker wants. A refused message changes nothing: the sender
counts as dropped, the round goes on, and the sum of the others is exact, or the round aborts.
"""

from dataclasses import replace

import numpy as np
import pytest

from secure_agg import (
    AuthenticationFailed,
    ClientId,
    Dispute,
    InconsistentView,
    MalformedMessage,
    Phase,
    RoundAborted,
    client,
)
from secure_agg.client_states import RoundSecrets
from secure_agg.keys import AgreementKey
from secure_agg.messages import Box, Reveal, ShareKeys
from secure_agg.phases import Kind
from secure_agg.seal import SharePair, seal
from secure_agg.shamir import PRIME, split
from tests.support.secagg_attacks import (
    LIAR,
    body_of,
    changed,
    finishes_without_the_liar,
    from_client,
    server_refuses,
    tamper_reply,
)
from tests.support.secagg_rounds import PHASES, Round, entropy_from, make_cohort


@pytest.fixture
def cohort():
    return make_cohort(6, threshold=4, colluders=1)


# Shares


def test_to_keep_a_neighbour_from_recovering_it_leaves_out_a_holder(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    true = body_of(round_.answer(LIAR, Phase.SHARE_KEYS))
    data = from_client(cohort, Kind.SHARE_KEYS, LIAR, changed(true, boxes=true.boxes[1:]))
    server_refuses(round_, data, InconsistentView)
    finishes_without_the_liar(round_)


def test_to_split_the_cohort_it_shares_for_another_roster(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    data = tamper_reply(round_, Phase.SHARE_KEYS, LIAR, view_digest=bytes(32))
    server_refuses(round_, data, InconsistentView)


def test_to_silence_a_neighbour_it_sends_it_an_unreadable_box(cohort):
    """The neighbour gives up and names the liar; the others finish without that neighbour."""
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    round_.gone.add(LIAR)
    round_.collect(Phase.SHARE_KEYS)
    true = body_of(round_.answer(LIAR, Phase.SHARE_KEYS))
    boxes = (changed(true.boxes[0], sealed=bytes(82)), *true.boxes[1:])
    data = from_client(cohort, Kind.SHARE_KEYS, LIAR, changed(true, boxes=boxes))
    round_.server.receive(LIAR, data)
    round_.close()
    round_.gone = {ClientId(1)}
    with pytest.raises(AuthenticationFailed) as caught:
        round_.answer(ClientId(1), Phase.MASKED_INPUT)
    assert LIAR in caught.value.culprits
    for later in PHASES[2:]:
        round_.collect(later)
        round_.close()
    result = round_.server.result
    assert result.survivors == (0, 2, 3, 4, 5)
    np.testing.assert_array_equal(result.total, round_.expected_sum(result.survivors))


def test_to_plant_a_bad_share_it_seals_bytes_that_are_none(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    round_.gone.add(LIAR)
    round_.collect(Phase.SHARE_KEYS)
    true = body_of(round_.answer(LIAR, Phase.SHARE_KEYS))
    state = round_.clients[LIAR]._state
    too_large = PRIME.to_bytes(33, "big")
    box = seal(
        SharePair(too_large, too_large),
        shared=state.box_secrets[ClientId(1)],
        view_digest=state.view.digest,
        owner=LIAR,
        holder=ClientId(1),
    )
    boxes = (changed(true.boxes[0], sealed=box), *true.boxes[1:])
    round_.server.receive(
        LIAR, from_client(cohort, Kind.SHARE_KEYS, LIAR, changed(true, boxes=boxes))
    )
    round_.close()
    with pytest.raises(MalformedMessage) as caught:
        round_.answer(ClientId(1), Phase.MASKED_INPUT)
    assert LIAR in caught.value.culprits


# Inputs


@pytest.mark.parametrize("change", [-1, 1, 4])
def test_to_shift_the_sum_it_sends_a_vector_of_another_length(cohort, change):
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    data = from_client(
        cohort, Kind.MASKED_INPUT, LIAR, bytes(32 + cohort.params.vector_bytes + change)
    )
    server_refuses(round_, data, MalformedMessage)
    finishes_without_the_liar(round_)


# Confirmations


def test_to_spoil_the_quorum_it_confirms_another_survivor_set(cohort):
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    data = tamper_reply(round_, Phase.CONSISTENCY_CHECK, LIAR, statement=bytes(32))
    server_refuses(round_, data, InconsistentView)
    finishes_without_the_liar(round_, in_sum=True)


# Reveals


def test_to_spoil_the_sum_it_reveals_wrong_shares_where_none_can_be_spared():
    """Five shares of which four determine a secret: one lie is noticed, so there is no sum."""
    cohort = make_cohort(6, threshold=4, colluders=1)
    round_ = Round(cohort, {Phase.MASKED_INPUT: [5]}).run(Phase.UNMASK)
    round_.gone.add(LIAR)
    true = body_of(round_.answer(LIAR, Phase.UNMASK))
    wrong = tuple(
        changed(r, share=(int.from_bytes(r.share, "big") ^ 1).to_bytes(33, "big"))
        for r in true.reveals
    )
    round_.collect(Phase.UNMASK)
    round_.server.receive(
        LIAR, from_client(cohort, Kind.UNMASK, LIAR, changed(true, reveals=wrong))
    )
    with pytest.raises(RoundAborted) as caught:
        round_.server.close_phase()
    assert "contradict" in caught.value.detail


@pytest.mark.parametrize("liars", [[0], [0, 3], [1, 2]])
def test_to_spoil_the_sum_they_reveal_wrong_shares_but_are_outnumbered(liars):
    """Nine holders, five determine: two wrong shares are corrected and told with their owner."""
    cohort = make_cohort(9, threshold=5, colluders=0)
    round_ = Round(cohort).run(Phase.UNMASK)
    round_.gone |= set(liars)
    round_.collect(Phase.UNMASK)
    for liar in liars:
        true = body_of(round_.answer(ClientId(liar), Phase.UNMASK))
        wrong = tuple(changed(r, share=bytes(32) + bytes([liar + 1])) for r in true.reveals)
        data = from_client(cohort, Kind.UNMASK, liar, changed(true, reveals=wrong))
        round_.server.receive(liar, data)
    round_.close()
    result = round_.server.result
    assert result.disputes == (Dispute(ClientId(0), tuple(liars), len(liars)),)
    np.testing.assert_array_equal(result.total, round_.expected_sum(range(9)))


def test_to_spoil_the_sum_it_reveals_the_other_secret_of_a_peer(cohort):
    """The mask-key share of a survivor is no share of its self mask: detected by commitment."""
    cohort = make_cohort(9, threshold=5)
    round_ = Round(cohort).run(Phase.UNMASK)
    held = round_.clients[LIAR]._state.held
    reveals = tuple(Reveal(owner, pair.mask_key) for owner, pair in sorted(held.items()))
    round_.gone.add(LIAR)
    round_.collect(Phase.UNMASK)
    true = body_of(round_.answer(LIAR, Phase.UNMASK))
    data = from_client(cohort, Kind.UNMASK, LIAR, changed(true, reveals=reveals))
    round_.server.receive(LIAR, data)
    round_.close()
    assert round_.server.result.disputes == (Dispute(LIAR, (LIAR,), 1),)
    np.testing.assert_array_equal(round_.server.result.total, round_.expected_sum(range(9)))


def test_to_reveal_for_strangers_it_adds_owners(cohort):
    round_ = Round(cohort).run(Phase.UNMASK)
    true = body_of(round_.answer(LIAR, Phase.UNMASK))
    for reveals in (true.reveals[1:], true.reveals[::-1], (*true.reveals, Reveal(77, bytes(33)))):
        data = from_client(cohort, Kind.UNMASK, LIAR, changed(true, reveals=reveals))
        server_refuses(round_, data, InconsistentView)
    finishes_without_the_liar(round_, in_sum=True)


def test_to_overflow_the_field_it_reveals_a_share_out_of_range(cohort):
    round_ = Round(cohort).run(Phase.UNMASK)
    true = body_of(round_.answer(LIAR, Phase.UNMASK))
    big = changed(true.reveals[0], share=PRIME.to_bytes(33, "big"))
    data = from_client(cohort, Kind.UNMASK, LIAR, changed(true, reveals=(big, *true.reveals[1:])))
    server_refuses(round_, data, MalformedMessage)


def test_to_hide_a_wrong_mask_it_commits_to_another_self_mask(cohort):
    """The secret that the shares give is not the published one, so there is no sum at all."""
    round_ = Round(cohort)
    session = round_.clients[LIAR]
    session.advertise()
    state = session._state
    other = RoundSecrets(state.secrets.mask_key, state.secrets.seal_key, bytes(32))
    data = from_client(cohort, Kind.ADVERTISE_KEYS, LIAR, other.advertisement(state.member))
    round_.gone.add(LIAR)
    round_.collect(Phase.ADVERTISE_KEYS)
    round_.server.receive(LIAR, data)
    round_.close()
    # From here on the liar follows the protocol with the secret it did not commit to.
    roster = body_of(round_.requests[Phase.SHARE_KEYS][LIAR])
    true_state, _ = client.share_keys(replace(state, secrets=other), roster, entropy_from("x"))
    secret, key = state.secrets.self_mask_secret, state.secrets.mask_key.private_bytes()
    split_both = [
        split(s, holders=6, threshold=4, entropy=entropy_from("y")) for s in (secret, key)
    ]
    pairs = {ClientId(c): SharePair(m, k) for c, (m, k) in enumerate(zip(*split_both, strict=True))}
    boxes = tuple(
        Box(
            holder,
            seal(
                pairs[holder],
                shared=true_state.box_secrets[holder],
                view_digest=true_state.view.digest,
                owner=LIAR,
                holder=holder,
            ),
        )
        for holder in range(1, 6)
    )
    message = ShareKeys(true_state.view.digest, boxes)
    round_.server.receive(LIAR, from_client(cohort, Kind.SHARE_KEYS, LIAR, message))
    round_.collect(Phase.SHARE_KEYS)
    round_.close()
    vector = from_client(
        cohort,
        Kind.MASKED_INPUT,
        LIAR,
        round_.server._state.sharing + bytes(cohort.params.vector_bytes),
    )
    round_.server.receive(LIAR, vector)
    for later in PHASES[2:]:
        round_.collect(later)
        if later is not Phase.UNMASK:
            round_.close()
    with pytest.raises(RoundAborted) as caught:
        round_.server.close_phase()
    (dispute,) = caught.value.disputes
    assert dispute == Dispute(LIAR, tuple(map(ClientId, range(1, 6))), 1)


def test_a_dealer_of_false_mask_keys_that_drops_out_costs_the_round_not_the_sum(cohort):
    """Shares of another key than the advertised one are noticed when the key is restored."""
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    round_.gone.add(LIAR)
    round_.collect(Phase.SHARE_KEYS)
    session = round_.clients[LIAR]
    state = session._state
    false_key = AgreementKey.generate(entropy_from("false"))
    roster = body_of(round_.requests[Phase.SHARE_KEYS][LIAR])
    honest_check = client.check_roster(state.member, state.secrets, roster)
    assert honest_check.participants == cohort.params.client_ids

    class Dealer:
        """The true keys to the outside, another private key to the shares."""

        public = state.secrets.mask_key.public
        agree = state.secrets.mask_key.agree
        private_bytes = false_key.private_bytes

    lying = replace(state, secrets=replace(state.secrets, mask_key=Dealer))
    _, data = client.share_keys(lying, roster, entropy_from("dealer"))
    round_.server.receive(LIAR, data)
    round_.close()
    for later in PHASES[2:]:
        round_.collect(later)
        if later is not Phase.UNMASK:
            round_.close()
    with pytest.raises(RoundAborted) as caught:
        round_.server.close_phase()
    (dispute,) = caught.value.disputes
    assert dispute == Dispute(LIAR, tuple(map(ClientId, range(1, 6))), 1)
