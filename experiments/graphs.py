"""Graphs of nodes as mixing matrices: symmetric, doubly stochastic, Metropolis–Hastings weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from experiments.population import Reals

SIZES = (8, 16)
"""Node counts for which every graph here exists."""

EXPANDER_DEGREE = 4


def mixing_matrices(nodes: int, seed: int = 0) -> dict[str, Reals]:
    """The seven graphs on 8 or 16 nodes, by name."""
    rows = nodes // 4
    cells = [(r, c) for r in range(rows) for c in range(4)]
    torus = [(r * 4 + c, r * 4 + (c + 1) % 4) for r, c in cells]
    torus += [(r * 4 + c, (r + 1) % rows * 4 + c) for r, c in cells]
    powers = [2**k for k in range((nodes - 1).bit_length())]
    edges = {
        "path": [(i, i + 1) for i in range(nodes - 1)],
        "ring": [(i, (i + 1) % nodes) for i in range(nodes)],
        "star": [(0, i) for i in range(1, nodes)],
        "torus": torus,
        "exponential": [(i, (i + k) % nodes) for k in powers for i in range(nodes)],
        "expander": _random_regular(nodes, EXPANDER_DEGREE, seed),
        "complete": [(i, j) for i in range(nodes) for j in range(i)],
    }
    return {name: metropolis_hastings(nodes, some) for name, some in edges.items()}


def metropolis_hastings(nodes: int, edges: Iterable[tuple[int, int]]) -> Reals:
    """Weight 1 / (1 + max(deg_i, deg_j)) on each link, the rest on oneself."""
    links = {(min(edge), max(edge)) for edge in edges if edge[0] != edge[1]}
    degrees = np.bincount(np.array(sorted(links)).ravel(), minlength=nodes)
    matrix = np.zeros((nodes, nodes))
    for i, j in links:
        matrix[i, j] = matrix[j, i] = 1.0 / (1.0 + max(degrees[i], degrees[j]))
    np.fill_diagonal(matrix, 1.0 - matrix.sum(axis=1))
    return matrix


def squared_gap(mixing: Reals) -> float:
    """1 - rho^2, with rho the second largest magnitude of an eigenvalue."""
    magnitudes = np.sort(np.abs(np.linalg.eigvalsh(mixing)))
    return float(1.0 - magnitudes[-2] ** 2)


def _random_regular(nodes: int, degree: int, seed: int) -> list[tuple[int, int]]:
    """A random regular graph: pair up stubs until they make a connected simple graph."""
    rng = np.random.default_rng([seed, nodes, degree])
    while True:
        stubs = rng.permutation(np.repeat(np.arange(nodes), degree)).reshape(-1, 2)
        links = {(int(min(pair)), int(max(pair))) for pair in stubs if pair[0] != pair[1]}
        if len(links) == nodes * degree // 2:
            matrix = metropolis_hastings(nodes, links)
            if np.linalg.matrix_power(matrix, nodes).min() > 0.0:
                return sorted(links)
