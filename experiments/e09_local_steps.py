"""E9: with rounds that cost time, the best number of local steps shrinks as tastes differ more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experiments import setting
from experiments.e03_heterogeneity import many_judges
from experiments.findings import Chart, Curve, Effort, Experiment, Finding, Outcome
from experiments.fitting import log_slope, over_seeds, ratio_over_seeds
from experiments.objective import Objective
from experiments.predict import Linearised
from experiments.simulate import FederatedRun, federated_iterates

RATE = 0.1
SHIFTS = (0.125, 0.25, 0.5, 1.0)
LOCAL_STEPS = (1, 2, 4, 8, 16, 32, 64)
ROUND_COST = 10
"""What one exchange with the server costs, in local steps."""

TIME = 1500
"""Local steps and exchanges together."""


def run(effort: Effort) -> Outcome:
    """For every shift find the K that ends lowest in the same time, R (K + cost) = const."""
    slopes, shares, fixed, ends = [], [], [], []
    for seed in range(effort.seeds):
        objectives = [many_judges(seed, replace(setting.DIALS, optimum_shift=h)) for h in SHIFTS]
        linear = [Linearised.of(o) for o in objectives]
        measured = np.array([[_end(o, _in_time(k)) for k in LOCAL_STEPS] for o in objectives])
        predicted = np.array(
            [[_predicted_end(o, _in_time(k)) for k in LOCAL_STEPS] for o in linear]
        )
        best = [best_steps(row) for row in measured]
        slopes.append(log_slope([np.sqrt(o.heterogeneity) for o in linear], best))
        theory = [best_steps(row) for row in predicted]
        shares.append(np.exp(np.mean(np.log(np.array(best) / theory))))
        free = [_end(objectives[-1], _free_rounds(k)) for k in LOCAL_STEPS]
        fixed.append(LOCAL_STEPS[int(np.argmin(free))])
        ends.append(measured)
    findings = (
        Finding(
            "The best K shrinks as heterogeneity grows (an exchange costs 10 local steps)",
            "below 0",
            "slope of the best K over zeta",
            over_seeds(slopes),
            (-np.inf, -0.2),
        ),
        Finding(
            "... and is the one that the linearised dynamics predict",
            "1",
            "measured / predicted",
            ratio_over_seeds(shares),
            (0.7, 1.4),
        ),
        Finding(
            "Were exchanges free, K = 1 would be best (largest shift)",
            "1",
            "best K at equal K R",
            over_seeds(fixed),
            (1.0, 1.0),
        ),
    )
    return Outcome(findings, _chart(np.array(ends)))


def best_steps(ends: np.ndarray) -> float:
    """Vertex of the parabola through the lowest of `ends` and its neighbours, in logarithms."""
    place = int(np.argmin(ends))
    if place in (0, len(LOCAL_STEPS) - 1):
        return float(LOCAL_STEPS[place])
    left, middle, right = np.log(ends[place - 1 : place + 2])
    offset = 0.5 * (left - right) / (left - 2.0 * middle + right)
    return float(LOCAL_STEPS[place] * 2.0**offset)


def _in_time(local_steps: int) -> FederatedRun:
    return FederatedRun(
        rate=RATE, rounds=TIME // (local_steps + ROUND_COST), local_steps=local_steps
    )


def _free_rounds(local_steps: int) -> FederatedRun:
    return FederatedRun(rate=RATE, rounds=TIME // local_steps, local_steps=local_steps)


def _end(objective: Objective, settings: FederatedRun) -> float:
    start = np.zeros(objective.dimension)
    last = start[:, None]
    for point in federated_iterates(objective, settings, setting.noise(0), start=start):
        last = point
    return float(objective.stationarity(last)[0])


def _predicted_end(linear: Linearised, settings: FederatedRun) -> float:
    left = linear.mean_hessian @ linear.distance_left(settings, np.zeros(setting.DIMENSION))
    return float(left @ left)


def _chart(ends: np.ndarray) -> Chart:
    curves = [
        Curve(
            f"shift {shift:g}",
            LOCAL_STEPS,
            np.exp(np.log(ends[:, place]).mean(axis=0)),
            ends[:, place],
        )
        for place, shift in enumerate(SHIFTS)
    ]
    return Chart("After the same time", "local steps K", "|grad L|^2 at the end", curves)


EXPERIMENT = Experiment(
    key="E9",
    title="The best number of local steps shrinks as heterogeneity grows",
    setting=f"{setting.WORDS}, judged by infinitely many; eta = {RATE}, R (K + {ROUND_COST}) = "
    f"{TIME}, K in {LOCAL_STEPS}, optimum shift in {SHIFTS}",
    source="arXiv:2605.20696, claim on communication frequency",
    run=run,
)
