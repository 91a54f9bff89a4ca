"""A round gives the exact sum of the survivors or aborts, whoever drops out and whenever."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_agg import Phase, RoundAborted
from tests.support.secagg_rounds import PHASES, Round, make_cohort


@st.composite
def drop_outs(draw):
    """A cohort and, for every client, the phase before whose reply it vanishes (or never)."""
    count = draw(st.integers(2, 9))
    colluders = draw(st.integers(0, max(0, (count - 2) // 3)))
    lowest = max((count + colluders) // 2 + 1, colluders + 2)
    threshold = draw(st.integers(lowest, max(lowest, count)))
    ids = draw(st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count, unique=True))
    bits = draw(st.sampled_from([16, 32, 64]))
    length = draw(st.integers(1, 40))
    fates = {client: draw(st.sampled_from([None, None, None, *PHASES])) for client in ids}
    cohort = make_cohort(
        ids,
        threshold=threshold,
        colluders=colluders,
        vector_length=length,
        modulus_bits=bits,
    )
    lost = {phase: [c for c, fate in fates.items() if fate is phase] for phase in PHASES}
    return cohort, lost


@settings(max_examples=80, deadline=None)
@given(drop_outs())
def test_the_sum_is_exactly_the_survivors_or_the_round_aborts(case):
    cohort, lost = case
    round_ = Round(cohort, lost)
    present = len(cohort.params.members)
    for phase in PHASES:
        round_.collect(phase)
        present -= len(lost[phase])
        if present < cohort.params.threshold:
            with pytest.raises(RoundAborted) as caught:
                round_.server.close_phase()
            assert caught.value.phase is phase
            assert caught.value.received == present
            assert set(caught.value.missing) == set(lost[phase])
            return
        round_.close()
    result = round_.server.result
    late = {Phase.CONSISTENCY_CHECK, Phase.UNMASK}
    gone = {c for phase, clients in lost.items() if phase not in late for c in clients}
    assert result.survivors == tuple(sorted(set(cohort.params.client_ids) - gone))
    assert {phase: set(clients) for phase, clients in result.dropped.items()} == {
        phase: set(clients) for phase, clients in lost.items()
    }
    np.testing.assert_array_equal(result.total, round_.expected_sum(result.survivors))
    assert result.total.dtype == np.dtype(cohort.params.dtype)
