"""Partitions: hand-made cases for each kind, its public facts and its refusals."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest

from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.partition import note_left_out, partition_pairs
from privfed_dpo.errors import DataError, InputNotice


def pairs_of(sizes, topic="t"):
    return [
        PreferencePair(f"p{index}", f" {user}", " no", user=user, topic=topic)
        for user, size in sizes.items()
        for index in range(size)
    ]


def test_natural_leaves_out_small_users_and_caps_large_ones():
    pairs = pairs_of({"carol": 9, "alice": 2, "bob": 4})
    partition = partition_pairs(pairs, kind="natural", min_pairs=3, max_pairs=6, seed=1)
    assert [shard.client for shard in partition.shards] == ["bob", "carol"]
    assert [len(shard.pairs) for shard in partition.shards] == [4, 6]
    facts = partition.facts
    assert (facts.clients, facts.pairs_total, facts.pairs_min, facts.pairs_max) == (2, 10, 4, 6)
    assert (facts.dropped_clients, facts.dropped_pairs, facts.opposed_clients) == (1, 5, 0)
    assert all(pair.user == shard.client for shard in partition.shards for pair in shard.pairs)


def test_what_is_kept_of_one_client_does_not_depend_on_the_others():
    alone = partition_pairs(pairs_of({"bob": 9}), kind="natural", max_pairs=5, seed=3)
    crowd = partition_pairs(
        pairs_of({"alice": 30, "bob": 9, "carol": 2}), kind="natural", max_pairs=5, seed=3
    )
    assert alone.shards[0] == next(shard for shard in crowd.shards if shard.client == "bob")
    other_seed = partition_pairs(pairs_of({"bob": 9}), kind="natural", max_pairs=5, seed=4)
    assert other_seed.shards != alone.shards


def test_natural_can_draw_a_number_of_clients():
    pairs = pairs_of({f"u{index}": 3 for index in range(20)} | {"tiny": 1})
    partition = partition_pairs(pairs, kind="natural", clients=5, min_pairs=2, seed=0)
    assert partition.facts.clients == 5
    assert partition.facts.dropped_clients == 16
    with pytest.raises(DataError, match="21 clients were asked for, but only 20"):
        partition_pairs(pairs, kind="natural", clients=21, min_pairs=2)


def test_iid_deals_every_pair_once():
    pairs = pairs_of({"alice": 5, "bob": 6})
    partition = partition_pairs(pairs, kind="iid", clients=4, seed=0)
    assert [shard.client for shard in partition.shards] == [f"client-00{i}" for i in range(4)]
    assert sorted(len(shard.pairs) for shard in partition.shards) == [2, 3, 3, 3]
    dealt = [pair for shard in partition.shards for pair in shard.pairs]
    assert Counter(dealt) == Counter(pairs)


def _topic_concentration(alpha):
    """Mean over clients of the share of their most frequent topic, ten topics of 100 pairs."""
    pairs = [pair for topic in range(10) for pair in pairs_of({"u": 100}, topic=f"t{topic}")]
    partition = partition_pairs(pairs, kind="dirichlet", clients=10, alpha=alpha, seed=5)
    shares = [
        max(Counter(pair.topic for pair in shard.pairs).values()) / len(shard.pairs)
        for shard in partition.shards
    ]
    return sum(shares) / len(shares)


def test_dirichlet_skews_more_the_smaller_alpha_is():
    assert _topic_concentration(1000.0) < 0.15
    assert 0.25 < _topic_concentration(0.5) < 0.6
    assert _topic_concentration(0.05) > 0.6


def test_dirichlet_can_group_by_user_and_drops_only_empty_clients():
    pairs = pairs_of({"alice": 40, "bob": 40})
    partition = partition_pairs(
        pairs, kind="dirichlet", clients=6, alpha=0.05, group_by="user", seed=0
    )
    assert partition.facts.pairs_total == 80
    assert partition.facts.clients + partition.facts.dropped_clients == 6
    assert partition.facts.dropped_clients > 0
    assert partition.facts.dropped_pairs == 0


def left_out(pairs, **how):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        note_left_out(partition_pairs(pairs, **how).facts)
    assert all(note.category is InputNotice for note in told)
    return [str(note.message) for note in told]


def test_what_is_left_out_is_said():
    pairs = pairs_of({"alice": 9, "bob": 3, "carol": 1})
    assert left_out(pairs, kind="natural") == []
    (said,) = left_out(pairs, kind="natural", min_pairs=2, max_pairs=5)
    assert said == (
        "1 of 3 clients are left out: they hold fewer pairs than data.min_pairs, or were not "
        "drawn (data.clients). 5 of 13 pairs are left out: theirs, or above data.max_pairs."
    )
    assert left_out(pairs, kind="natural", max_pairs=5) == [
        "4 of 13 pairs are left out: above data.max_pairs."
    ]
    (said,) = left_out(pairs, kind="dirichlet", clients=13, alpha=0.05)
    assert "of 13 clients are left out" in said
    assert "pairs are left out" not in said, "clients without pairs take none along"


def test_opposed_flips_the_last_clients_and_says_so():
    pairs = pairs_of({"u": 12})
    partition = partition_pairs(pairs, kind="opposed", clients=4, opposed_fraction=0.5, seed=2)
    plain = partition_pairs(pairs, kind="iid", clients=4, seed=2)
    assert [shard.client for shard in partition.shards] == [
        "client-000", "client-001", "client-002-opposed", "client-003-opposed",
    ]  # fmt: skip
    assert partition.facts.opposed_clients == 2
    for shard, straight in zip(partition.shards, plain.shards, strict=True):
        flipped = shard.client.endswith("opposed")
        expected = tuple(pair.flipped() if flipped else pair for pair in straight.pairs)
        assert shard.pairs == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "iid"}, "needs the number of clients"),
        ({"kind": "iid", "clients": 0}, "at least 1, not 0"),
        ({"kind": "iid", "clients": 1000}, "cannot be dealt to 1000 clients"),
        ({"kind": "sorted", "clients": 2}, "unknown partition 'sorted'"),
        ({"kind": "natural", "min_pairs": 0}, "floor of pairs per client must be at least 1"),
        ({"kind": "natural", "min_pairs": 5, "max_pairs": 4}, "cap of 4 pairs lies below"),
        ({"kind": "natural", "min_pairs": 50}, "no client has the minimum of 50"),
        ({"kind": "dirichlet", "clients": 2, "alpha": 0.0}, "alpha must be above 0"),
        ({"kind": "dirichlet", "clients": 2, "alpha": float("nan")}, "alpha must be above 0"),
        ({"kind": "opposed", "clients": 2, "opposed_fraction": 1.5}, r"must lie in \[0, 1\]"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        partition_pairs(pairs_of({"u": 8}), **arguments)


def test_missing_labels_and_no_pairs_are_refused():
    nameless = [*pairs_of({"u": 3}), PreferencePair("p", "a", "b")]
    with pytest.raises(DataError, match="1 of 4 pairs have no 'user'") as caught:
        partition_pairs(nameless, kind="natural")
    assert "iid" in caught.value.advice
    with pytest.raises(DataError, match="no 'topic'"):
        partition_pairs(nameless, kind="dirichlet", clients=2)
    with pytest.raises(DataError, match="no pairs to divide"):
        partition_pairs([], kind="natural")
