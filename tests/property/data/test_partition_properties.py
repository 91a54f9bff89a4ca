"""Whatever the pairs and the kind: nothing is invented, bounds hold, and facts add up."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.partition import partition_pairs
from privfed_dpo.errors import DataError

labels = st.sampled_from(["a", "b", "c", "d", "e"])
judgments = st.lists(st.tuples(labels, labels), min_size=1, max_size=80).map(
    lambda rows: [
        PreferencePair(f"p{index}", " yes", " no", user=user, topic=topic)
        for index, (user, topic) in enumerate(rows)
    ]
)


settings_of = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["natural", "iid", "dirichlet", "opposed"]),
        "clients": st.integers(1, 12),
        "min_pairs": st.integers(1, 4),
        "max_pairs": st.none() | st.integers(4, 14),
        "seed": st.integers(0, 2**64),
        "alpha": st.floats(0.01, 100.0),
    }
)


@given(pairs=judgments, chosen=settings_of)
def test_a_partition_conserves_pairs_and_reports_them(pairs, chosen):
    kind, clients, cap = chosen["kind"], chosen["clients"], chosen["max_pairs"]
    arguments = chosen | {"clients": None if kind == "natural" else clients}
    try:
        partition = partition_pairs(pairs, **arguments)
    except DataError as error:
        evenly = kind in {"iid", "opposed"}
        too_few = evenly and clients * chosen["min_pairs"] > len(pairs)
        reason = "cannot be dealt" if too_few else "no client has the minimum"
        assert reason in str(error)  # noqa: PT017
        return
    assert partition == partition_pairs(pairs, **arguments)

    names = [shard.client for shard in partition.shards]
    sizes = [len(shard.pairs) for shard in partition.shards]
    assert names == sorted(set(names))
    assert min(sizes) >= arguments["min_pairs"]
    assert cap is None or max(sizes) <= cap

    facts = partition.facts
    assert (facts.clients, facts.pairs_total) == (len(names), sum(sizes))
    assert (facts.pairs_min, facts.pairs_max) == (min(sizes), max(sizes))
    assert facts.pairs_total + facts.dropped_pairs == len(pairs)
    users = len({pair.user for pair in pairs})
    assert facts.clients + facts.dropped_clients == (users if kind == "natural" else clients)

    held = Counter(
        pair.flipped() if shard.client.endswith("-opposed") else pair
        for shard in partition.shards
        for pair in shard.pairs
    )
    assert held <= Counter(pairs)
