"""D: the floor of one run, taken apart: each source predicted beside measured.

Measured alone is the floor of the same run with the other sources switched off; staleness, which
only widens other noise, is what switching the delays on adds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experiments import setting
from experiments.findings import Chart, Curve, Effort, Experiment, Finding, Outcome
from experiments.fitting import ratio_over_seeds
from experiments.graphs import mixing_matrices
from experiments.objective import Objective
from experiments.population import Reals
from experiments.predict import Linearised
from experiments.simulate import (
    FederatedRun,
    GossipRun,
    federated_iterates,
    gossip_iterates,
    settled_mean,
    uniform_cohorts,
)

RUN = FederatedRun(
    rate=0.05, rounds=1600, local_steps=4, delay=8, sample_rate=0.2, local_noise=0.4, chains=16
)
QUIET = replace(RUN, delay=0, sample_rate=1.0, local_noise=0.0)
COHORT = 4
GOSSIP = GossipRun(rate=0.05, rounds=1600, sample_rate=0.2, local_noise=0.4, chains=8)
OPTIMISATION_ROUNDS = 60
ACCEPTED = (0.8, 1.25)


def run(effort: Effort) -> Outcome:
    """Take a FedDPO run and a DecDPO run apart."""
    rounds = effort.rounds(RUN.rounds)
    tables = [_federated(setting.objective(seed), rounds, seed) for seed in range(effort.seeds)]
    graphs = [_gossip(setting.objective(seed), rounds, seed) for seed in range(effort.seeds)]
    rows = [f"FedDPO: {name}" for name in tables[0]] + [f"DecDPO: {name}" for name in graphs[0]]
    values = np.array([[*t.values(), *g.values()] for t, g in zip(tables, graphs, strict=True)])
    findings = tuple(
        Finding(
            f"{name}, predicted {values[:, place, 1].mean():.2e}",
            "1",
            "measured / predicted",
            ratio_over_seeds(values[:, place, 0] / values[:, place, 1]),
            ACCEPTED,
        )
        for place, name in enumerate(rows)
    )
    return Outcome(findings, _chart(len(tables[0]), values))


def _federated(objective: Objective, rounds: int, seed: int) -> dict[str, tuple[float, float]]:
    """Measured and predicted, by source."""
    linear = Linearised.of(objective)
    clients = objective.clients
    whole = replace(RUN, rounds=rounds)
    prompt = replace(whole, delay=0)
    quiet = replace(QUIET, rounds=rounds)
    budget = linear.floors(whole, COHORT)
    drift = linear.drift_floor(RUN.rate, RUN.local_steps)
    total, unhurried = (_floor(objective, linear, one, COHORT, seed) for one in (whole, prompt))

    def alone(settings: FederatedRun, cohort: int) -> float:
        return _floor(objective, linear, settings, cohort, seed) - drift_measured

    drift_measured = _floor(objective, linear, quiet, clients, seed)
    # Noise of every client enters divided by N or by S: everybody's floor times N / S.
    share = clients / COHORT
    return {
        "optimisation left after 60 rounds": _optimisation(objective, linear),
        "drift": (drift_measured, drift),
        "participation": (alone(quiet, COHORT), budget.participation),
        "gradient noise": (
            share * alone(replace(quiet, sample_rate=RUN.sample_rate), clients),
            budget.gradient_noise,
        ),
        "privacy noise": (
            share * alone(replace(quiet, local_noise=RUN.local_noise), clients),
            budget.privacy_noise,
        ),
        "staleness": (total - unhurried, budget.staleness),
        "all together": (total, budget.total),
    }


def _optimisation(objective: Objective, linear: Linearised) -> tuple[float, float]:
    """What is left of the way after a few quiet rounds that begin near the optimum."""
    settings = replace(QUIET, rounds=OPTIMISATION_ROUNDS, local_steps=1, chains=1)
    start = 0.5 * linear.optimum
    last = start[:, None]
    for point in federated_iterates(objective, settings, setting.noise(0), start=start):
        last = point
    left = linear.mean_hessian @ linear.distance_left(settings, start)
    return float(objective.stationarity(last)[0]), float(left @ left)


def _floor(
    objective: Objective, linear: Linearised, settings: FederatedRun, cohort: int, seed: int
) -> float:
    cohorts = uniform_cohorts(objective, cohort, settings.chains, seed)
    points = federated_iterates(
        objective, settings, setting.noise(seed), start=linear.optimum, cohorts=cohorts
    )
    burn_in = settings.rounds // 8
    return settled_mean(points, objective.stationarity, burn_in=burn_in, every=3)


def _gossip(objective: Objective, rounds: int, seed: int) -> dict[str, tuple[float, float]]:
    """On a ring: |grad L|^2 at the mean of the nodes, and at the nodes themselves."""
    linear = Linearised.of(objective)
    ring = mixing_matrices(objective.clients)["ring"]
    settings = replace(GOSSIP, rounds=rounds)
    server = FederatedRun(
        rate=settings.rate,
        rounds=rounds,
        sample_rate=settings.sample_rate,
        local_noise=settings.local_noise,
    )
    at_mean = linear.floors(server, objective.clients).total
    consensus = sum(linear.consensus(settings, ring, in_gradients=True))
    measured = []
    for measure in (_at_mean, _at_nodes):
        points = gossip_iterates(
            objective, ring, settings, setting.noise(seed), start=linear.optimum
        )
        measured.append(
            settled_mean(
                points,
                lambda theta, measure=measure: measure(objective, theta),  # type: ignore[misc]
                burn_in=rounds // 4,
                every=4,
            )
        )
    mean, nodes = measured
    return {
        "gradient and privacy noise, at the nodes' mean": (mean, at_mean),
        "consensus, on top of it at the nodes": (nodes - mean, consensus),
        "all together, at the nodes": (nodes, at_mean + consensus),
    }


def _at_mean(objective: Objective, theta: Reals) -> Reals:
    return objective.stationarity(theta.mean(axis=0))


def _at_nodes(objective: Objective, theta: Reals) -> Reals:
    everyone = theta.transpose(1, 0, 2).reshape(objective.dimension, -1)
    return objective.stationarity(everyone)


def _chart(federated: int, values: np.ndarray) -> Chart:
    mean = np.exp(np.log(values).mean(axis=0))
    server, graph = values[:, :federated], values[:, federated:]
    ends = [float(mean[:, 1].min()), float(mean[:, 1].max())]
    curves = (
        Curve("FedDPO", mean[:federated, 1], mean[:federated, 0], server[..., 0]),
        Curve("DecDPO", mean[federated:, 1], mean[federated:, 0], graph[..., 0]),
        Curve("as predicted", ends, ends, drawn="line"),
    )
    return Chart("The floor by source", "predicted |grad L|^2", "measured |grad L|^2", curves)


EXPERIMENT = Experiment(
    key="D",
    title="The floor of a run by source, predicted beside measured",
    setting=f"{setting.WORDS}; eta = {RUN.rate}, K = {RUN.local_steps}, S = {COHORT}, delays 0 to "
    f"{RUN.delay}, batches by Poisson sampling at {RUN.sample_rate}, noise {RUN.local_noise} a "
    "coordinate; DecDPO: ring, K = 1",
    source="experiments/predict.py",
    run=run,
)
