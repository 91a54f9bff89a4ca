import math
from dataclasses import replace

import numpy as np
import pytest

from accounting import Adversary, GridNoise, Mode, ReleaseSchedule, lane_scores
from privfed_dpo.audit.findings import Verdict
from privfed_dpo.audit.lane_audit import LaneEvidence, audit_lanes
from privfed_dpo.audit.lane_check import LaneRun
from privfed_dpo.audit.simulation import CORRECT
from privfed_dpo.engine.lanes import LaneCoins, LaneRecord
from privfed_dpo.errors import DataError

NOISE = GridNoise(2.0, 1 << 16, 4, 1, 0, dimension=10, releases=4)
SCHEDULE = ReleaseSchedule(Mode.DISTRIBUTED, 0.5, NOISE, participations=2)
DELTA = 1e-5


def record(opened, included, hosts, rounds=None, survivors=None):
    opened = np.array(opened, dtype=float)
    count = len(opened)
    return LaneRecord(
        LaneCoins(np.array(included), np.array(hosts)),
        np.array(rounds if rounds is not None else range(1, count + 1)),
        np.array(survivors if survivors is not None else [3] * count),
        opened,
    )


def test_a_round_without_the_host_says_nothing_about_its_lane():
    """Lane 1 lives at client 3, which is missing in round 2: only round 1 counts for it."""
    kept = record([[1.0, 0.5], [7.0, 9.0]], [True, False], [0, 3], survivors=[4, 3])
    evidence = LaneEvidence.of_run(kept, SCHEDULE, {1: (0, 1, 2, 3), 2: (0, 1, 2)})
    full, fewest = (NOISE.effective_noise_multiplier(n, 0) for n in (4, 3))
    first = lane_scores([[1.0, 0.5]], 1.0, 0.5, full)
    second = lane_scores([[7.0, 9.0]], 1.0, 0.5, fewest)
    assert evidence.scores() == pytest.approx([first[0] + second[0], first[1]])


def test_noise_follows_the_survivors_of_each_round():
    kept = record([[1.0], [1.0]], [True], [0], survivors=[3, 4])
    evidence = LaneEvidence.of_run(kept, SCHEDULE, {1: (0, 1, 2), 2: (0, 1, 2, 3)})
    # Three survivors give exactly what was sold, four give a third more variance.
    assert evidence.noise[0] == pytest.approx(2.0)
    assert evidence.noise[1] == pytest.approx(2.0 * math.sqrt(4 / 3), rel=1e-6)
    assert evidence.epsilon_as_run(DELTA) < SCHEDULE.epsilon(Adversary.SERVER, DELTA).pld


def test_a_record_of_other_rounds_is_refused():
    kept = record([[1.0]], [True], [0])
    with pytest.raises(DataError, match="other rounds"):
        LaneEvidence.of_run(kept, SCHEDULE, {1: (0, 1)})
    with pytest.raises(DataError, match="other rounds"):
        LaneEvidence.of_run(kept, SCHEDULE, {2: (0, 1, 2)})


def test_lanes_without_a_noisy_sum_are_refused():
    quiet = ReleaseSchedule(Mode.NONE, 0.5, None, participations=2)
    with pytest.raises(DataError, match="no noisy sum"):
        LaneEvidence.of_run(record([[1.0]], [True], [0]), quiet, {1: (0, 1, 2)})
    with pytest.raises(DataError, match="no noisy sum"):
        LaneEvidence.of_run(record(np.zeros((0, 1)), [True], [0], []), SCHEDULE, {})


def test_thresholds_lie_where_the_mechanism_puts_the_scores():
    """Monte Carlo of the planned mechanism: means within five standard errors, spread in 3 %."""
    rng = np.random.default_rng(8)
    rounds, lanes, noise, rate = 20, 20_000, 1.5, 0.3
    evidence = LaneEvidence(
        coins=np.zeros(lanes, dtype=bool),
        opened=np.zeros((rounds, lanes)),
        noise=np.full(rounds, noise),
        present=np.ones((rounds, lanes), dtype=bool),
        sample_rate=rate,
    )
    middle, high, one, two, three = evidence.thresholds()
    drawn = rng.random((rounds, lanes)) < rate
    disturbed = rng.normal(0, noise, (2, rounds, lanes))
    out = lane_scores(disturbed[0], 1.0, rate, noise)
    inside = lane_scores(drawn + disturbed[1], 1.0, rate, noise)
    assert abs(high - inside.mean()) < 5 * inside.std() / math.sqrt(lanes)
    assert abs(2 * middle - high - out.mean()) < 5 * out.std() / math.sqrt(lanes)
    assert two - one == pytest.approx(out.std(), rel=0.03)
    assert three - two == pytest.approx(two - one)


@pytest.fixture(scope="module")
def correct():
    return LaneRun.play(CORRECT, 0)


def test_a_correct_run_passes_and_its_bounds_are_worth_something(correct):
    found = {judged.bound.method: judged for judged in correct.bounds(0.95)}
    assert len(found) == 5
    assert all(judged.verdict is Verdict.PASS for judged in found.values())
    assert found["gaussian_fit"].bound.epsilon > 0.4 * correct.certified
    assert found["rates_gaussian"].bound.epsilon > 0.2 * correct.certified
    assert found["one_run"].ceiling > correct.certified, "it could have refuted the claim"
    assert found["one_run"].as_run == pytest.approx(correct.certified, rel=1e-3)


def test_lanes_with_more_signal_than_was_sold_are_refuted(correct):
    """Twice what an included canary may add: 0.1 of a clip norm more in the mean of a round."""
    evidence = correct.evidence
    louder = replace(evidence, opened=evidence.opened + 0.1 * evidence.coins)
    bounds = audit_lanes(louder, certified=correct.certified, delta=correct.delta)
    assert Verdict.FAIL in {judged.verdict for judged in bounds}


def test_lanes_without_any_noise_are_refuted_even_without_a_fit(correct):
    coins = correct.evidence.coins
    bare = replace(correct.evidence, opened=np.tile(coins * 1.0, (len(correct.evidence.noise), 1)))
    bounds = audit_lanes(bare, certified=correct.certified, delta=correct.delta)
    methods = {judged.bound.method for judged in bounds}
    assert "gaussian_fit" not in methods, "two constants have no variance to fit"
    assert {j.bound.method for j in bounds if j.verdict is Verdict.FAIL} >= {
        "one_run",
        "one_run_gaussian",
        "rates",
        "rates_gaussian",
    }


def test_one_sided_coins_leave_the_bounds_that_need_no_comparison(correct):
    everyone = replace(correct.evidence, coins=np.ones(correct.evidence.coins.size, dtype=bool))
    bounds = audit_lanes(everyone, certified=correct.certified, delta=correct.delta)
    assert {judged.bound.method for judged in bounds} == {"one_run", "one_run_gaussian"}
