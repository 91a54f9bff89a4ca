"""E10: differential privacy is one more variance in the same laws: local, distributed, gossip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments import setting
from experiments.e06_topology import settled_consensus
from experiments.findings import Chart, Curve, Effort, Experiment, Finding, Outcome
from experiments.fitting import log_slope, over_seeds, ratio_over_seeds
from experiments.graphs import mixing_matrices
from experiments.objective import Objective
from experiments.predict import Linearised
from experiments.simulate import (
    FederatedRun,
    GossipRun,
    federated_iterates,
    settled_mean,
    uniform_cohorts,
)

RATE = 0.05
SAMPLE_RATE = 0.2
NOISE_MULTIPLIERS = (1.0, 2.0, 4.0)
ROUNDS = 2000
CHAINS = 12
COHORT = 4
MECHANISMS = ("local", "distributed", "gossip")


@dataclass(frozen=True, slots=True)
class _Case:
    """One population and how far its pairs' gradients can reach."""

    objective: Objective
    linear: Linearised
    clip: float
    rounds: int

    @classmethod
    def of(cls, seed: int, rounds: int) -> _Case:
        """Take the derived bound beta |z| as clip norm: clipping then never binds."""
        objective = setting.objective(seed)
        clip = objective.beta * float(np.linalg.norm(objective.features, axis=2).max())
        return cls(objective, Linearised.of(objective), clip, rounds)

    def noise(self, multiplier: float, *, contributors: int) -> float:
        """Standard deviation on the mean gradient of so many clients' expected batches."""
        pairs = SAMPLE_RATE * self.objective.features.shape[1] * contributors
        return float(multiplier * self.clip / pairs)

    def federated(self, multiplier: float, *, shared: bool, **changes: Any) -> FederatedRun:
        """A run with noise of each client in full, or with shares of one."""
        clients = self.objective.clients
        return replace(
            FederatedRun(
                rate=RATE,
                rounds=self.rounds,
                sample_rate=SAMPLE_RATE,
                local_noise=0.0 if shared else self.noise(multiplier, contributors=1),
                shared_noise=self.noise(multiplier, contributors=clients) if shared else 0.0,
                chains=CHAINS,
            ),
            **changes,
        )

    def floor(self, run: FederatedRun, cohort: int) -> float:
        """Settled |grad L|^2, begun at the optimum."""
        cohorts = uniform_cohorts(self.objective, cohort, CHAINS, 0)
        points = federated_iterates(
            self.objective, run, setting.noise(0), start=self.linear.optimum, cohorts=cohorts
        )
        burn_in = self.rounds // 5
        return settled_mean(points, self.objective.stationarity, burn_in=burn_in, every=4)

    def gossip(self, multiplier: float) -> tuple[float, float]:
        """Consensus error on a ring, measured and predicted."""
        ring = mixing_matrices(self.objective.clients)["ring"]
        run = GossipRun(
            rate=RATE,
            rounds=self.rounds,
            sample_rate=SAMPLE_RATE,
            local_noise=self.noise(multiplier, contributors=1),
            chains=CHAINS,
        )
        return settled_consensus(self.objective, ring, run), sum(self.linear.consensus(run, ring))

    def both(self, mechanism: str, multiplier: float) -> tuple[float, float]:
        """What settles under a mechanism, measured and predicted."""
        if mechanism == "gossip":
            return self.gossip(multiplier)
        run = self.federated(multiplier, shared=mechanism == "distributed")
        clients = self.objective.clients
        return self.floor(run, clients), self.linear.floors(run, clients).total


def run(effort: Effort) -> Outcome:
    """Measure each mechanism over the noise multiplier; then everything at once."""
    rounds = effort.rounds(ROUNDS)
    added, advantage, together = [], [], []
    for seed in range(effort.seeds):
        case = _Case.of(seed, rounds)
        without = np.array([case.both(m, 0.0) for m in MECHANISMS])
        figures = np.array([[case.both(m, z) for z in NOISE_MULTIPLIERS] for m in MECHANISMS])
        added.append(figures - without[:, None, :])
        advantage.append(added[-1][0, -1, 0] / added[-1][1, -1, 0])
        everything = case.federated(1.0, shared=False, local_steps=4)
        floor = case.floor(everything, COHORT)
        together.append(floor / case.linear.floors(everything, COHORT).total)
    values = np.array(added)
    findings = [row for place, m in enumerate(MECHANISMS) for row in _rows(m, values[:, place])]
    findings += [
        Finding(
            "At equal z, local noise costs N times what shared noise costs",
            str(setting.CLIENTS),
            "excess of local over distributed",
            ratio_over_seeds(advantage),
            (0.85 * setting.CLIENTS, 1.15 * setting.CLIENTS),
        ),
        Finding(
            "All variances add: drift, cohorts, batches and local noise in one run",
            "1",
            "measured / predicted",
            ratio_over_seeds(together),
            (0.85, 1.2),
        ),
    ]
    notes = (
        (
            "The clip norm is the derived bound beta max |z| of a pair's gradient, so clipping "
            "never binds; where it does, it adds a bias that none of these laws describes."
        ),
    )
    return Outcome(tuple(findings), _chart(values), notes)


def _rows(mechanism: str, values: np.ndarray) -> tuple[Finding, Finding]:
    """Rows for one mechanism; values of shape [seeds, multipliers, (measured, predicted)]."""
    what = "consensus error" if mechanism == "gossip" else "floor"
    measured, predicted = values[..., 0], values[..., 1]
    slopes = [log_slope(NOISE_MULTIPLIERS, np.maximum(row, 1e-12)) for row in measured]
    ratios = np.exp(np.log(np.maximum(measured, 1e-12) / predicted).mean(axis=1))
    return (
        Finding(
            f"Privacy noise adds to the {what} as z^2: {mechanism}",
            "2",
            "slope of the excess over z",
            over_seeds(slopes),
            (1.85, 2.15),
        ),
        Finding(
            f"... with its constant: {mechanism}",
            "1",
            "measured / predicted",
            ratio_over_seeds(ratios),
            (0.85, 1.2),
        ),
    )


def _chart(values: np.ndarray) -> Chart:
    mean = values.mean(axis=0)
    curves = [
        curve
        for place, mechanism in enumerate(MECHANISMS)
        for curve in (
            Curve(mechanism, NOISE_MULTIPLIERS, mean[place, :, 0], values[:, place, :, 0]),
            Curve(f"predicted, {mechanism}", NOISE_MULTIPLIERS, mean[place, :, 1], drawn="line"),
        )
    ]
    return Chart(
        "What privacy noise adds",
        "noise multiplier z",
        "|grad L|^2, or consensus error (gossip)",
        curves,
    )


EXPERIMENT = Experiment(
    key="E10",
    title="Privacy noise is one more variance term",
    setting=f"{setting.WORDS}; eta = {RATE}, batches by Poisson sampling at {SAMPLE_RATE}, "
    f"z in {NOISE_MULTIPLIERS}, {ROUNDS} rounds x {CHAINS} chains",
    source="no claim of the paper, which has no privacy; formula in experiments/predict.py",
    run=run,
)
