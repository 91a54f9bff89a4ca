"""The population that the experiments share, unless an experiment says otherwise."""

from __future__ import annotations

import numpy as np

from experiments.objective import Objective
from experiments.population import Dials, Population, draw_population

CLIENTS = 8
PAIRS = 60
DIMENSION = 6
DIALS = Dials(optimum_shift=1.0, covariate_shift=0.3)
WORDS = (
    f"N = {CLIENTS} clients, {PAIRS} pairs each, d = {DIMENSION}, optimum shift "
    f"{DIALS.optimum_shift:g}, covariate shift {DIALS.covariate_shift:g}, beta = 1"
)


def population(seed: int, *, clients: int = CLIENTS, dials: Dials = DIALS) -> Population:
    """The population of a seed."""
    rng = np.random.default_rng([seed, 0xD1A1])
    return draw_population(rng, users=clients, pairs=PAIRS, dimension=DIMENSION, dials=dials)


def objective(seed: int, *, clients: int = CLIENTS, dials: Dials = DIALS) -> Objective:
    """Its loss."""
    return Objective.of(population(seed, clients=clients, dials=dials))


def noise(seed: int) -> np.random.Generator:
    """The noise of a seed; runs that are compared share it."""
    return np.random.default_rng([seed, 0x015E])
