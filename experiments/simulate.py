"""FedDPO and DecDPO on a log-linear policy, many chains at once, by plain SGD.

Adam would hide the laws of the step size, so there is none here. That these few lines and the real
engine give the same iterates is shown by `tests/unit/experiments/test_engine_agreement.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.objective import Objective
from experiments.population import Reals

Cohorts = Callable[[int], Reals]
"""From a round's number, from 1, to who takes part: [N, C] of zeros and ones, S ones a column."""


@dataclass(frozen=True, slots=True)
class FederatedRun:
    """Settings of a FedDPO run; the server applies the mean update as it is.

    Attributes:
        rate: local step size eta.
        rounds: number of rounds.
        local_steps: K.
        scaffold: whether control variates correct local steps (Karimireddy et al., 2020, option
            II).
        proximal: strength mu of FedProx' pull back to where the client's round began.
        delay: a client's update was computed at the adapter of 0 to `delay` rounds ago, uniformly.
        sample_rate: probability with which a pair joins a step (Poisson); divisors are public.
        local_noise: standard deviation of the noise on each coordinate of a client's mean
            gradient, in every step (local mode).
        shared_noise: the same on the mean gradient of the cohort (distributed mode, K = 1).
        chains: repetitions C.
    """

    rate: float
    rounds: int
    local_steps: int = 1
    scaffold: bool = False
    proximal: float = 0.0
    delay: int = 0
    sample_rate: float = 1.0
    local_noise: float = 0.0
    shared_noise: float = 0.0
    chains: int = 1


@dataclass(frozen=True, slots=True)
class GossipRun:
    """Settings of a DecDPO run with one gradient step between two mixings.

    Attributes:
        rate: step size eta.
        rounds: number of rounds.
        order: `atc` adapts, then combines; combine-then-adapt is the same alternation, looked at
            one half step later, so it has no name of its own here. `dgd` takes the gradient at the
            point before mixing and applies it after (Nedic and Ozdaglar, 2009).
        sample_rate: as in `FederatedRun`.
        local_noise: as in `FederatedRun`.
        chains: repetitions C.
    """

    rate: float
    rounds: int
    order: Literal["atc", "dgd"] = "atc"
    sample_rate: float = 1.0
    local_noise: float = 0.0
    chains: int = 1


def everybody(objective: Objective, chains: int) -> Cohorts:
    """Every client takes part in every round."""
    mask = np.ones((objective.clients, chains))

    def draw(_: int) -> Reals:
        return mask

    return draw


def uniform_cohorts(objective: Objective, size: int, chains: int, seed: int) -> Cohorts:
    """`size` of the N clients without replacement, anew in every round and chain."""
    rng = np.random.default_rng([seed, size])

    def draw(_: int) -> Reals:
        ranks = rng.random((objective.clients, chains)).argsort(axis=0).argsort(axis=0)
        return (ranks < size).astype(np.float64)

    return draw


