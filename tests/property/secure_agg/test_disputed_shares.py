"""Whoever lies and about whom: secrets are right, a dispute holds a liar, decodings are few."""

from unittest.mock import patch

from hypothesis import event, given, settings
from hypothesis import strategies as st

from secure_agg import unmasking
from secure_agg.unmasking import recover
from tests.support.secagg_reveals import last_phase

CLIENTS, THRESHOLD = 11, 6
COHORTS = {
    lost: last_phase(CLIENTS, threshold=THRESHOLD, lost=lost) for lost in ((), (3,), (0, 10))
}


@st.composite
def lies(draw):
    """A cohort, its lying holders and dealers, and the false (owner, holder) pairs.

    No owner has more false shares than can be corrected, and t holders are honest.
    """
    lost = draw(st.sampled_from(sorted(COHORTS)))
    present = [client for client in range(CLIENTS) if client not in lost]
    correctable = (len(present) - THRESHOLD) // 2
    liars = draw(st.sets(st.sampled_from(present), max_size=len(present) - THRESHOLD))
    dealers = draw(st.sets(st.integers(0, CLIENTS - 1), max_size=4))
    pairs = []
    for owner in range(CLIENTS):
        able = sorted(present if owner in dealers else liars)
        if able:
            chosen = draw(st.sets(st.sampled_from(able), max_size=correctable))
            pairs += [(owner, holder) for holder in sorted(chosen)]
    return COHORTS[lost], liars, dealers, pairs


@settings(max_examples=150, deadline=None)
@given(lies())
def test_secrets_are_right_no_honest_pair_is_in_dispute_and_decodings_are_few(lie):
    phase, liars, dealers, pairs = lie
    with patch.object(unmasking, "correct", wraps=unmasking.correct) as correct:
        recovered = recover(phase.state, phase.with_false(pairs))
    restored = {**recovered.self_masks}
    restored |= {lost: key.private_bytes() for lost, key in recovered.mask_keys.items()}
    assert restored == phase.secrets
    for dispute in recovered.disputes:
        assert dispute.owner in dealers or set(dispute.holders) <= liars
        assert {(dispute.owner, holder) for holder in dispute.holders} <= set(pairs)
        assert dispute.at_least == len(dispute.holders) > 0
    assert [dispute.owner for dispute in recovered.disputes] == sorted(
        {dispute.owner for dispute in recovered.disputes}
    )
    assert correct.call_count == len(recovered.disputes)
    assert correct.call_count <= len(liars) * (len(dealers) + 1) + len(dealers)
    event(f"{correct.call_count} decodings")
