"""Wrong shares: who may be at fault is told, nobody is blamed without proof, and work is bounded.

A dealer that seals a false share and a holder that changes a true one look alike to the server.
"""

from unittest.mock import patch

import numpy as np
import pytest

from secure_agg import ClientId, Dispute, Phase, RoundAborted, unmasking
from secure_agg.phases import Kind
from secure_agg.seal import SharePair, seal
from secure_agg.unmasking import recover
from tests.support.secagg_attacks import LIAR, body_of, changed, from_client
from tests.support.secagg_reveals import last_phase
from tests.support.secagg_rounds import PHASES, Round, make_cohort

NINE = last_phase(9, threshold=5)


def told(owner, *holders, at_least=None):
    return Dispute(owner, holders, len(holders) if at_least is None else at_least)


def decodings(phase, reveals):
    """What is recovered, and how often that took a decoding with errors."""
    with patch.object(unmasking, "correct", wraps=unmasking.correct) as correct:
        recovered = recover(phase.state, reveals)
    restored = {**recovered.self_masks}
    restored |= {lost: key.private_bytes() for lost, key in recovered.mask_keys.items()}
    assert restored == phase.secrets
    return recovered.disputes, correct.call_count


# Who is named


def test_to_frame_an_honest_holder_a_dealer_seals_it_a_share_that_does_not_fit():
    """The sum is right, and the honest holder is not named without its dealer."""
    cohort = make_cohort(7, threshold=5, colluders=1)
    framed = ClientId(3)
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    true = body_of(round_.answer(LIAR, Phase.SHARE_KEYS))
    state = round_.clients[LIAR]._state
    box = seal(
        SharePair(bytes(33), bytes(33)),
        shared=state.box_secrets[framed],
        view_digest=state.view.digest,
        owner=LIAR,
        holder=framed,
    )
    boxes = tuple(changed(b, sealed=box) if b.client == framed else b for b in true.boxes)
    round_.gone.add(LIAR)
    round_.collect(Phase.SHARE_KEYS)
    data = from_client(cohort, Kind.SHARE_KEYS, LIAR, changed(true, boxes=boxes))
    round_.server.receive(LIAR, data)
    round_.close()
    round_.gone.clear()
    for later in PHASES[2:]:
        round_.collect(later)
        round_.close()
    result = round_.server.result
    assert result.disputes == (told(LIAR, framed),)
    assert "one of them lied" in str(result.disputes[0])
    np.testing.assert_array_equal(result.total, round_.expected_sum(range(7)))


def test_a_holder_that_changes_its_share_leaves_the_same_trace_as_its_dealer_would():
    assert decodings(NINE, NINE.with_false([(LIAR, 3)]))[0] == (told(LIAR, 3),)


def test_with_no_share_to_spare_neither_the_owner_nor_a_holder_is_blamed_alone():
    """Client 6 lies about the secret of client 0; five shares, five needed."""
    phase = last_phase(7, threshold=5, lost=[1, 2])
    with pytest.raises(RoundAborted) as caught:
        recover(phase.state, phase.with_false([(0, 6)]))
    assert caught.value.disputes == (told(0, 3, 4, 5, 6, at_least=1),)
    assert caught.value.detail == (
        "the shares of clients 3, 4, 5, 6 contradict what client 0 published: client 0 lied, or at "
        "least 1 of them did"
    )
    assert caught.value.detail in str(caught.value)
    assert caught.value.missing == ()


def test_an_abort_tells_the_disputes_that_came_before_it():
    lies = [(2, 4), *((5, holder) for holder in (1, 2, 3))]
    with pytest.raises(RoundAborted) as caught:
        recover(NINE.state, NINE.with_false(lies))
    first, last = caught.value.disputes
    assert first == told(2, 4)
    assert (last.owner, last.at_least) == (5, 3)
    assert set(last.holders) == {0, 1, 2, 3, 4, 6, 7, 8}


def test_an_owner_whose_own_share_is_off_has_nobody_else_to_blame():
    disputes, _ = decodings(NINE, NINE.with_false([(4, 4), (4, 7)]))
    assert disputes == (told(4, 4, 7),)
    assert str(told(4, 4)) == "the share that client 4 kept contradicts what it published"
    assert "client 4 lied, or all of them did" in str(disputes[0])


# What it costs


@pytest.mark.parametrize("liar", range(9))
def test_a_liar_about_everybody_costs_one_decoding(liar):
    """Its first lie that stands in the way puts it last for all owners that follow."""
    lies = [(owner, liar) for owner in range(9)]
    disputes, count = decodings(NINE, NINE.with_false(lies))
    assert count == len(disputes) <= 1
    assert all(dispute == told(0, liar) for dispute in disputes)


def test_lost_clients_keys_are_restored_without_the_liar_too():
    phase = last_phase(9, threshold=5, lost=[4, 8])
    lies = [(owner, 1) for owner in range(9)]
    assert decodings(phase, phase.with_false(lies)) == ((told(0, 1),), 1)


def test_honest_shares_cost_no_decoding():
    assert decodings(NINE, NINE.true) == ((), 0)


def test_too_few_shares_to_correct_any_are_not_decoded():
    phase = last_phase(7, threshold=5, lost=[2])
    with (
        patch.object(unmasking, "correct", wraps=unmasking.correct) as correct,
        pytest.raises(RoundAborted),
    ):
        recover(phase.state, phase.with_false([(0, 3)]))
    assert correct.call_count == 0


def test_framed_holders_are_still_asked_where_no_others_are_left():
    """Three dealers cast doubt on six of nine holders; the three others would not be enough."""
    framed = [(owner, holder) for owner in (0, 1, 2) for holder in (2 * owner + 3, 2 * owner + 4)]
    disputes, count = decodings(NINE, NINE.with_false(framed))
    assert {holder for dispute in disputes for holder in dispute.holders} <= {3, 4, 5, 6, 7, 8}
    lies = [*framed, (7, 3), (7, 4), (8, 3), (8, 4)]
    disputes, again = decodings(NINE, NINE.with_false(lies))
    assert disputes[-1] == told(7, 3, 4), "they are found, once, among holders in equal doubt"
    assert again == count + 1
