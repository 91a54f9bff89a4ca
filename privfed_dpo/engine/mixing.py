"""Averaging with neighbours, in integers: what every node multiplies by, and what it does.

Weights are Metropolis-Hastings weights in whole multiples of 2^-WEIGHT_BITS (Xiao, Boyd and
Lall 2006). A node's adapter is an integer vector X on a grid WEIGHT_BITS finer than the grid it
sends, q = floor(X / 2^WEIGHT_BITS); the remainder r stays at home. With integer weights w that are
symmetric and whose rows sum to 2^WEIGHT_BITS, mixing

    X_i <- sum_j w_ij q_j + r_i

leaves sum_i X_i what it was, to the last bit: each q_j is counted sum_i w_ij = 2^WEIGHT_BITS times.
A link that is not used puts its weight back on both ends, which keeps the weights symmetric and
the rows' sums, and so keeps the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from privfed_dpo.topology import Topology

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

WEIGHT_BITS = 16
WEIGHT_UNIT = 1 << WEIGHT_BITS


def integer_weights(graph: Topology) -> Mapping[tuple[int, int], int]:
    """Return each link's Metropolis-Hastings weight, in multiples of 2^-WEIGHT_BITS.

    The weight of (i, j), i < j, is 1 / (1 + max(degree_i, degree_j)), rounded down; what is left
    of 1 at a node is its weight on itself, and is positive.
    """
    degrees = graph.degrees
    return {(i, j): WEIGHT_UNIT // (1 + max(degrees[i], degrees[j])) for i, j in graph.edges}


def mixing_matrix(
    graph: Topology, used: Iterable[tuple[int, int]] | None = None
) -> npt.NDArray[np.float64]:
    """Return the doubly stochastic matrix of a round, shape [n, n].

    Args:
        graph: the planned graph; its degrees make the weights.
        used: links over which both ends averaged; None is all of them.
    """
    matrix = np.eye(graph.nodes)
    kept = set(graph.edges if used is None else used)
    for (i, j), weight in integer_weights(graph).items():
        if (i, j) in kept:
            share = weight / WEIGHT_UNIT
            matrix[[i, j], [j, i]] += share
            matrix[[i, j], [i, j]] -= share
    return matrix


def split(values: Integers) -> tuple[Integers, Integers]:
    """Split fine values X into what is sent and what stays: X = 2^WEIGHT_BITS q + r, r >= 0."""
    sent = values >> WEIGHT_BITS
    return sent, values - (sent << WEIGHT_BITS)


def flow(weight: int, theirs: Integers, ours: Integers) -> Integers:
    """Return what a link moves to our end; the other end's flow is its exact negative."""
    return weight * (theirs - ours)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Eigenvalues of a mixing matrix, descending, shape [n]; the first is 1."""

    eigenvalues: tuple[float, ...]

    @classmethod
    def of(cls, matrix: npt.NDArray[np.float64]) -> Spectrum:
        """Compute the spectrum of a symmetric matrix."""
        return cls(tuple(float(v) for v in np.linalg.eigvalsh(matrix)[::-1]))

    @property
    def rho(self) -> float:
        """Second largest magnitude: what a disagreement shrinks by, at least, in each mixing."""
        return max((abs(value) for value in self.eigenvalues[1:]), default=0.0)

    @property
    def gap(self) -> float:
        """1 - rho; 0 if the graph falls into parts."""
        return max(0.0, 1.0 - self.rho)

    def steady_consensus_error(
        self,
        *,
        learning_rate: float,
        noise_power: float,
        mode_power: npt.ArrayLike = 0.0,
        curvature: float = 0.0,
    ) -> float:
        """Return the consensus error before mixing that adapt-then-combine settles at.

        To leading order in the learning rate eta, over the modes k >= 2 of the matrix:

            (eta^2 / n) sum_k [ s^2 / (1 - l_k^2 (1 - eta h)^2) + g_k^2 / (1 - l_k (1 - eta h))^2 ]

        The whole spectrum counts; 1 - rho alone does not even order graphs.

        Args:
            learning_rate: eta.
            noise_power: s^2, trace of the covariance of one node's gradient noise, sampling and
                privacy together.
            mode_power: g_k^2, squared norm of the nodes' gradients at the common optimum projected
                on mode k, for k = 2 to n, or one number for all of them.
            curvature: h, mean eigenvalue of the Hessian.
        """
        decay = 1.0 - learning_rate * curvature
        modes = np.array(self.eigenvalues[1:]) * decay
        power = np.broadcast_to(np.asarray(mode_power, dtype=np.float64), modes.shape)
        terms = noise_power / (1.0 - modes**2) + power / (1.0 - modes) ** 2
        return float(learning_rate**2 * terms.sum() / len(self.eigenvalues))


@dataclass(frozen=True, slots=True)
class ConsensusForecast:
    """Expected disagreement from the nodes' own privacy noise, for the matrices there really were.

    Follows the second moment between nodes, so that it holds for graphs that change and links that
    fail; on a fixed graph it tends to `Spectrum.steady_consensus_error` with no curvature.

    Attributes:
        moments: expected products of the nodes' noise, summed over coordinates, shape [n, n].
    """

    moments: Reals

    @classmethod
    def start(cls, nodes: int) -> ConsensusForecast:
        """All nodes at the same adapter."""
        return cls(np.zeros((nodes, nodes)))

    def adapted(self, noise_power: Reals) -> ConsensusForecast:
        """After local steps that add independent noise of these powers, shape [n]."""
        return replace(self, moments=self.moments + np.diag(noise_power))

    def combined(self, matrix: Reals) -> ConsensusForecast:
        """After one mixing."""
        return replace(self, moments=matrix @ self.moments @ matrix.T)

    def error(self) -> float:
        """Expected (1/n) sum of squared distances from the mean."""
        nodes = len(self.moments)
        return float(np.trace(self.moments) - self.moments.sum() / nodes) / nodes


def consensus_error(values: Reals) -> float:
    """Return (1/n) sum of squared distances from the mean, for adapters of shape [n, d]."""
    return float(((values - values.mean(axis=0)) ** 2).sum() / len(values))
