"""Who holds which pairs: natural users, even dealing, topic skew, or constructed opposition."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.errors import DataError, InputNotice

PartitionKind = Literal["natural", "iid", "dirichlet", "opposed"]


@dataclass(frozen=True, slots=True)
class ClientShard:
    """The pairs of one client.

    Attributes:
        client: a stable name; for a natural partition the user id itself.
        pairs: what the client trains on; at least the floor, at most the cap.
    """

    client: str
    pairs: tuple[PreferencePair, ...]


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """Public facts of a partition; the run plan is computed from these.

    Sizes are public under the adjacency this package uses (a record becomes a null record, counts
    stay). Whoever publishes them must hold them to be public.

    Attributes:
        kind: how the pairs were divided.
        clients: number of clients that take part.
        pairs_total: pairs over all clients.
        pairs_min: pairs of the smallest client.
        pairs_max: pairs of the largest client.
        dropped_clients: clients left out, because they were below the floor or not drawn.
        dropped_pairs: pairs left out, with those clients or above the cap.
        opposed_clients: clients whose labels were flipped on purpose; 0 unless kind is "opposed".
    """

    kind: PartitionKind
    clients: int
    pairs_total: int
    pairs_min: int
    pairs_max: int
    dropped_clients: int
    dropped_pairs: int
    opposed_clients: int = 0


@dataclass(frozen=True, slots=True)
class Partition:
    """Clients in the order of their names, and the public facts about them."""

    shards: tuple[ClientShard, ...]
    facts: PartitionFacts


def note_left_out(facts: PartitionFacts) -> None:
    """Warn where clients or pairs take no part, which their owner may not have meant.

    Args:
        facts: of pairs that one person divides among simulated clients.
    """
    said = []
    if facts.dropped_clients:
        clients = facts.clients + facts.dropped_clients
        said.append(
            f"{facts.dropped_clients} of {clients} clients are left out: they hold fewer pairs "
            "than data.min_pairs, or were not drawn (data.clients)."
        )
    if facts.dropped_pairs:
        pairs = facts.pairs_total + facts.dropped_pairs
        theirs = "theirs, or " if facts.dropped_clients else ""
        said.append(
            f"{facts.dropped_pairs} of {pairs} pairs are left out: {theirs}above data.max_pairs."
        )
    if said:
        warnings.warn(" ".join(said), InputNotice, stacklevel=2)


def partition_pairs(
    pairs: Sequence[PreferencePair],
    *,
    kind: PartitionKind,
    clients: int | None = None,
    min_pairs: int = 1,
    max_pairs: int | None = None,
    seed: int = 0,
    alpha: float = 0.5,
    group_by: Literal["topic", "user"] = "topic",
    opposed_fraction: float = 0.5,
) -> Partition:
    """Divide pairs among clients; the same arguments always give the same partition.

    Kinds:
        natural: one client per user.
        iid: shuffled and dealt evenly; sizes differ by at most one.
        dirichlet: the pairs of each group (topic or user) are split by proportions drawn from a
            symmetric Dirichlet distribution with parameter `alpha` (Hsu, Qi and Brown, 2019,
            section 3); small `alpha` means that clients hold few groups.
        opposed: dealt as iid, then the labels of the last clients are flipped. This opposition is
            CONSTRUCTED: a result on it must say so, and the facts count these clients.

    Every kind then leaves out clients with fewer than `min_pairs` and keeps at most `max_pairs` of
    each client, drawn with the public seed and the client's name only, so that one client's pairs
    never decide what is kept of another's.

    Args:
        pairs: all judgments.
        kind: see above.
        clients: number of clients to form. For "natural" it may be None (every user above the
            floor) or a number to draw with the public seed.
        min_pairs: public floor per client, at least 1.
        max_pairs: public cap per client, or None.
        seed: public; governs nothing that privacy rests on.
        alpha: concentration for "dirichlet", above 0.
        group_by: the label that "dirichlet" skews.
        opposed_fraction: share of clients whose labels "opposed" flips, rounded.

    Returns:
        Clients sorted by name, and the facts.

    Raises:
        DataError: an argument is out of range, a needed label is missing, or no client is left.
    """
    _check_arguments(
        pairs,
        kind=kind,
        clients=clients,
        min_pairs=min_pairs,
        max_pairs=max_pairs,
        alpha=alpha,
        opposed_fraction=opposed_fraction,
    )
    flipped: frozenset[str] = frozenset()
    if kind == "natural":
        groups = _by_label(pairs, "user")
    elif kind == "dirichlet":
        groups = _deal_dirichlet(
            _by_label(pairs, group_by), clients=clients or 1, alpha=alpha, seed=seed
        )
    else:
        groups = _deal_evenly(pairs, clients=clients or 1, seed=seed)
        if kind == "opposed":
            groups, flipped = _oppose(groups, opposed_fraction)
    kept = {name: held for name, held in groups.items() if len(held) >= min_pairs}
    if kind == "natural" and clients is not None:
        kept = _draw_clients(kept, clients=clients, seed=seed)
    if not kept:
        raise DataError(
            f"no client has the minimum of {min_pairs} pairs",
            advice="Lower the floor, use fewer clients, or give more data.",
        )
    shards = tuple(
        ClientShard(name, _capped(kept[name], name, max_pairs=max_pairs, seed=seed))
        for name in sorted(kept)
    )
    sizes = [len(shard.pairs) for shard in shards]
    facts = PartitionFacts(
        kind=kind,
        clients=len(shards),
        pairs_total=sum(sizes),
        pairs_min=min(sizes),
        pairs_max=max(sizes),
        dropped_clients=len(groups) - len(shards),
        dropped_pairs=len(pairs) - sum(sizes),
        opposed_clients=sum(shard.client in flipped for shard in shards),
    )
    return Partition(shards=shards, facts=facts)


def _check_arguments(
    pairs: Sequence[PreferencePair],
    *,
    kind: PartitionKind,
    clients: int | None,
    min_pairs: int,
    max_pairs: int | None,
    alpha: float,
    opposed_fraction: float,
) -> None:
    if not pairs:
        raise DataError("there are no pairs to divide", advice="Give data with at least one pair.")
    if kind not in ("natural", "iid", "dirichlet", "opposed"):
        raise DataError(
            f"unknown partition '{kind}'", advice="Use natural, iid, dirichlet or opposed."
        )
    if kind != "natural" and clients is None:
        raise DataError(f"partition '{kind}' needs the number of clients")
    if clients is not None and clients < 1:
        raise DataError(f"the number of clients must be at least 1, not {clients}")
    if kind in ("iid", "opposed") and clients is not None and clients * min_pairs > len(pairs):
        raise DataError(
            f"{len(pairs)} pairs cannot be dealt to {clients} clients with {min_pairs} each",
            advice="Ask for fewer clients or lower the floor.",
        )
    if min_pairs < 1:
        raise DataError(f"the floor of pairs per client must be at least 1, not {min_pairs}")
    if max_pairs is not None and max_pairs < min_pairs:
        raise DataError(f"the cap of {max_pairs} pairs lies below the floor of {min_pairs}")
    if not alpha > 0:
        raise DataError(f"alpha must be above 0, not {alpha}")
    if not 0 <= opposed_fraction <= 1:
        raise DataError(f"the opposed fraction must lie in [0, 1], not {opposed_fraction}")


def _by_label(
    pairs: Sequence[PreferencePair], label: Literal["topic", "user"]
) -> dict[str, list[PreferencePair]]:
    groups: dict[str, list[PreferencePair]] = defaultdict(list)
    missing = 0
    for pair in pairs:
        value = pair.user if label == "user" else pair.topic
        if value is None:
            missing += 1
        else:
            groups[value].append(pair)
    if missing:
        raise DataError(
            f"{missing} of {len(pairs)} pairs have no '{label}'",
            advice=f"Name the column that holds it (data.columns.{label}), or use the partition "
            "'iid'.",
        )
    return dict(groups)


def _names(clients: int) -> tuple[str, ...]:
    width = max(3, len(str(clients - 1)))
    return tuple(f"client-{index:0{width}d}" for index in range(clients))


def _generator(seed: int, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def _deal_evenly(
    pairs: Sequence[PreferencePair], *, clients: int, seed: int
) -> dict[str, list[PreferencePair]]:
    order = _generator(seed, "deal").permutation(len(pairs))
    return {
        name: [pairs[index] for index in order[place::clients]]
        for place, name in enumerate(_names(clients))
    }


def _deal_dirichlet(
    groups: dict[str, list[PreferencePair]], *, clients: int, alpha: float, seed: int
) -> dict[str, list[PreferencePair]]:
    names = _names(clients)
    dealt: dict[str, list[PreferencePair]] = {name: [] for name in names}
    for label in sorted(groups):
        held = groups[label]
        generator = _generator(seed, f"dirichlet/{label}")
        order = generator.permutation(len(held))
        proportions = generator.dirichlet(np.full(clients, alpha))
        cuts = np.rint(np.cumsum(proportions)[:-1] * len(held)).astype(int)
        for name, part in zip(names, np.split(order, cuts), strict=True):
            dealt[name].extend(held[index] for index in part)
    return dealt


def _oppose(
    groups: dict[str, list[PreferencePair]], fraction: float
) -> tuple[dict[str, list[PreferencePair]], frozenset[str]]:
    """Flip the labels of the last clients; their names say so."""
    names = sorted(groups)
    count = round(fraction * len(names))
    opposed: dict[str, list[PreferencePair]] = {}
    flipped: set[str] = set()
    for place, name in enumerate(names):
        if place < len(names) - count:
            opposed[name] = groups[name]
        else:
            flipped.add(f"{name}-opposed")
            opposed[f"{name}-opposed"] = [pair.flipped() for pair in groups[name]]
    return opposed, frozenset(flipped)


def _draw_clients(
    groups: dict[str, list[PreferencePair]], *, clients: int, seed: int
) -> dict[str, list[PreferencePair]]:
    if clients > len(groups):
        raise DataError(
            f"{clients} clients were asked for, but only {len(groups)} users have enough pairs",
            advice="Ask for fewer clients or lower the floor.",
        )
    names = sorted(groups)
    drawn = _generator(seed, "clients").permutation(len(names))[:clients]
    return {names[index]: groups[names[index]] for index in drawn}


def _capped(
    held: Sequence[PreferencePair], client: str, *, max_pairs: int | None, seed: int
) -> tuple[PreferencePair, ...]:
    if max_pairs is None or len(held) <= max_pairs:
        return tuple(held)
    drawn = _generator(seed, f"cap/{client}").permutation(len(held))[:max_pairs]
    return tuple(held[index] for index in sorted(drawn))
