"""What the laws say, with their constants: the dynamics linearised at the optimum of the mean loss.

Let g_i and H_i be client i's gradient and Hessian at the optimum (sum of g_i = 0), H their mean,
P_i = (1 - eta H_i)^K and Q_i = sum_{k<K} (1 - eta H_i)^k. A round maps the distance x from the
optimum to mean_S(P_i) x - eta mean_S(Q_i g_i) + noise. Hence, to leading order in eta:

- drift: x settles at eta (K-1)/2 H^-1 mean(H_i g_i), so |grad L|^2 = eta^2 (K-1)^2/4
  |mean(H_i g_i)|^2, which is zero for K = 1 and for equal Hessians;
- participation: S of N without replacement add noise of covariance
  (N-S)/(S(N-1)) cov_i(eta Q_i g_i);
- sampling and privacy noise: (1/S) mean_i of what K noisy steps of a client add up to;
- staleness: x is pulled by its past, which makes the same noise settle wider.

Own derivation; the shapes agree with what is published of arXiv:2605.20696 (sections 4 to 6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.objective import Objective
from experiments.population import Reals
from experiments.simulate import FederatedRun, GossipRun

_FREQUENCIES = 4096


@dataclass(frozen=True, slots=True)
class Floors:
    """The settled value of |grad L|^2, by source.

    Attributes:
        drift: from K local steps on different losses.
        participation: from cohorts that are not everybody.
        gradient_noise: from sampled batches.
        privacy_noise: from noise added on purpose.
        staleness: what delays add to the noise above.
    """

    drift: float
    participation: float
    gradient_noise: float
    privacy_noise: float
    staleness: float

    @property
    def total(self) -> float:
        """All of it."""
        noise = self.participation + self.gradient_noise + self.privacy_noise
        return self.drift + noise + self.staleness


@dataclass(frozen=True, slots=True)
class Linearised:
    """An objective near its optimum.

    Attributes:
        optimum: [d].
        gradients: g_i, [N, d]; they sum to zero.
        hessians: H_i, [N, d, d].
        pair_scatter: (1/n^2) sum over a client's pairs of their gradients' outer products,
            [N, d, d].
    """

    optimum: Reals
    gradients: Reals
    hessians: Reals
    pair_scatter: Reals

    @classmethod
    def of(cls, objective: Objective) -> Linearised:
        """Find the optimum and expand there."""
        optimum = objective.optimum()
        rows = objective.pair_gradients(optimum)
        scatter = rows.transpose(0, 2, 1) @ rows / rows.shape[1] ** 2
        return cls(optimum, rows.mean(axis=1), objective.hessians(optimum), scatter)

    @property
    def mean_hessian(self) -> Reals:
        """H, [d, d]."""
        return np.asarray(self.hessians.mean(axis=0))

    @property
    def heterogeneity(self) -> float:
        """zeta^2 = (1/N) sum |g_i|^2 at the optimum."""
        return float((self.gradients**2).sum(axis=1).mean())

    def drift_floor(self, rate: float, local_steps: int) -> float:
        """|grad L|^2 where full-batch training with K local steps comes to rest."""
        pull = np.einsum("ijk,ik->j", self.hessians, self.gradients) / len(self.gradients)
        return rate**2 * (local_steps - 1) ** 2 / 4.0 * float(pull @ pull)

    def step_noise(self, run: FederatedRun | GossipRun) -> tuple[Reals, Reals]:
        """Covariances [N, d, d] of one noisy gradient: by sampling, by noise added on purpose."""
        sampling = (1.0 / run.sample_rate - 1.0) * self.pair_scatter
        added = run.local_noise**2 * np.broadcast_to(np.eye(len(self.optimum)), sampling.shape)
        return sampling, added

    def floors(self, run: FederatedRun, cohort: int) -> Floors:
        """Predict the floor of a FedDPO run, source by source.

        Args:
            run: its settings.
            cohort: S, drawn uniformly without replacement in every round.
        """
        clients, dimension = self.gradients.shape
        shrink = np.eye(dimension) - run.rate * self.hessians
        powers = [np.linalg.matrix_power(shrink, k) for k in range(run.local_steps + 1)]
        moves = run.rate * np.einsum("kijl,il->ij", np.array(powers[:-1]), self.gradients)
        moves = moves - moves.mean(axis=0)
        factor = participation_factor(clients, cohort)
        participation = factor * moves.T @ moves / clients

        def added_up(step: Reals) -> Reals:
            rounds = sum(power @ step @ power for power in powers[:-1])
            return np.asarray(run.rate**2 * np.asarray(rounds).mean(axis=0) / cohort)

        sampling, added = map(added_up, self.step_noise(run))
        added = added + (run.rate * run.shared_noise) ** 2 * np.eye(dimension)
        pull = np.eye(dimension) - powers[-1].mean(axis=0)
        prompt = [self._settled(pull, noise, delay=0) for noise in (participation, sampling, added)]
        late = self._settled(pull, participation + sampling + added, delay=run.delay)
        drift = self.drift_floor(run.rate, run.local_steps)
        return Floors(drift, prompt[0], prompt[1], prompt[2], late - sum(prompt))

    def _settled(self, pull: Reals, noise: Reals, *, delay: int) -> float:
        """E|H x|^2 under x' = x - pull * mean(x of the last `delay` + 1 rounds) + noise."""
        strengths, basis = np.linalg.eigh(pull)
        angles = 2.0 * np.pi * np.arange(_FREQUENCIES) / _FREQUENCIES
        lags = np.exp(-1j * np.outer(np.arange(delay + 1), angles)).mean(axis=0)
        response = 1.0 / (np.exp(1j * angles) - 1.0 + np.outer(strengths, lags))
        gain = (response @ response.conj().T).real / _FREQUENCIES
        covariance = basis @ (gain * (basis.T @ noise @ basis)) @ basis.T
        hessian = self.mean_hessian
        return float(np.trace(hessian @ covariance @ hessian))

    def consensus(
        self, run: GossipRun, mixing: Reals, *, in_gradients: bool = False
    ) -> tuple[float, float]:
        """Predict the consensus error after the gradient step: its noise part and its bias part.

        For eigenvalues l_k of the mixing matrix, k >= 2, and h_j of the mean Hessian a mode shrinks
        by r = l_k (1 - eta h_j) a round, or by l_k - eta h_j in the order `dgd`. Its noise settles
        at eta^2 s_j^2 / (1 - r^2), its bias at eta ghat_kj / (1 - r).

        Args:
            run: settings.
            mixing: symmetric doubly stochastic weights, [N, N].
            in_gradients: count a distance x as |H x|^2, which is what it adds to the nodes' own
                |grad L|^2, instead of |x|^2.
        """
        strengths, basis = np.linalg.eigh(self.mean_hessian)
        eigenvalues, modes = np.linalg.eigh(mixing)
        eigenvalues, modes = eigenvalues[:-1, None], modes[:, :-1]
        if run.order == "atc":
            shrink = eigenvalues * (1.0 - run.rate * strengths)
        else:
            shrink = eigenvalues - run.rate * strengths
        sampling, added = self.step_noise(run)
        spread = np.einsum("dj,de,ej->j", basis, (sampling + added).mean(axis=0), basis)
        bias = modes.T @ self.gradients @ basis
        scale = run.rate**2 / len(self.gradients) * (strengths**2 if in_gradients else 1.0)
        noise_part = float((scale * spread / (1.0 - shrink**2)).sum())
        bias_part = float((scale * bias**2 / (1.0 - shrink) ** 2).sum())
        return noise_part, bias_part

    def distance_left(self, run: FederatedRun, start: Reals) -> Reals:
        """Distance x from the optimum, [d], after the rounds of a run without any noise."""
        dimension = len(self.optimum)
        shrink = np.eye(dimension) - run.rate * self.hessians
        powers = [np.linalg.matrix_power(shrink, k) for k in range(run.local_steps + 1)]
        push = -run.rate * np.einsum("kijl,il->j", np.array(powers[:-1]), self.gradients)
        mean_power = powers[-1].mean(axis=0)
        rest = np.linalg.solve(np.eye(dimension) - mean_power, push / len(self.gradients))
        way = np.linalg.matrix_power(mean_power, run.rounds)
        return np.asarray(rest + way @ (start - self.optimum - rest))


def participation_factor(clients: int, cohort: int) -> float:
    """(N-S)/(S(N-1)): variance of the mean of S of N values drawn without replacement."""
    return (clients - cohort) / (cohort * (clients - 1)) if clients > 1 else 0.0
