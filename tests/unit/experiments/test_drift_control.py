"""Drift control in the real engine: the iterates of the simulator, and the floor that it lowers."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from experiments import setting
from experiments.real_engine import (
    engine_cohorts,
    engine_delays,
    engine_iterates,
    engine_plan,
)
from experiments.simulate import FederatedRun, federated_iterates
from privfed_dpo.engine.drift_plan import DriftPlan
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


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(("cohort", "steps"), [(8, STEPS), (4, STEPS), (4, 1)])
def test_engine_and_simulator_correct_local_steps_alike(tmp_path, secure, cohort, steps):
    objective = setting.objective(1)
    plan = engine_plan(
        objective,
        f"secure_agg.enabled={str(secure).lower()}",
        *overrides(cohort=cohort, local_steps=steps, drift_control="scaffold"),
    )
    assert plan.vector_length == 2 * objective.dimension + 1
    real = engine_iterates(objective, plan, tmp_path / "ledger", counted_entropy("scaffold"))
    run = FederatedRun(rate=RATE, rounds=ROUNDS, local_steps=steps, scaffold=True)
    assert agree(real, simulated(objective, run, engine_cohorts(plan)))
    without = simulated(objective, replace(run, scaffold=False), engine_cohorts(plan))
    assert np.abs(real - without).max() > 1e-4


def test_control_variates_remove_the_drift_floor_and_zero_ones_do_not():
    objective = setting.objective(0)
    drifting = floor(objective)
    assert floor(objective, scaffold=True) < 1e-12 * drifting
    assert drifting > 1e-8


@pytest.mark.parametrize("cohort", [4, 8])
def test_engine_and_simulator_are_late_alike(tmp_path, cohort):
    """Each client sets out from the adapter that the public delays say, in both."""
    objective = setting.objective(1)
    plan = engine_plan(objective, *overrides(cohort=cohort, max_staleness=3, rounds=9))
    real = engine_iterates(objective, plan, tmp_path / "ledger", counted_entropy("late"))
    run = FederatedRun(rate=RATE, rounds=9, local_steps=STEPS, delay=3)
    cohorts = engine_cohorts(plan)
    start = np.zeros(objective.dimension)
    points = federated_iterates(
        objective, run, setting.noise(0), start=start, cohorts=cohorts, delays=engine_delays(plan)
    )
    ours = np.array([point[:, 0] for point in points])
    assert agree(real, ours)
    prompt = simulated(objective, replace(run, delay=0), engine_cohorts(plan))
    assert np.abs(real - prompt).max() > 1e-3


def test_delays_are_uniform_public_and_bounded():
    drift = DriftPlan(max_staleness=3, delay_seed=5)
    drawn = np.array([[drift.delay(t, c) for c in range(20)] for t in range(1, 101)])
    assert stats.chisquare(np.bincount(drawn.ravel(), minlength=4)).pvalue > 1e-4
    assert drawn.max() == 3
    assert drift.delay(7, 3) == DriftPlan(max_staleness=3, delay_seed=5).delay(7, 3)
    assert DriftPlan().delay(7, 3) == 0
