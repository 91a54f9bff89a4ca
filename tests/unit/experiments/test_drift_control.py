"""Drift control in the real engine: the iterates of the simulator, and the floor that it lowers."""

import numpy as np
import pytest

from experiments import setting
from experiments.real_engine import engine_cohorts, engine_iterates, engine_plan
from experiments.simulate import FederatedRun, federated_iterates
from tests.support.entropy import counted_entropy

ROUNDS, RATE, STEPS = 6, 0.5, 5


def overrides(**federation):
    fixed = {"rounds": ROUNDS, "local_learning_rate": RATE, "local_steps": STEPS}
    return [f"federation.{name}={value}" for name, value in {**fixed, **federation}.items()]


def simulated(objective, run, cohorts=None):
    steps = federated_iterates(
        objective, run, setting.noise(0), start=np.zeros(objective.dimension), cohorts=cohorts
    )
    return np.array([point[:, 0] for point in steps])


def agree(real, ours):
    return np.abs(real - ours).max() < 4 * np.finfo(np.float32).eps * np.abs(ours).max()


def floor(objective, **settings):
    run = FederatedRun(rate=RATE, rounds=1500, local_steps=STEPS, **settings)
    return float(objective.stationarity(simulated(objective, run)[-1][:, None])[0])


@pytest.mark.parametrize("proximal", [0.0, 0.4])
def test_engine_and_simulator_pull_back_alike(tmp_path, proximal):
    objective = setting.objective(1)
    plan = engine_plan(objective, *overrides(cohort=4, proximal=proximal))
    real = engine_iterates(objective, plan, tmp_path / "ledger", counted_entropy("prox"))
    run = FederatedRun(rate=RATE, rounds=ROUNDS, local_steps=STEPS, proximal=proximal)
    assert agree(real, simulated(objective, run, engine_cohorts(plan)))
    other = FederatedRun(rate=RATE, rounds=ROUNDS, local_steps=STEPS, proximal=0.4 - proximal)
    assert np.abs(real - simulated(objective, other, engine_cohorts(plan))).max() > 1e-3


def test_the_drift_floor_falls_as_the_pull_grows():
    objective = setting.objective(0)
    floors = [floor(objective, proximal=mu) for mu in (0.0, 0.2, 0.6, 1.8)]
    assert floors == sorted(floors, reverse=True)
    assert floors[-1] < 0.3 * floors[0]
