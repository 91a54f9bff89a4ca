from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.audit.held_back import hold_back
from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.partition import partition_pairs


def partition(sizes):
    pairs = [
        PreferencePair(f"p{user}-{i}", "a", "b", user=f"user-{user}")
        for user, size in enumerate(sizes)
        for i in range(size)
    ]
    return partition_pairs(pairs, kind="natural")


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6), count=st.integers(0, 12))
def test_every_pair_is_either_trained_on_or_held_back(sizes, count):
    whole = partition(sizes)
    split = hold_back(whole, count, seed=3)
    for shard, kept, withheld in zip(
        whole.shards, split.partition.shards, split.pairs, strict=True
    ):
        assert kept.client == shard.client
        assert {*kept.pairs, *withheld} == {*shard.pairs}
        assert len(withheld) == min(count, len(shard.pairs) // 2)
        assert not {*kept.pairs} & {*withheld}
    facts = split.partition.facts
    assert facts.pairs_total == sum(len(shard.pairs) for shard in split.partition.shards)
    assert facts.pairs_min == min(len(shard.pairs) for shard in split.partition.shards)


def test_the_choice_is_public_and_does_not_depend_on_content():
    sizes = (10, 12)
    one, again = hold_back(partition(sizes), 4, seed=3), hold_back(partition(sizes), 4, seed=3)
    assert one == again
    assert hold_back(partition(sizes), 4, seed=4) != one


def test_other_clients_do_not_change_what_one_client_holds_back():
    alone, together = partition((10,)), partition((10, 7, 3))
    assert hold_back(alone, 4, seed=1).pairs[0] == hold_back(together, 4, seed=1).pairs[0]
