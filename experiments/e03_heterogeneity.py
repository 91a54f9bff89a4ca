"""E3: the drift floor grows with heterogeneity and vanishes where all Hessians are equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experiments import setting
from experiments.e02_drift import drift_floor
from experiments.findings import Chart, Curve, Effort, Experiment, Finding, Outcome
from experiments.fitting import log_slope, over_seeds, ratio_over_seeds
from experiments.objective import Objective
from experiments.population import Dials, draw_population
from experiments.predict import Linearised

RATE = 0.05
LOCAL_STEPS = 4
SHIFTS = (0.1, 0.2, 0.4, 0.8)
OPPOSED = Dials(opposed_share=0.25, covariate_shift=0.3)


def many_judges(seed: int, dials: Dials, *, shared_features: bool = False) -> Objective:
    """A population judged by infinitely many, so that equal tastes are equal losses' optima."""
    rng = np.random.default_rng([seed, 0x0E03])
    return Objective.of(
        draw_population(
            rng,
            users=setting.CLIENTS,
            pairs=setting.PAIRS,
            dimension=setting.DIMENSION,
            dials=dials,
            shared_features=shared_features,
            many_annotators=True,
        )
    )


def run(effort: Effort) -> Outcome:
    """Turn the dial of the optimum shift; then make all Hessians equal."""
    slopes, ratios, none, opposed, equal, exact = [], [], [], [], [], []
    points = []
    for seed in range(effort.seeds):
        objectives = [many_judges(seed, replace(setting.DIALS, optimum_shift=h)) for h in SHIFTS]
        linear = [Linearised.of(o) for o in objectives]
        floors = [_floor(o, effort) for o in objectives]
        predicted = [point.drift_floor(RATE, LOCAL_STEPS) for point in linear]
        slopes.append(log_slope([point.heterogeneity for point in linear], floors))
        ratios.append(np.exp(np.mean(np.log(np.array(floors) / predicted))))
        none.append(_floor(many_judges(seed, Dials(covariate_shift=0.3)), effort) / floors[-1])
        groups = many_judges(seed, OPPOSED)
        opposed.append(
            _floor(groups, effort) / Linearised.of(groups).drift_floor(RATE, LOCAL_STEPS)
        )
        same = many_judges(
            seed, replace(setting.DIALS, optimum_shift=SHIFTS[-1]), shared_features=True
        )
        equal.append(_floor(same, effort) / floors[-1])
        exact.append(_floor(replace(same, loss="ipo", beta=1.0), effort) / floors[-1])
        points.append([[point.heterogeneity for point in linear], floors, predicted])
    findings = (
        Finding("Drift floor ~ zeta^2", "1", "slope over zeta^2", over_seeds(slopes), (0.8, 1.2)),
        Finding(
            "... with the constant of E2, at every shift of the optimum",
            "1",
            "measured / predicted",
            ratio_over_seeds(ratios),
            (0.8, 1.25),
        ),
        Finding(
            "... and for opposed groups (a quarter wants the opposite)",
            "1",
            "measured / predicted",
            ratio_over_seeds(opposed),
            (0.8, 1.25),
        ),
        Finding(
            "No floor where tastes are equal, though users ask about different things",
            "0",
            "floor over that at the largest shift",
            over_seeds(none),
            (-1e-6, 1e-6),
        ),
        Finding(
            "No floor to leading order for equal Hessians (all judge the same pairs)",
            "0",
            "floor over that at the largest shift",
            over_seeds(equal),
            (-0.03, 0.03),
        ),
        Finding(
            "... exactly none where they are constant too (IPO loss)",
            "0",
            "floor over that at the largest shift",
            over_seeds(exact),
            (-1e-6, 1e-6),
        ),
    )
    return Outcome(findings, _chart(np.array(points)))


def _floor(objective: Objective, effort: Effort) -> float:
    return drift_floor(objective, RATE, LOCAL_STEPS, effort.share)


def _chart(points: np.ndarray) -> Chart:
    """Points of shape [seeds, (zeta^2, measured, predicted), shifts]."""
    x, measured, predicted = np.exp(np.log(points).mean(axis=0))
    curves = (
        Curve("measured", x, measured, points[:, 1]),
        Curve("predicted", x, predicted, drawn="line"),
    )
    return Chart("Drift floor and heterogeneity", "zeta^2 at the optimum", "|grad L|^2", curves)


EXPERIMENT = Experiment(
    key="E3",
    title="The drift floor grows with heterogeneity and vanishes for equal Hessians",
    setting=f"{setting.WORDS}, judged by infinitely many; K = {LOCAL_STEPS}, eta = {RATE}, "
    f"optimum shift in {SHIFTS}",
    source="arXiv:2605.20696, claim on preference heterogeneity; its code never varies it",
    run=run,
)
