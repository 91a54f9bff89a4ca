"""E4: cohorts of S of N leave a floor of (N-S)/(S(N-1)), which is not 1/S."""

from __future__ import annotations

import numpy as np

from experiments import setting
from experiments.findings import Chart, Curve, Effort, Experiment, Finding, Outcome
from experiments.fitting import log_slope, over_seeds, ratio_over_seeds
from experiments.objective import Objective
from experiments.predict import Linearised, participation_factor
from experiments.simulate import (
    Cohorts,
    FederatedRun,
    balanced_cohorts,
    federated_iterates,
    settled_mean,
    uniform_cohorts,
)

RATE = 0.1
COHORTS = (1, 2, 4, 6)
ROUNDS = 3000
CHAINS = 16
BURN_IN_SHARE = 0.1


def settled_floor(objective: Objective, start: np.ndarray, cohorts: Cohorts, rounds: int) -> float:
    """Mean |grad L|^2 of a full-batch run with K = 1, begun at the optimum."""
    settings = FederatedRun(rate=RATE, rounds=rounds, chains=CHAINS)
    points = federated_iterates(objective, settings, setting.noise(0), start=start, cohorts=cohorts)
    burn_in = round(BURN_IN_SHARE * rounds)
    return settled_mean(points, objective.stationarity, burn_in=burn_in, every=3)


def run(effort: Effort) -> Outcome:
    """Measure the floor over S, fit both candidate laws, compare with the constant."""
    rounds = effort.rounds(ROUNDS)
    factors = [participation_factor(setting.CLIENTS, size) for size in COHORTS]
    slopes, by_inverse, ratios, full, balanced, points = [], [], [], [], [], []
    for seed in range(effort.seeds):
        objective = setting.objective(seed)
        linear = Linearised.of(objective)
        start = linear.optimum
        settings = FederatedRun(rate=RATE, rounds=rounds)
        floors = [
            settled_floor(objective, start, uniform_cohorts(objective, s, CHAINS, seed), rounds)
            for s in COHORTS
        ]
        predicted = [linear.floors(settings, size).total for size in COHORTS]
        slopes.append(log_slope(factors, floors))
        by_inverse.append(log_slope([1.0 / size for size in COHORTS], floors))
        ratios.append(np.exp(np.mean(np.log(np.array(floors) / predicted))))
        everybody = uniform_cohorts(objective, setting.CLIENTS, CHAINS, seed)
        full.append(settled_floor(objective, start, everybody, rounds) / floors[-1])
        turns = balanced_cohorts(objective, 2, CHAINS, seed)
        balanced.append(settled_floor(objective, start, turns, rounds) / floors[1])
        points.append([floors, predicted])
    findings = (
        Finding(
            "Participation floor ~ (N-S)/(S(N-1))",
            "1",
            "slope over the factor",
            over_seeds(slopes),
            (0.93, 1.07),
        ),
        Finding(
            "... with its constant, linearised at the optimum",
            "1",
            "measured / predicted",
            ratio_over_seeds(ratios),
            (0.85, 1.2),
        ),
        Finding(
            "... and none at S = N",
            "0",
            "floor at S = N over S = 6",
            over_seeds(full),
            (-0.01, 0.01),
        ),
        Finding(
            "Participation floor ~ 1/S (the code's README)",
            "1",
            "slope over 1/S",
            over_seeds(by_inverse),
            (0.93, 1.07),
            known_false=True,
        ),
        Finding(
            "Inviting those with the fewest invitations (this engine) lowers the floor",
            "below 1",
            "floor over uniform cohorts, S = 2",
            ratio_over_seeds(balanced),
            (0.0, 0.9),
        ),
    )
    return Outcome(findings, _chart(factors, np.array(points)))


def _chart(factors: list[float], points: np.ndarray) -> Chart:
    measured, predicted = np.exp(np.log(points).mean(axis=0))
    curves = (
        Curve("measured", factors, measured, points[:, 0]),
        Curve("predicted", factors, predicted, drawn="line"),
    )
    return Chart("Participation floor", "(N-S)/(S(N-1))", "|grad L|^2", curves)


EXPERIMENT = Experiment(
    key="E4",
    title="Partial participation leaves a floor of (N-S)/(S(N-1))",
    setting=f"{setting.WORDS}; K = 1, eta = {RATE}, full batches, S in {COHORTS}, "
    f"{ROUNDS} rounds x {CHAINS} chains",
    source="arXiv:2605.20696, participation experiment",
    run=run,
)
