"""E5: bounded delays widen the floor linearly in the bound."""

from __future__ import annotations

import numpy as np

from experiments import setting
from experiments.findings import Chart, Curve, Effort, Experiment, Finding, Outcome
from experiments.fitting import log_slope, over_seeds, ratio_over_seeds
from experiments.objective import Objective
from experiments.predict import Linearised
from experiments.simulate import FederatedRun, federated_iterates, settled_mean, uniform_cohorts

RATE = 0.1
RATES = (0.05, 0.1, 0.2)
DELAYS = (2, 5, 10)
DELAY_FOR_RATES = 10
COHORT = 2
ROUNDS = 4000
CHAINS = 24


def settled_floor(objective: Objective, start: np.ndarray, settings: FederatedRun) -> float:
    """Mean |grad L|^2; runs with other delays share their cohorts."""
    cohorts = uniform_cohorts(objective, COHORT, settings.chains, 0)
    points = federated_iterates(objective, settings, setting.noise(0), start=start, cohorts=cohorts)
    return settled_mean(points, objective.stationarity, burn_in=settings.rounds // 10, every=4)


def run(effort: Effort) -> Outcome:
    """Measure what delays add to the floor; fit it over the bound and over eta."""
    by_delay, by_rate, ratios, points = [], [], [], []
    for seed in range(effort.seeds):
        objective = setting.objective(seed)
        linear = Linearised.of(objective)
        excess, predicted = _excess(objective, linear, effort, RATE, DELAYS)
        other = [
            _excess(objective, linear, effort, rate, (DELAY_FOR_RATES,))[0][0]
            for rate in RATES
            if rate != RATE
        ]
        over_rates = [other[0], excess[DELAYS.index(DELAY_FOR_RATES)], other[1]]
        by_delay.append(log_slope(DELAYS, np.maximum(excess, 1e-12)))
        by_rate.append(log_slope(RATES, np.maximum(over_rates, 1e-12)))
        ratios.append(excess[-1] / predicted[-1])
        points.append([excess, predicted])
    findings = (
        Finding(
            "Staleness adds to the floor linearly in the delay bound q",
            "1",
            "slope of the excess over q",
            over_seeds(by_delay),
            (0.8, 1.2),
        ),
        Finding(
            "... and as eta^2", "2", "slope of the excess over eta", over_seeds(by_rate), (1.7, 2.3)
        ),
        Finding(
            "... with its constant",
            "1",
            "measured / predicted, q = 10",
            ratio_over_seeds(ratios),
            (0.8, 1.25),
        ),
    )
    return Outcome(findings, _chart(np.array(points)))


def _excess(
    objective: Objective,
    linear: Linearised,
    effort: Effort,
    rate: float,
    delays: tuple[int, ...],
) -> tuple[list[float], list[float]]:
    """What each delay adds to the floor, measured and predicted."""
    runs = [
        FederatedRun(rate=rate, rounds=effort.rounds(ROUNDS), delay=q, chains=CHAINS)
        for q in (0, *delays)
    ]
    prompt, *late = (settled_floor(objective, linear.optimum, one) for one in runs)
    predicted = [linear.floors(one, COHORT).staleness for one in runs[1:]]
    return [floor - prompt for floor in late], predicted


def _chart(points: np.ndarray) -> Chart:
    measured, predicted = points.mean(axis=0)
    curves = (
        Curve("measured", DELAYS, measured, points[:, 0]),
        Curve("predicted", DELAYS, predicted, drawn="line"),
    )
    return Chart("What delays add to the floor", "delay bound q, rounds", "|grad L|^2", curves)


EXPERIMENT = Experiment(
    key="E5",
    title="Bounded staleness costs linearly in the bound",
    setting=f"{setting.WORDS}; S = {COHORT}, K = 1, eta = {RATE}, delays uniform in 0..q, "
    f"q in {DELAYS}, {ROUNDS} rounds x {CHAINS} chains",
    source="arXiv:2605.20696, staleness experiment; its code ignores the value of q",
    run=run,
)
