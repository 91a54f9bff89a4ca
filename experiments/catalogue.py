"""All experiments, in the order of the table."""

from __future__ import annotations

from experiments import (
    decomposition,
    e01_centralised,
    e02_drift,
    e03_heterogeneity,
    e04_participation,
    e05_staleness,
    e06_topology,
    e07_step_size,
    e08_speedup,
    e09_local_steps,
    e10_privacy_noise,
    e11_language_model,
)
from experiments.findings import Effort, Experiment, Outcome

EXPERIMENTS: tuple[Experiment, ...] = tuple(
    module.EXPERIMENT
    for module in (
        e01_centralised,
        e02_drift,
        e03_heterogeneity,
        e04_participation,
        e05_staleness,
        e06_topology,
        e07_step_size,
        e08_speedup,
        e09_local_steps,
        e10_privacy_noise,
        e11_language_model,
        decomposition,
    )
)


def outcome_of(key: str, effort: Effort) -> Outcome:
    """Run one experiment, by its key; a process of its own can do it."""
    return next(e for e in EXPERIMENTS if e.key == key).run(effort)
