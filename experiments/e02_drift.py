"""E2: client drift leaves a floor of eta^2 (K-1)^2, with its constant."""

from __future__ import annotations

import numpy as np

from experiments import setting
from experiments.findings import Chart, Curve, Effort, Experiment, Finding, Outcome
from experiments.fitting import log_slope, over_seeds, ratio_over_seeds
from experiments.objective import Objective
from experiments.predict import Linearised
from experiments.simulate import FederatedRun, federated_iterates

RATES = (0.25, 0.125, 0.0625)
LOCAL_STEPS = (2, 3, 5, 9)
LOCAL_TIME = 300.0
"""Rounds times eta times K: long enough that only the floor is left."""


def drift_floor(objective: Objective, rate: float, local_steps: int, share: float = 1.0) -> float:
    """|grad L|^2 where full-batch training with everybody comes to rest."""
    rounds = max(20, round(share * LOCAL_TIME / (rate * local_steps)))
    settings = FederatedRun(rate=rate, rounds=rounds, local_steps=local_steps)
    start = np.zeros(objective.dimension)
    last = start[:, None]
    for point in federated_iterates(objective, settings, setting.noise(0), start=start):
        last = point
    return float(objective.stationarity(last)[0])


def run(effort: Effort) -> Outcome:
    """Measure the floor over K and eta, fit both exponents, compare with the constant."""
    by_steps, by_rate, by_square, ratios, still = [], [], [], [], []
    curves = []
    for seed in range(effort.seeds):
        objective = setting.objective(seed)
        linear = Linearised.of(objective)
        floors = np.array(
            [[drift_floor(objective, e, k, effort.share) for k in LOCAL_STEPS] for e in RATES]
        )
        predicted = np.array([[linear.drift_floor(e, k) for k in LOCAL_STEPS] for e in RATES])
        by_steps.append(log_slope([k - 1 for k in LOCAL_STEPS], floors[-1]))
        by_square.append(log_slope(LOCAL_STEPS, floors[-1]))
        by_rate.append(log_slope(RATES, floors[:, 0]))
        ratios.append(floors[-1, 0] / predicted[-1, 0])
        still.append(drift_floor(objective, RATES[-1], 1, effort.share) / floors[-1, 0])
        curves.append(np.stack([floors, predicted]))
    findings = (
        Finding("Drift floor ~ (K-1)^2", "2", "slope over K-1", over_seeds(by_steps), (1.85, 2.15)),
        Finding("Drift floor ~ eta^2", "2", "slope over eta", over_seeds(by_rate), (1.85, 2.15)),
        Finding(
            "Drift floor = eta^2 (K-1)^2/4 |mean H_i g_i|^2 (derived here)",
            "1",
            "measured / predicted",
            ratio_over_seeds(ratios),
            (0.8, 1.25),
        ),
        Finding(
            "No drift at K = 1", "0", "floor at K = 1 over K = 2", over_seeds(still), (-1e-6, 1e-6)
        ),
        Finding(
            "Drift floor ~ K^2 (the code's figure title)",
            "2",
            "slope over K",
            over_seeds(by_square),
            (1.85, 2.15),
            known_false=True,
        ),
    )
    return Outcome(findings, _chart(np.array(curves)))


def _chart(floors: np.ndarray) -> Chart:
    """Floors of shape [seeds, measured or predicted, rates, steps]."""
    x = [k - 1 for k in LOCAL_STEPS]
    mean = np.exp(np.log(floors).mean(axis=0))
    curves = [
        curve
        for place, rate in enumerate(RATES)
        for curve in (
            Curve(f"eta = {rate:g}", x, mean[0, place], floors[:, 0, place]),
            Curve(f"predicted, eta = {rate:g}", x, mean[1, place], drawn="line"),
        )
    ]
    return Chart("Drift floor", "K - 1", "|grad L|^2", curves)


EXPERIMENT = Experiment(
    key="E2",
    title="Client drift leaves a floor of eta^2 (K-1)^2",
    setting=f"{setting.WORDS}; everybody, full batches, K in {LOCAL_STEPS}, eta in {RATES}",
    source="arXiv:2605.20696, local-steps experiment; constant derived in experiments/predict.py",
    run=run,
)
