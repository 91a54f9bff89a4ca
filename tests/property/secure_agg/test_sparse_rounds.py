"""Rounds on the ring graph: exact whatever vanishes, or aborted with the reason named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_agg import Neighbourhood, Phase, RoundAborted
from tests.support.secagg_rounds import PHASES, Round, make_cohort

NEAR = Neighbourhood(degree=6, share_threshold=5, signature_quorum=9, signature_checks=6)


@settings(max_examples=40, deadline=None)
@given(
    fates=st.lists(st.sampled_from([None, None, None, None, *PHASES]), min_size=14, max_size=14),
    seed=st.integers(0, 50),
)
def test_the_sum_is_exactly_the_survivors_or_the_round_aborts(fates, seed):
    cohort = make_cohort(
        14, threshold=9, colluders=1, neighbourhood=NEAR, round_id=b"round-%04d" % seed
    )
    lost = {phase: [c for c, fate in enumerate(fates) if fate is phase] for phase in PHASES}
    round_ = Round(cohort, lost)
    aborted = None
    try:
        round_.run()
    except RoundAborted as error:
        aborted = error
    if aborted is None:
        result = round_.server.result
        np.testing.assert_array_equal(result.total, round_.expected_sum(result.survivors))
        return
    assert aborted.received < aborted.needed
    gone = {c for p in PHASES[: PHASES.index(aborted.phase) + 1] for c in lost[p]}
    if 14 - len(gone) >= cohort.params.quorum:
        # Enough clients, but too few around somebody: the reason says so.
        assert aborted.detail
    assert set(aborted.missing) <= gone


@pytest.mark.parametrize("phase", [Phase.SHARE_KEYS, Phase.MASKED_INPUT, Phase.CONSISTENCY_CHECK])
def test_losing_too_many_around_one_client_aborts_the_round_by_name(phase):
    """Two neighbours on one side vanish: 3 holders are left around some client, 4 are needed."""
    near = Neighbourhood(degree=4, share_threshold=4, signature_quorum=11, signature_checks=11)
    cohort = make_cohort(20, threshold=11, neighbourhood=near)
    graph = Round(cohort).run(Phase.SHARE_KEYS).server._state.view.graph
    lost = [graph.ring[4], graph.ring[5]]
    with pytest.raises(RoundAborted) as caught:
        Round(cohort, {phase: lost}).run()
    assert caught.value.phase is phase
    assert caught.value.detail.startswith("around client")
    assert (caught.value.received, caught.value.needed) == (3, 4)
    assert set(caught.value.missing) == set(lost)
