"""E7: the consensus error grows with the square of the step size."""

from __future__ import annotations

import numpy as np

from experiments import setting
from experiments.e06_topology import settled_consensus
from experiments.findings import Chart, Curve, Effort, Experiment, Finding, Outcome
from experiments.fitting import log_slope, over_seeds
from experiments.graphs import mixing_matrices
from experiments.predict import Linearised
from experiments.simulate import GossipRun

RATES = (0.0125, 0.025, 0.05)
SAMPLE_RATE = 0.2
ROUNDS = 2000
CHAINS = 8


def run(effort: Effort) -> Outcome:
    """Measure the ring over eta and fit the exponent."""
    ring = mixing_matrices(setting.CLIENTS)["ring"]
    points = []
    for seed in range(effort.seeds):
        objective = setting.objective(seed)
        linear = Linearised.of(objective)
        runs = [
            GossipRun(
                rate=rate, rounds=effort.rounds(ROUNDS), sample_rate=SAMPLE_RATE, chains=CHAINS
            )
            for rate in RATES
        ]
        measured = [settled_consensus(objective, ring, one) for one in runs]
        points.append([measured, [sum(linear.consensus(one, ring)) for one in runs]])
    floors = np.array(points)
    finding = Finding(
        "Consensus error ~ eta^2 on a ring",
        "2",
        "slope over eta",
        over_seeds([log_slope(RATES, row) for row in floors[:, 0]]),
        (1.85, 2.15),
    )
    measured, predicted = np.exp(np.log(floors).mean(axis=0))
    curves = (
        Curve("measured", RATES, measured, floors[:, 0]),
        Curve("predicted", RATES, predicted, drawn="line"),
    )
    chart = Chart("Consensus error on a ring", "eta", "consensus error", curves)
    return Outcome((finding,), chart)


EXPERIMENT = Experiment(
    key="E7",
    title="The consensus error grows as eta^2",
    setting=f"{setting.WORDS}; ring, batches by Poisson sampling at {SAMPLE_RATE}, eta in {RATES}, "
    f"{ROUNDS} rounds x {CHAINS} chains",
    source="arXiv:2605.20696, Theorem 6.1",
    run=run,
)
