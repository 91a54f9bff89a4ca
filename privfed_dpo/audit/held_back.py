"""Pairs that clients keep out of training, so that membership inference has others to compare.

Members and others then come from the same clients in the same way, and nothing but training tells
them apart. Evaluation pairs would not do: they may differ in kind.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.partition import ClientShard, Partition


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A partition without the withheld pairs, and those pairs by client.

    Attributes:
        partition: what is trained on.
        pairs: withheld pairs of each client, in the clients' order.
    """

    partition: Partition
    pairs: tuple[tuple[PreferencePair, ...], ...] = field(repr=False)


def hold_back(partition: Partition, count: int, *, seed: int) -> HeldBack:
    """Withhold `count` pairs of each client, but at most half of them.

    Which ones is decided by the public seed and the client's name, never by a pair's content.

    Args:
        partition: clients with all their pairs.
        count: wanted pairs per client; 0 withholds nothing.
        seed: public.
    """
    if not count:
        return HeldBack(partition, tuple(() for _ in partition.shards))
    split = [_split(shard, count, seed) for shard in partition.shards]
    shards = tuple(kept for kept, _ in split)
    sizes = [len(shard.pairs) for shard in shards]
    facts = replace(
        partition.facts, pairs_total=sum(sizes), pairs_min=min(sizes), pairs_max=max(sizes)
    )
    return HeldBack(Partition(shards, facts), tuple(withheld for _, withheld in split))


def _split(
    shard: ClientShard, count: int, seed: int
) -> tuple[ClientShard, tuple[PreferencePair, ...]]:
    total = len(shard.pairs)
    digest = hashlib.sha256(f"held-back/{seed}/{shard.client}".encode()).digest()
    order = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32)).permutation(total)
    withheld = {int(i) for i in order[: min(count, total // 2)]}
    kept = tuple(pair for i, pair in enumerate(shard.pairs) if i not in withheld)
    return replace(shard, pairs=kept), tuple(shard.pairs[i] for i in sorted(withheld))
