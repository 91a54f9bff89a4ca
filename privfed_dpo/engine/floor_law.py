"""Where rounds of noisy descent come to rest, as functions of curvature.

Along a direction of curvature h let x be the distance from the optimum. K local steps of rate eta
with FedProx' pull mu change a client's adapter by -pull(h) x plus noise, and the server follows the
mean change with step size and momentum, x' = x - lambda m', m' = beta m + pull(h) x + noise. The
response r_t to one unit of noise says everything: after T rounds noise of variance v has left
v sum_{t<T} r_t^2, and a start x_0 has shrunk to e_T x_0. In squares of the gradient both count
h^2. Own derivation, for a loss that is quadratic near the run's end; docs/decisions/0030.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoundLaw:
    """The numbers of a run that decide where it comes to rest.

    Attributes:
        local_rate: eta; 1 where the server steps along one mean gradient.
        local_steps: K.
        proximal: mu.
        server_rate: lambda.
        momentum: beta, of the server's SGD.
        rounds: T, rounds that were played.
        max_staleness: tau; clients are late by 0 to tau rounds, uniformly.
        kept: what clipping leaves of a gradient on average, in (0, 1].
    """

    local_rate: float
    local_steps: int
    proximal: float
    server_rate: float
    momentum: float
    rounds: int
    max_staleness: int = 0
    kept: float = 1.0

    def pull(self, curvature: Reals) -> Reals:
        """By what share of the distance a client moves back in one round."""
        powers = self._powers(curvature).sum(axis=0)
        return np.asarray(self.local_rate * self.kept * curvature * powers)

    def step_noise_gain(self, curvature: Reals) -> Reals:
        """Variance of a client's change when each step's gradient has variance 1."""
        return np.asarray(self.local_rate**2 * (self._powers(curvature) ** 2).sum(axis=0))

    def bias_gain(self, curvature: Reals) -> Reals:
        """Square of a client's change for a gradient of 1 that stays the same in all steps."""
        return np.asarray((self.local_rate * self._powers(curvature).sum(axis=0)) ** 2)

    def noise_left(self, curvature: Reals) -> Reals:
        """Variance of the distance after T rounds, for noise of variance 1 in every change."""
        step, kick = self._transition(curvature), self._kick()
        one = np.broadcast_to(np.outer(kick, kick), step.shape)
        total, power = np.zeros(step.shape), np.broadcast_to(np.eye(len(kick)), step.shape)
        for bit in f"{self.rounds:b}":
            total = total + power @ total @ power.transpose(0, 2, 1)
            power = power @ power
            if bit == "1":
                total = one + step @ total @ step.transpose(0, 2, 1)
                power = step @ power
        return np.asarray(total[:, 0, 0])

    def distance_left(self, curvature: Reals) -> Reals:
        """Share of the distance that is left after T rounds."""
        start = np.append(np.ones(self.max_staleness + 1), 0.0)
        powers = np.linalg.matrix_power(self._transition(curvature), self.rounds)
        return np.asarray((powers @ start)[:, 0])

    def prompt(self) -> RoundLaw:
        """The same law without delays; the difference is what staleness adds."""
        return replace(self, max_staleness=0)

    @property
    def drift_length(self) -> float:
        """How far along its own gradient a client is on average when it takes a local step."""
        held = 1.0 - self.local_rate * self.proximal
        away = self.path
        weights = held ** np.arange(self.local_steps)[::-1]
        return float(weights @ away / weights.sum())

    @property
    def path(self) -> Reals:
        """How far along a constant gradient a client is before each local step, shape [K]."""
        held = 1.0 - self.local_rate * self.proximal
        powers = held ** np.arange(self.local_steps)
        return np.asarray(self.local_rate * (np.cumsum(powers) - powers))

    def _powers(self, curvature: Reals) -> Reals:
        """What is left of a change after j further local steps, shape [K, m]."""
        shrink = 1.0 - self.local_rate * (self.kept * _flat_at_least(curvature) + self.proximal)
        return shrink ** np.arange(self.local_steps)[:, None]

    def _transition(self, curvature: Reals) -> Reals:
        """One round of (distances of the last tau + 1 rounds, memory), shape [m, tau+2, tau+2]."""
        lags = self.max_staleness + 1
        pull = self.pull(_flat_at_least(curvature))
        step = np.zeros((curvature.size, lags + 1, lags + 1))
        step[:, -1, :lags] = pull[:, None] / lags
        step[:, -1, -1] = self.momentum
        step[:, 0, :] = -self.server_rate * step[:, -1, :]
        step[:, 0, 0] += 1.0
        step[:, np.arange(1, lags), np.arange(lags - 1)] = 1.0
        return step

    def _kick(self) -> Reals:
        """What noise of 1 in a round's change does to them, shape [tau + 2]."""
        kick = np.zeros(self.max_staleness + 2)
        kick[0], kick[-1] = -self.server_rate, 1.0
        return kick


def _flat_at_least(curvature: Reals) -> Reals:
    """Negative curvature counts as none: the law is about where runs come to rest."""
    return np.maximum(curvature, 0.0)


def consensus_left(law: RoundLaw, eigenvalues: Reals, curvature: Reals) -> tuple[Reals, Reals]:
    """How far nodes without a server are from their mean after their local steps.

    A mode of the mixing matrix with eigenvalue l shrinks by r = l (1 - pull(h)) in a round.

    Args:
        law: local steps and rounds; what it says of a server does not matter.
        eigenvalues: of the mixing matrix without the first, shape [n - 1].
        curvature: h, shape [m].

    Returns:
        Sums over modes, shape [m] each: of the variance for node noise of variance 1 in a change,
        and of the square for a node's constant change of 1.
    """
    shrink = np.outer(eigenvalues, 1.0 - law.pull(_flat_at_least(curvature)))
    left = shrink**law.rounds
    noise = ((1.0 - left**2) / (1.0 - shrink**2)).sum(axis=0)
    bias = (((1.0 - left) / (1.0 - shrink)) ** 2).sum(axis=0)
    return np.asarray(noise), np.asarray(bias)
