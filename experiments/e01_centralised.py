"""E1: with everybody in every round and one local step, FedDPO is centralised DPO."""

from __future__ import annotations

import numpy as np

from experiments import setting
from experiments.findings import Chart, Curve, Effort, Experiment, Finding, Outcome
from experiments.fitting import over_seeds
from experiments.objective import Objective
from experiments.simulate import FederatedRun, federated_iterates

RATE = 0.5
ROUNDS = 200
ROUNDING = 1e-12
"""Relative difference that double precision leaves after so many rounds."""


def run(effort: Effort) -> Outcome:
    """Compare the iterates of N clients with those of one client that holds all pairs."""
    rounds = effort.rounds(ROUNDS)
    differences, losses = [], []
    for seed in range(effort.seeds):
        federated, central = _iterates(seed, rounds)
        differences.append(np.abs(federated - central).max() / np.abs(central).max())
        losses.append([_stationarity(seed, point) for point in federated])
    finding = Finding(
        claim="Full participation equals centralised DPO (K = 1)",
        prediction="the same iterates",
        quantity="largest relative difference of an iterate",
        measured=over_seeds(differences),
        accepted=(-ROUNDING, ROUNDING),
    )
    shown = [r for r in (1, 2, 5, 10, 20, 50, 100, 200) if r <= rounds]
    by_round = np.array(losses)[:, [r - 1 for r in shown]]
    chart = Chart(
        title="FedDPO with everybody, and centralised DPO",
        x_label="round",
        y_label="|grad L|^2",
        curves=(Curve("both, one on the other", shown, by_round.mean(axis=0), by_round),),
    )
    return Outcome((finding,), chart)


def _iterates(seed: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    clients = setting.objective(seed)
    pooled = Objective(
        clients.features.reshape(1, -1, clients.dimension), clients.choices.reshape(1, -1)
    )
    settings = FederatedRun(rate=RATE, rounds=rounds)
    start = np.zeros(clients.dimension)
    both = [
        np.array([point[:, 0] for point in federated_iterates(o, settings, noise, start=start)])
        for o, noise in ((clients, setting.noise(seed)), (pooled, setting.noise(seed)))
    ]
    return both[0], both[1]


def _stationarity(seed: int, point: np.ndarray) -> float:
    return float(setting.objective(seed).stationarity(point[:, None])[0])


EXPERIMENT = Experiment(
    key="E1",
    title="Full participation equals centralised training",
    setting=f"{setting.WORDS}; K = 1, eta = {RATE}, full batches, {ROUNDS} rounds",
    source="arXiv:2605.20696, comparative experiment",
    run=run,
)
