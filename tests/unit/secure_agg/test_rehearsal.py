"""The rehearsal runs real rounds and reports what happened in them."""

import itertools

import pytest

from secure_agg import InvalidParams, Phase, rehearse
from tests.support.secagg_rounds import PHASES


def ticking():
    """A clock that advances one second per reading."""
    return itertools.count(0.0).__next__


@pytest.mark.parametrize("phase", [None, *PHASES])
def test_drop_outs_in_any_phase_leave_an_exact_sum(phase):
    report = rehearse(
        clients=12, dimension=50, dropout_share=0.25, drop_phase=phase, clock=ticking()
    )
    assert report.exact
    assert not report.aborted
    lost = {row.phase: row.dropped for row in report.phases}
    assert sum(lost.values()) == 3
    if phase is not None:
        assert lost[phase] == 3
    late = lost[Phase.CONSISTENCY_CHECK] + lost[Phase.UNMASK]
    assert report.survivors == 12 - 3 + late


def test_messages_bytes_and_seconds_are_counted():
    report = rehearse(clients=5, dimension=1000, clock=ticking())
    for row in report.phases:
        assert row.replies == 5
        assert row.requests == (0 if row.phase is Phase.ADVERTISE_KEYS else 5)
        assert row.client_seconds == 5
        assert row.slowest_client_seconds == 1
        assert row.server_seconds == 6
    masked = report.phases[2]
    assert 5 * 4000 < masked.upload_bytes < 5 * 4000 + 1000
    assert report.seconds == 5 * (5 + 6)


def test_a_sparse_cohort_is_rehearsed_on_the_sparse_graph():
    report = rehearse(
        clients=70, dimension=10, dropout_share=0.1, modulus_bits=16, threads=2, clock=ticking()
    )
    assert report.exact
    assert report.plan.neighbourhood is not None
    assert report.plan.neighbourhood.degree < 69


@pytest.mark.parametrize("share", [-0.1, 0.6, 1.0])
def test_impossible_shares_are_refused(share):
    with pytest.raises(InvalidParams):
        rehearse(clients=10, dimension=5, dropout_share=share, clock=ticking())
