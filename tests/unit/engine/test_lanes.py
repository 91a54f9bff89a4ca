import numpy as np

from privfed_dpo.engine.lanes import LaneCoins, LaneRecord, lane_sum
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.mechanism.sampler import PoissonSampler
from tests.support.entropy import counted_entropy

CLIPPER = PairClipper(max_grad_norm=0.1, sensitivity_steps=1024)


def stream(label="s"):
    return StreamIssuer(counted_entropy(label)).issue(label)


def test_coins_are_fair_and_every_lane_has_one_host():
    coins = LaneCoins.toss(10_000, 7, stream())
    assert abs(coins.included.mean() - 0.5) < 0.03
    hosted = [lane for client in range(7) for lane in coins.of_client(client)]
    assert sorted(hosted) == np.flatnonzero(coins.included).tolist()


def test_an_oversized_canary_is_clipped_to_exactly_the_sensitivity():
    total = lane_sum([2, 5], 8, clipper=CLIPPER, sampler=PoissonSampler(1.0), stream=stream())
    assert total.tolist() == [0, 0, 1024, 0, 0, 1024, 0, 0]


def test_canaries_are_sampled_at_the_rate_of_pairs():
    lanes = list(range(20_000))
    total = lane_sum(
        lanes, 20_000, clipper=_small(), sampler=PoissonSampler(0.001), stream=stream()
    )
    assert 5 <= (total > 0).sum() <= 45  # mean 20, six standard deviations either way
    none = lane_sum([], 4, clipper=CLIPPER, sampler=PoissonSampler(0.5), stream=stream())
    assert none.tolist() == [0, 0, 0, 0]


def _small():
    return PairClipper(max_grad_norm=1.0, sensitivity_steps=1)


def test_a_record_round_trips_through_arrays():
    record = LaneRecord.start(LaneCoins.toss(5, 2, stream()))
    record = record.with_round(3, 9, np.arange(5.0)).with_round(4, 8, -np.arange(5.0))
    again = LaneRecord.from_arrays(dict(record.arrays()))
    assert again.rounds.tolist() == [3, 4]
    assert again.survivors.tolist() == [9, 8]
    assert np.array_equal(again.opened, record.opened)
    assert np.array_equal(again.coins.included, record.coins.included)
