"""What nodes that pool their masked sums find out about single nodes: exact linear algebra.

The aggregator of a neighbourhood learns one weighted sum of its neighbours' adapters. A coalition
knows its own adapters, so what it learns about the others in a round is the row span of its rows of
the weight matrix, restricted to the columns of honest nodes. Whoever holds the mean over all nodes
of that round (the released model) has a row of ones besides. Any combination the coalition can
compute mixes at least as many honest nodes as the sparsest non-zero vector of that span has
entries. If that is 1, it knows somebody's adapter; if it is k, it knows no linear function of fewer
than k.

One round is enough to look at. Each honest node adds a step of its own, with fresh noise, before
every sum; a combination over several rounds that says something about an adapter of round s must
leave out everything that is new after s, and then its later parts are zero. The proof stands in
decision 0032.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

Column = tuple[int, ...]

_MOST_LOOKS = 300_000
"""Coalitions times ways to look at each that a plan takes up, beyond those it has to."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The sparsest thing a coalition can compute.

    Attributes:
        coalition: who pools.
        nodes: honest nodes whose adapters are mixed in it, ascending; a single one is exposed.
    """

    coalition: tuple[int, ...]
    nodes: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many honest nodes remain mixed together."""
        return len(self.nodes)


def smallest_mixture(
    nodes: int, weights: Mapping[tuple[int, int], int], most: int, *, mean: bool = True
) -> Mixture:
    """Find the coalition of at most `most` nodes that comes closest to a single adapter.

    Args:
        nodes: number of nodes.
        weights: integer weight of each link (i, j), i < j, over which sums are taken.
        most: largest coalition; at least one honest node must remain.
        mean: whether the coalition also holds the mean over all nodes.

    Returns:
        The smallest mixture; of several, one of the smallest coalition.

    Raises:
        ValueError: there is no coalition, nobody honest besides it, or nothing to be seen.
    """
    if not 0 < most < nodes:
        raise ValueError(f"a coalition of {most} of {nodes} nodes leaves nothing to find out")
    return _smallest(nodes, tuple(sorted(weights.items())), most, mean=mean)


@dataclass(frozen=True, slots=True)
class Exposure:
    """What coalitions of one size find out.

    Attributes:
        colluders: nodes that pool.
        mixture: the smallest mixture of any coalition of at most that size.
        exposed: every node whose own adapter some such coalition computes, ascending.
    """

    colluders: int
    mixture: Mixture
    exposed: tuple[int, ...]

    def describe(self) -> dict[str, object]:
        """The exposure as plain facts."""
        return {
            "colluders": self.colluders,
            "smallest_mixture": self.mixture.size,
            "coalition": list(self.mixture.coalition),
            "mixed_nodes": list(self.mixture.nodes),
            "single_nodes_learned": list(self.exposed),
        }


def exposures(
    nodes: int, weights: Mapping[tuple[int, int], int], promised: int
) -> tuple[Exposure, ...]:
    """Look at coalitions of 1, 2, ... nodes, up to one more than promised, while there are few.

    Args:
        nodes: number of nodes.
        weights: integer weight of each link.
        promised: coalitions against whom single adapters are to be hidden.
    """
    found: list[Exposure] = []
    exposed: set[int] = set()
    for size in range(1, min(promised + 1, nodes - 1) + 1):
        if size > promised and math.comb(nodes, size) * math.comb(nodes, size) > _MOST_LOOKS:
            break
        for coalition in combinations(range(nodes), size):
            exposed |= set(_singles(nodes, weights, coalition))
        mixture = smallest_mixture(nodes, weights, size)
        found.append(Exposure(size, mixture, tuple(sorted(exposed))))
    return tuple(found)


@lru_cache(maxsize=64)
def _smallest(
    nodes: int, weights: tuple[tuple[tuple[int, int], int], ...], most: int, *, mean: bool
) -> Mixture:
    links = dict(weights)
    best: Mixture | None = None
    for size in range(1, most + 1):
        for coalition in combinations(range(nodes), size):
            honest, columns = _columns(nodes, links, coalition, mean=mean)
            if not any(map(any, columns)):
                continue
            kept = _sparsest(tuple(sorted(set(columns))), _counts(columns))
            found = tuple(n for n, c in zip(honest, columns, strict=True) if c in kept)
            if best is None or len(found) < best.size:
                best = Mixture(coalition, found)
    if best is None:
        raise ValueError("no coalition sees anything of the others")
    return best


