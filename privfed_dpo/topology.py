"""Graphs without a server: who exchanges adapters with whom.

A graph is public and follows from its settings, a public seed and an epoch alone, so every node
works it out by itself. Another graph is one small function in `GRAPHS` and its name in `GraphName`,
here and nowhere else: configuration, plan and reports take it from here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from privfed_dpo.errors import PlanRefused

Edge = tuple[int, int]
GraphName = Literal[
    "path", "ring", "star", "torus", "exponential", "expander", "erdos_renyi", "complete", "file"
]

_DRAWS = 1000
"""Random graphs tried before a connected one is given up."""

_SWAPS_PER_EDGE = 10


@dataclass(frozen=True)
class Topology:
    """An undirected graph without loops on nodes 0 to n-1.

    Attributes:
        nodes: number of nodes n, >= 1.
        edges: pairs (i, j) with i < j, ascending.

    Raises:
        ValueError: an edge is not such a pair, or stands twice.
    """

    nodes: int
    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        """Refuse what is no simple graph."""
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must stand once each, in ascending order")
        for i, j in self.edges:
            if not 0 <= i < j < self.nodes:
                raise ValueError(f"({i}, {j}) is no edge between two of {self.nodes} nodes")

    @classmethod
    def of(cls, nodes: int, edges: Iterable[Edge]) -> Topology:
        """Build a graph from edges in any order and direction; loops and repeats are left out."""
        return cls(nodes, tuple(sorted({(min(e), max(e)) for e in edges if e[0] != e[1]})))

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """The neighbours of every node, ascending."""
        near: list[list[int]] = [[] for _ in range(self.nodes)]
        for i, j in self.edges:
            near[i].append(j)
            near[j].append(i)
        return tuple(tuple(sorted(some)) for some in near)

    @property
    def degrees(self) -> tuple[int, ...]:
        """Number of neighbours of every node."""
        return tuple(len(near) for near in self.neighbours)

    @property
    def connected(self) -> bool:
        """Whether every node reaches every other."""
        return -1 not in self.distances(0)

    @property
    def diameter(self) -> int | None:
        """Links between the two nodes farthest apart; None if the graph falls into parts."""
        distances = [self.distances(node) for node in range(self.nodes)]
        return None if -1 in distances[0] else max(map(max, distances))

    def without(self, lost: Iterable[Edge]) -> Topology:
        """The graph without some links, given in any direction."""
        gone = {(min(e), max(e)) for e in lost}
        return Topology(self.nodes, tuple(e for e in self.edges if e not in gone))

    def distances(self, start: int) -> list[int]:
        """Links from one node to each other one; -1 where there is no way."""
        found = [-1] * self.nodes
        found[start] = 0
        rim = [start]
        while rim:
            seen = [(b, found[a] + 1) for a in rim for b in self.neighbours[a] if found[b] < 0]
            for node, links in seen:
                found[node] = links
            rim = [node for node, _ in seen]
        return found


@dataclass(frozen=True, slots=True)
class GraphSettings:
    """What a graph is made from; public, part of the plan's hash.

    Attributes:
        kind: a name in `GRAPHS`.
        nodes: number of nodes.
        degree: neighbours of every node, for `expander`.
        edge_probability: for `erdos_renyi`.
        seed: public seed of random graphs.
        edges: the links, for `file`.
        redraw_rounds: a random graph is drawn anew every so many rounds; None keeps one.
    """

    kind: str
    nodes: int
    degree: int = 4
    edge_probability: float = 0.5
    seed: int = 0
    edges: tuple[Edge, ...] = ()
    redraw_rounds: int | None = None

    def of_round(self, round_number: int) -> Topology:
        """Return the graph of a training round, the same at every node.

        Raises:
            PlanRefused: there is no such graph, or none that connects all nodes.
        """
        epoch = 0 if self.redraw_rounds is None else (round_number - 1) // self.redraw_rounds
        return _drawn(self, epoch)


@lru_cache(maxsize=8)
def _drawn(wanted: GraphSettings, epoch: int) -> Topology:
    label = f"graph/{wanted.kind}/{wanted.seed}/{epoch}".encode()
    digest = np.frombuffer(hashlib.sha256(label).digest(), dtype=np.uint32)
    graph = GRAPHS[wanted.kind](wanted, np.random.default_rng(digest))
    if not graph.connected:
        raise PlanRefused(
            f"the {wanted.kind} graph on {wanted.nodes} nodes falls into parts, which would never "
            "agree",
            advice="Add links between them.",
        )
    return graph


Draw = Callable[[GraphSettings, np.random.Generator], Topology]


def _path(wanted: GraphSettings, _: np.random.Generator) -> Topology:
    return Topology.of(wanted.nodes, ((i, i + 1) for i in range(wanted.nodes - 1)))


def _circulant(nodes: int, offsets: Iterable[int]) -> Topology:
    return Topology.of(nodes, ((i, (i + k) % nodes) for k in offsets for i in range(nodes)))


def _ring(wanted: GraphSettings, _: np.random.Generator) -> Topology:
    return _circulant(wanted.nodes, (1,))


def _star(wanted: GraphSettings, _: np.random.Generator) -> Topology:
    return Topology.of(wanted.nodes, ((0, i) for i in range(1, wanted.nodes)))


def _complete(wanted: GraphSettings, _: np.random.Generator) -> Topology:
    return _circulant(wanted.nodes, range(1, wanted.nodes))


def _exponential(wanted: GraphSettings, _: np.random.Generator) -> Topology:
    """Links to the nodes 1, 2, 4, 8, ... places away (Ying et al. 2021, undirected)."""
    reach = max(1, math.ceil(math.log2(max(2, wanted.nodes))))
    return _circulant(wanted.nodes, (2**k for k in range(reach)))


def _torus(wanted: GraphSettings, _: np.random.Generator) -> Topology:
    """Rows and columns that close to rings, as square as the number of nodes allows."""
    rows = next(r for r in range(math.isqrt(wanted.nodes), 0, -1) if wanted.nodes % r == 0)
    columns = wanted.nodes // rows
    if rows == 1:
        raise PlanRefused(
            f"{wanted.nodes} nodes make no torus: they fill no rectangle",
            advice="Use a number of clients that is no prime, or gossip.topology=ring.",
        )
    right = ((r * columns + c, r * columns + (c + 1) % columns) for r, c in _cells(rows, columns))
    down = ((r * columns + c, (r + 1) % rows * columns + c) for r, c in _cells(rows, columns))
    return Topology.of(wanted.nodes, (*right, *down))


def _cells(rows: int, columns: int) -> Iterable[tuple[int, int]]:
    return ((r, c) for r in range(rows) for c in range(columns))


def _expander(wanted: GraphSettings, rng: np.random.Generator) -> Topology:
    """A random regular graph: a circulant one whose links swap ends at random."""
    nodes, degree = wanted.nodes, wanted.degree
    if not 1 < degree < nodes or nodes * degree % 2:
        raise PlanRefused(
            f"no graph gives each of {nodes} nodes {degree} neighbours and connects them",
            advice="gossip.degree takes 2 up to one less than the clients; an odd one needs an "
            "even number of clients.",
        )
    offsets = [*range(1, degree // 2 + 1), *([nodes // 2] if degree % 2 else [])]
    for _ in range(_DRAWS):
        graph = _swapped(_circulant(nodes, offsets), rng)
        if graph.connected:
            return graph
    raise PlanRefused(f"no connected graph of degree {degree} was found on {nodes} nodes")


def _swapped(graph: Topology, rng: np.random.Generator) -> Topology:
    """Swap the ends of random pairs of links; degrees stay as they are."""
    edges = list(graph.edges)
    present = set(edges)
    for _ in range(_SWAPS_PER_EDGE * len(edges)):
        first, second = rng.integers(len(edges), size=2)
        (a, b), (c, d) = edges[first], edges[second]
        if rng.random() < 0.5:  # noqa: PLR2004 - a fair coin
            c, d = d, c
        new = {(min(a, d), max(a, d)), (min(b, c), max(b, c))}
        if len({a, b, c, d}) == len("abcd") and not new & present:
            present -= {edges[first], edges[second]}
            present |= new
            edges[first], edges[second] = sorted(new)
    return Topology.of(graph.nodes, edges)


def _erdos_renyi(wanted: GraphSettings, rng: np.random.Generator) -> Topology:
    """Every link with the same probability, drawn again until all nodes are connected."""
    rows, columns = np.triu_indices(wanted.nodes, 1)
    for _ in range(_DRAWS):
        kept = rng.random(rows.size) < wanted.edge_probability
        graph = Topology.of(
            wanted.nodes,
            ((int(i), int(j)) for i, j in zip(rows[kept], columns[kept], strict=True)),
        )
        if graph.connected:
            return graph
    raise PlanRefused(
        f"{_DRAWS} random graphs with link probability {wanted.edge_probability:g} left some of "
        f"{wanted.nodes} nodes alone",
        advice="Raise gossip.edge_probability.",
    )


def _from_file(wanted: GraphSettings, _: np.random.Generator) -> Topology:
    return Topology.of(wanted.nodes, wanted.edges)


GRAPHS: Mapping[str, Draw] = {
    "path": _path,
    "ring": _ring,
    "star": _star,
    "torus": _torus,
    "exponential": _exponential,
    "expander": _expander,
    "erdos_renyi": _erdos_renyi,
    "complete": _complete,
    "file": _from_file,
}

RANDOM_GRAPHS = frozenset({"expander", "erdos_renyi"})


def parse_links(text: str, names: Sequence[str]) -> tuple[Edge, ...]:
    """Read links: two clients a line, by name, or by number from 0; # starts a comment.

    Args:
        text: the lines.
        names: enrolled clients, in order; a name goes before a number.

    Raises:
        PlanRefused: a line does not name two different clients.
    """
    numbers = {str(number): number for number in range(len(names))}
    numbers |= {name: number for number, name in enumerate(names)}
    edges = []
    for line_number, line in enumerate(text.splitlines(), 1):
        ends = line.split("#")[0].split()
        if not ends:
            continue
        if len(set(ends)) != len(ends) or len(ends) != len(("i", "j")) or set(ends) - set(numbers):
            raise PlanRefused(
                f"line {line_number} of the links names no two different clients of this run",
                advice="Write two client names, or two numbers from 0, on each line.",
            )
        edges.append((numbers[ends[0]], numbers[ends[1]]))
    return Topology.of(len(names), edges).edges
