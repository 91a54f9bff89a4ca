"""E8: N clients average the noise away N times as well, with a server or on a graph."""

from __future__ import annotations

import numpy as np

from experiments import setting
from experiments.findings import Chart, Curve, Effort, Experiment, Finding, Outcome
from experiments.fitting import log_slope, over_seeds, ratio_over_seeds
from experiments.graphs import mixing_matrices
from experiments.objective import Objective
from experiments.population import Dials
from experiments.predict import Linearised
from experiments.simulate import (
    FederatedRun,
    GossipRun,
    federated_iterates,
    gossip_iterates,
    settled_mean,
)

RATE = 0.1
SMALL_RATE = 0.02
"""For the graphs: what heterogeneity adds is of higher order in eta."""

SAMPLE_RATE = 0.2
CLIENTS = (1, 2, 4, 8, 16)
ROUNDS = 1500
CHAINS = 12


def run(effort: Effort) -> Outcome:
    """Measure the noise floor over N; then the floor of the nodes' mean on ring and complete."""
    rounds = effort.rounds(ROUNDS)
    settings = FederatedRun(rate=RATE, rounds=rounds, sample_rate=SAMPLE_RATE, chains=CHAINS)
    points, ratios, topology = [], [], []
    for seed in range(effort.seeds):
        # One client's pairs are every client's, so that only the number of clients changes.
        own = setting.objective(seed, clients=1, dials=Dials())
        floors, predicted = [], []
        for clients in CLIENTS:
            many = _copies(own, clients)
            linear = Linearised.of(many)
            steps = federated_iterates(many, settings, setting.noise(seed), start=linear.optimum)
            floors.append(settled_mean(steps, many.stationarity, burn_in=rounds // 10, every=4))
            predicted.append(linear.floors(settings, clients).total)
        ratios.append(np.exp(np.mean(np.log(np.array(floors) / predicted))))
        points.append([floors, predicted])
        mixings = mixing_matrices(CLIENTS[-1])
        different = setting.objective(seed, clients=CLIENTS[-1])
        topology.append(_mean_floor(different, mixings["ring"], 2 * rounds, seed))
        topology[-1] /= _mean_floor(different, mixings["complete"], 2 * rounds, seed)
    values = np.array(points)
    findings = (
        Finding(
            "Noise floor ~ 1/N",
            "-1",
            "slope over N",
            over_seeds([log_slope(CLIENTS, row) for row in values[:, 0]]),
            (-1.07, -0.93),
        ),
        Finding(
            "... with its constant",
            "1",
            "measured / predicted",
            ratio_over_seeds(ratios),
            (0.85, 1.2),
        ),
        Finding(
            "DecDPO: to leading order the graph does not change the floor of the mean",
            "1",
            "floor on ring over complete, N = 16",
            ratio_over_seeds(topology),
            (0.85, 1.2),
        ),
    )
    measured, predicted_mean = np.exp(np.log(values).mean(axis=0))
    curves = (
        Curve("measured", CLIENTS, measured, values[:, 0]),
        Curve("predicted", CLIENTS, predicted_mean, drawn="line"),
    )
    return Outcome(findings, Chart("Noise floor over N", "clients N", "|grad L|^2", curves))


def _copies(own: Objective, clients: int) -> Objective:
    return Objective(
        np.repeat(own.features, clients, axis=0), np.repeat(own.choices, clients, axis=0)
    )


def _mean_floor(objective: Objective, mixing: np.ndarray, rounds: int, seed: int) -> float:
    """|grad L|^2 at the mean of the nodes."""
    settings = GossipRun(rate=SMALL_RATE, rounds=rounds, sample_rate=SAMPLE_RATE, chains=CHAINS)
    start = objective.optimum()
    points = gossip_iterates(objective, mixing, settings, setting.noise(seed), start=start)
    means = (theta.mean(axis=0) for theta in points)
    return settled_mean(means, objective.stationarity, burn_in=rounds // 3, every=4)


EXPERIMENT = Experiment(
    key="E8",
    title="Linear speed-up in the number of clients",
    setting=f"{setting.PAIRS} pairs, d = {setting.DIMENSION}, the same pairs at every client; "
    f"K = 1, eta = {RATE}, batches by Poisson sampling at {SAMPLE_RATE}, N in {CLIENTS}",
    source="arXiv:2605.20696, claim on DecDPO's rate",
    run=run,
)