def _columns(
    nodes: int,
    weights: Mapping[tuple[int, int], int],
    coalition: Sequence[int],
    *,
    mean: bool = True,
) -> tuple[tuple[int, ...], tuple[Column, ...]]:
    """What each honest node enters with: the weight in each colluder's sum, and 1 in the mean."""
    inside = set(coalition)
    honest = tuple(node for node in range(nodes) if node not in inside)
    return honest, tuple(
        (*(weights.get((min(i, node), max(i, node)), 0) for i in coalition), int(mean))
        for node in honest
    )


def _counts(columns: Sequence[Column]) -> tuple[int, ...]:
    return tuple(columns.count(column) for column in sorted(set(columns)))


def _singles(
    nodes: int, weights: Mapping[tuple[int, int], int], coalition: Sequence[int]
) -> tuple[int, ...]:
    """Honest nodes whose unit vector lies in the span: rows of the reduced form with one entry."""
    honest, columns = _columns(nodes, weights, coalition)
    reduced = _reduced(list(zip(*columns, strict=True)))
    supports = [[n for n, v in zip(honest, row, strict=True) if v] for row in reduced]
    return tuple(support[0] for support in supports if len(support) == 1)


@lru_cache(maxsize=4096)
def _sparsest(columns: tuple[Column, ...], counts: tuple[int, ...]) -> frozenset[Column]:
    """Columns on which the sparsest non-zero vector of the row span is not zero.

    A vector of the span is a functional on columns. The one with the smallest support vanishes on
    as many columns as possible, so on a set that spans one dimension less than all of them.

    Args:
        columns: distinct, not all zero.
        counts: how often each stands.
    """
    rows = _independent_rows(columns)
    reduced = [tuple(column[row] for row in rows) for column in columns]
    best: tuple[int, tuple[int, ...]] | None = None
    for chosen in combinations(reduced, len(rows) - 1):
        functional = _normal(chosen, len(rows))
        support = tuple(
            place for place, column in enumerate(reduced) if _product(functional, column) != 0
        )
        size = sum(counts[place] for place in support)
        if support and (best is None or size < best[0]):
            best = (size, support)
    if best is None:
        raise ValueError("columns that span nothing")
    return frozenset(columns[place] for place in best[1])


def _product(left: Column, right: Column) -> int:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _normal(vectors: Sequence[Column], dimension: int) -> Column:
    """The vector orthogonal to dimension - 1 others, by cofactors; zero if they are dependent."""
    return tuple(
        (-1) ** place * _determinant([[*v[:place], *v[place + 1 :]] for v in vectors])
        for place in range(dimension)
    )


def _determinant(matrix: list[list[int]]) -> int:
    """Determinant of a square integer matrix without fractions (Bareiss 1968)."""
    rows, sign, previous = [row.copy() for row in matrix], 1, 1
    for step in range(len(rows) - 1):
        pivot = next((r for r in range(step, len(rows)) if rows[r][step] != 0), None)
        if pivot is None:
            return 0
        if pivot != step:
            rows[step], rows[pivot], sign = rows[pivot], rows[step], -sign
        for r in range(step + 1, len(rows)):
            for c in range(step + 1, len(rows)):
                crossed = rows[r][c] * rows[step][step] - rows[r][step] * rows[step][c]
                rows[r][c] = crossed // previous
        previous = rows[step][step]
    return sign * rows[-1][-1] if rows else 1


def _independent_rows(columns: Sequence[Column]) -> tuple[int, ...]:
    """Rows that span the row space."""
    kept: list[int] = []
    for row in range(len(columns[0])):
        trial = [*kept, row]
        if len(_reduced([tuple(column[r] for column in columns) for r in trial])) == len(trial):
            kept = trial
    return tuple(kept)


def _reduced(vectors: Sequence[Column]) -> list[Column]:
    """A basis of the span with a 0 in every pivot's column but its own, exactly, in integers."""
    rows = [list(vector) for vector in vectors]
    rank = 0
    for column in range(len(rows[0])):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column] != 0), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        head = rows[rank]
        for r, row in enumerate(rows):
            factor = row[column]
            if r != rank and factor:
                crossed = [a * head[column] - b * factor for a, b in zip(row, head, strict=True)]
                shared = math.gcd(*crossed) or 1
                rows[r] = [value // shared for value in crossed]
        rank += 1
        if rank == len(rows):
            break
    return [tuple(row) for row in rows[:rank]]