def balanced_cohorts(objective: Objective, size: int, chains: int, seed: int) -> Cohorts:
    """As the engine invites: nobody again before everybody was; `size` must divide N."""
    rng = np.random.default_rng([seed, size])
    turns = objective.clients // size
    ranks = np.zeros((objective.clients, chains), dtype=np.int64)

    def draw(number: int) -> Reals:
        turn = (number - 1) % turns
        if turn == 0:
            ranks[:] = rng.random(ranks.shape).argsort(axis=0).argsort(axis=0)
        return np.asarray(ranks // size == turn, dtype=np.float64)

    return draw


def federated_iterates(
    objective: Objective,
    run: FederatedRun,
    rng: np.random.Generator,
    *,
    start: Reals,
    cohorts: Cohorts | None = None,
    delays: Cohorts | None = None,
) -> Iterator[Reals]:
    """Yield the global adapter after every round, [d, C].

    Args:
        objective: the clients.
        run: settings.
        rng: gradient noise and delays; two runs with equal generators share their noise.
        start: [d] for all chains.
        cohorts: who takes part; None is everybody.
        delays: every client's delay in a round, [N, C]; None draws them from `rng`.
    """
    cohorts = cohorts or everybody(objective, run.chains)
    theta = np.repeat(start[:, None], run.chains, axis=1)
    history = np.repeat(theta[None], run.delay + 1, axis=0)
    chains = np.arange(run.chains)
    own = np.zeros((objective.clients, *theta.shape))
    for number in range(1, run.rounds + 1):
        origin = np.broadcast_to(theta, (objective.clients, *theta.shape))
        if run.delay:
            late = rng.integers(run.delay + 1, size=(objective.clients, run.chains))
            if delays is not None:
                late = delays(number).astype(np.int64)
            origin = history[(number - 1 - late) % (run.delay + 1), :, chains].transpose(0, 2, 1)
        correction = own.mean(axis=0) - own if run.scaffold else 0.0
        local = origin
        for _ in range(run.local_steps):
            pull = run.proximal * (local - origin)
            step = _noisy_gradients(objective, local, run, rng) + pull + correction
            local = local - run.rate * step
        present = cohorts(number)
        if run.scaffold:
            used = (origin - local) / (run.local_steps * run.rate) - correction
            own = np.where(present[:, None], used, own)
        change = np.einsum("idc,ic->dc", local - origin, present) / present.sum(axis=0)
        if run.shared_noise:
            change = change - run.rate * run.shared_noise * rng.normal(size=change.shape)
        theta = theta + change
        history[number % (run.delay + 1)] = theta
        yield theta


def gossip_iterates(
    objective: Objective,
    mixing: Reals,
    run: GossipRun,
    rng: np.random.Generator,
    *,
    start: Reals,
) -> Iterator[Reals]:
    """Yield every node's adapter after its gradient step, [N, d, C].

    In the order `atc` that is what a node sends: consensus is measured before mixing.

    Args:
        objective: the nodes.
        mixing: symmetric doubly stochastic weights, [N, N].
        run: settings.
        rng: gradient noise.
        start: [d] for all nodes and chains.
    """
    theta = np.broadcast_to(start[:, None], (objective.clients, start.size, run.chains))
    for _ in range(run.rounds):
        step = run.rate * _noisy_gradients(objective, theta, run, rng)
        if run.order == "dgd":
            theta = np.einsum("ij,jdc->idc", mixing, theta) - step
            yield theta
        else:
            theta = theta - step
            yield theta
            theta = np.einsum("ij,jdc->idc", mixing, theta)


def consensus_error(theta: Reals) -> Reals:
    """Mean squared distance of the nodes from their mean, [N, d, C] to [C]."""
    return np.asarray(((theta - theta.mean(axis=0)) ** 2).sum(axis=1).mean(axis=0))


def settled_mean(
    values: Iterator[Reals], measure: Callable[[Reals], Reals], *, burn_in: int, every: int = 1
) -> float:
    """Mean of a measure over all chains and over every `every`-th round after the first `burn_in`.

    Raises:
        ValueError: the run ended before.
    """
    taken = [
        float(measure(value).mean())
        for number, value in enumerate(values, 1)
        if number > burn_in and number % every == 0
    ]
    if not taken:
        raise ValueError(f"the run has no round {every} after the first {burn_in}")
    return float(np.mean(taken))


def _noisy_gradients(
    objective: Objective, theta: Reals, run: FederatedRun | GossipRun, rng: np.random.Generator
) -> Reals:
    inclusion = None
    if run.sample_rate < 1.0:
        shape = (*objective.features.shape[:2], run.chains)
        inclusion = (rng.random(shape) < run.sample_rate) / run.sample_rate
    gradients = objective.client_gradients(theta, inclusion)
    if run.local_noise:
        gradients = gradients + run.local_noise * rng.normal(size=gradients.shape)
    return gradients
