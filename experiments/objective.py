"""DPO of a log-linear policy: gradients, Hessians and the optimum, for many chains at once.

Iterates have the shape [N, d, C]: one column for each of C independent repetitions of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.population import Population, Reals

_NEWTON_STEPS = 50
_CONVERGED = 1e-13
_FLAT = 1e-9


@dataclass(frozen=True, slots=True)
class Objective:
    """The mean loss of N clients, each over its own pairs.

    Attributes:
        features: z of every pair, shape [N, n, d].
        choices: share of votes for the first answer, shape [N, n].
        beta: strength of the tie to the reference; the margin is beta * theta . z.
        loss: `sigmoid` (Rafailov et al., 2023, eq. 7) or `ipo` (Azar et al., 2023, eq. 17), whose
            Hessian is constant.
    """

    features: Reals
    choices: Reals
    beta: float = 1.0
    loss: Literal["sigmoid", "ipo"] = "sigmoid"

    @classmethod
    def of(cls, population: Population, *, beta: float = 1.0) -> Objective:
        """The sigmoid loss on a population's votes."""
        return cls(population.features, population.choices, beta)

    @property
    def clients(self) -> int:
        """Number of clients N."""
        return int(self.features.shape[0])

    @property
    def dimension(self) -> int:
        """Number of weights d."""
        return int(self.features.shape[2])

    def client_gradients(self, theta: Reals, inclusion: Reals | None = None) -> Reals:
        """Gradient of every client's loss.

        Args:
            theta: where each client stands, [N, d, C].
            inclusion: weight of each pair in a sampled batch, [N, n, C]; its mean is 1.

        Returns:
            [N, d, C]; a mean over all of a client's pairs.
        """
        slopes = self._slopes(self.features @ theta)
        if inclusion is not None:
            slopes *= inclusion
        gradients: Reals = self.features.transpose(0, 2, 1) @ slopes / self.features.shape[1]
        return gradients

    def mean_gradient(self, theta: Reals) -> Reals:
        """Gradient of the mean loss where all clients stand together; [d, C] to [d, C]."""
        together = np.broadcast_to(theta, (self.clients, *theta.shape))
        return np.asarray(self.client_gradients(together).mean(axis=0))

    def stationarity(self, theta: Reals) -> Reals:
        """Squared norm of the mean gradient, [d, C] to [C]: unclipped and on all pairs."""
        gradient = self.mean_gradient(theta)
        return np.asarray((gradient * gradient).sum(axis=0))

    def pair_gradients(self, theta: Reals) -> Reals:
        """Gradient of every pair's loss at one point [d]; [N, n, d]."""
        slopes = self._slopes(self.features @ theta[:, None])
        return slopes * self.features

    def hessians(self, theta: Reals) -> Reals:
        """Hessian of every client's loss at one point [d]; [N, d, d]."""
        if self.loss == "ipo":
            curvature = np.full(self.features.shape[:2], 2.0)
        else:
            chance = _sigmoid(self.beta * self.features @ theta)
            curvature = self.beta**2 * chance * (1.0 - chance)
        weighted = self.features * curvature[:, :, None]
        hessians: Reals = weighted.transpose(0, 2, 1) @ self.features / self.features.shape[1]
        return hessians

    def optimum(self) -> Reals:
        """Where the mean loss is least, [d], by Newton's method.

        Raises:
            ValueError: no optimum was found; the votes can be told apart without error.
        """
        theta = np.zeros(self.dimension)
        for _ in range(_NEWTON_STEPS):
            gradient = self.mean_gradient(theta[:, None])[:, 0]
            hessian = self.hessians(theta).mean(axis=0)
            if np.linalg.eigvalsh(hessian)[0] < _FLAT:
                break
            if np.linalg.norm(gradient) < _CONVERGED:
                return theta
            theta = theta - np.linalg.solve(hessian, gradient)
        raise ValueError("the mean loss has no finite optimum; draw more pairs or noisier votes")

    def _slopes(self, scores: Reals) -> Reals:
        """Derivative of each pair's loss by its score theta . z, for scores [N, n, C]."""
        votes = self.choices[:, :, None]
        if self.loss == "ipo":
            return 2.0 * (scores - (2.0 * votes - 1.0) / (2.0 * self.beta))
        return self.beta * (_sigmoid(self.beta * scores) - votes)


def _sigmoid(values: Reals) -> Reals:
    return 1.0 / (1.0 + np.exp(-values))
