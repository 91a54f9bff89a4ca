"""The floor of a run by source, where the truth is known: on log-linear clients."""

from dataclasses import replace

import numpy as np
import pytest

from experiments import setting
from experiments.graphs import mixing_matrices
from experiments.objective import Objective
from experiments.predict import Linearised, participation_factor
from experiments.simulate import (
    FederatedRun,
    GossipRun,
    federated_iterates,
    settled_mean,
    uniform_cohorts,
)
from privfed_dpo.engine.curvature import Curvature, spectral_measure
from privfed_dpo.engine.floor import FloorEstimator, mean_of_last
from privfed_dpo.engine.floor_inputs import NoiseLevels, noise_levels, round_law, unpredictable
from privfed_dpo.engine.floor_law import RoundLaw
from tests.support.fake_federation import fake_plan

RATE, STEPS, COHORT = 0.05, 4, 4
RUN = FederatedRun(
    rate=RATE, rounds=1200, local_steps=STEPS, sample_rate=0.2, local_noise=0.4, chains=16
)


class LogLinearSlopes:
    """All pairs of the log-linear clients as held-out pairs; both halves are the whole."""

    def __init__(self, objective):
        self.objective = objective
        self.groups = objective.clients
        self.pairs = objective.features.shape[0] * objective.features.shape[1]

    def mean(self, weights):
        return self.objective.mean_gradient(weights[:, None])[:, 0]

    def rows(self, weights):
        yield from self.objective.pair_gradients(weights)

    def half(self, weights, group, half):
        del half
        own = slice(group, group + 1)
        objective = self.objective
        alone = Objective(objective.features[own], objective.choices[own], objective.beta)
        return alone.mean_gradient(weights[:, None])[:, 0]


def law(run=RUN, *, rounds=4000, late=0):
    return RoundLaw(
        local_rate=run.rate,
        local_steps=run.local_steps,
        proximal=run.proximal,
        server_rate=1.0,
        momentum=0.0,
        rounds=rounds,
        max_staleness=late,
    )


def levels(objective, run=RUN, cohort=COHORT, **changes):
    clients, pairs, _ = objective.features.shape
    return NoiseLevels(
        sampling=(1 / run.sample_rate - 1) / (pairs * cohort),
        privacy=run.local_noise**2 / cohort,
        participation=participation_factor(clients, cohort),
        clients=cohort,
        **changes,
    )


def predicted(objective, law, noise, *, start=None):
    """By source, from so many probes that their randomness hardly shows."""
    optimum = objective.optimum()
    floor = FloorEstimator(
        LogLinearSlopes(objective),
        law=law,
        noise=noise,
        start=optimum if start is None else start,
        end=optimum,
        steps=6,
        seed=0,
        probes=400,
    ).floor(None, None, None)
    return {source.name: source.predicted for source in (*floor.sources, *floor.distances)}


def test_lanczos_gives_every_power_of_the_matrix():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(12, 12))
    matrix = matrix + matrix.T
    vector = rng.normal(size=12)
    measure = spectral_measure(lambda v: matrix @ v, vector, 5)
    for power in range(10):
        exact = vector @ np.linalg.matrix_power(matrix, power) @ vector
        assert measure.integral(lambda h, p=power: h**p) == pytest.approx(exact, rel=1e-8)
    whole = spectral_measure(lambda v: matrix @ v, vector, 40)
    values, vectors = np.linalg.eigh(matrix)
    exact = (vectors.T @ vector) ** 2 @ np.exp(values)
    assert whole.integral(np.exp) == pytest.approx(exact, rel=1e-8)
    assert spectral_measure(lambda v: matrix @ v, np.zeros(12), 3).integral(np.cos) == 0.0


def test_products_with_the_hessian_come_from_gradients_alone():
    objective = setting.objective(0)
    point = objective.optimum()
    vector = np.arange(6.0)
    product = Curvature(LogLinearSlopes(objective).mean, point).times(vector)
    exact = objective.hessians(point).mean(axis=0) @ vector
    assert product == pytest.approx(exact, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("late", [0, 8])
def test_every_source_agrees_with_the_known_laws(late):
    """Against the linearised dynamics with their exact Hessians, 4000 rounds from the optimum."""
    objective = setting.objective(0)
    exact = Linearised.of(objective).floors(replace(RUN, delay=late), COHORT)
    found = predicted(objective, law(late=late), levels(objective))
    assert found["gradient noise"] == pytest.approx(exact.gradient_noise, rel=0.12)
    assert found["privacy noise"] == pytest.approx(exact.privacy_noise, rel=0.2)
    assert found["participation"] == pytest.approx(exact.participation, rel=0.25)
    assert found["drift"] == pytest.approx(exact.drift, rel=0.02)
    if late:
        assert found["staleness"] == pytest.approx(exact.staleness, rel=0.3)
    else:
        assert found["staleness"] == 0.0
    assert found["optimisation"] < 1e-12
    assert found["consensus"] == 0.0


def test_the_prediction_agrees_with_what_a_run_measures():
    """Settled |grad L|^2 of simulated runs; the held-out pairs are the training pairs."""
    objective = setting.objective(1)
    cohorts = uniform_cohorts(objective, COHORT, RUN.chains, 1)
    points = federated_iterates(
        objective, RUN, setting.noise(1), start=objective.optimum(), cohorts=cohorts
    )
    measured = settled_mean(points, objective.stationarity, burn_in=200, every=3)
    found = predicted(objective, law(), levels(objective))
    ours = found["all together"] - found["held-out pairs are a sample"]
    assert measured / ours == pytest.approx(1.0, abs=0.25)
    half_the_noise = replace(levels(objective), privacy=0.04 / COHORT)
    wrong = predicted(objective, law(), half_the_noise)
    assert measured / (wrong["all together"] - wrong["held-out pairs are a sample"]) > 1.4


def test_what_is_left_of_the_way_is_predicted_from_the_first_gradient():
    objective = setting.objective(0)
    linear = Linearised.of(objective)
    run = replace(RUN, rounds=30, local_steps=1, local_noise=0.0, sample_rate=1.0)
    start = 0.9 * linear.optimum
    left = linear.mean_hessian @ linear.distance_left(run, start)
    found = predicted(objective, law(run, rounds=30), levels(objective, run), start=start)
    assert found["optimisation"] == pytest.approx(float(left @ left), rel=0.15)


def test_drift_with_fedprox_is_predicted_and_control_variates_end_drift_and_participation():
    objective = setting.objective(0)
    for pull in (0.0, 16.0):
        run = FederatedRun(rate=RATE, rounds=3000, local_steps=STEPS, proximal=pull)
        last = objective.optimum()[:, None]
        start = objective.optimum()
        for point in federated_iterates(objective, run, setting.noise(0), start=start):
            last = point
        found = predicted(objective, law(run), levels(objective, run))["drift"]
        assert found == pytest.approx(float(objective.stationarity(last)[0]), rel=0.1)
    controlled = replace(levels(objective), corrected=True, participation=0.0)
    found = predicted(objective, law(), controlled)
    assert (found["drift"], found["participation"]) == (0.0, 0.0)


def test_disagreement_of_nodes_agrees_with_the_known_law():
    objective = setting.objective(0)
    linear = Linearised.of(objective)
    ring = mixing_matrices(objective.clients)["ring"]
    run = GossipRun(rate=RATE, rounds=1, sample_rate=0.2, local_noise=0.4)
    noise_part, bias_part = linear.consensus(run, ring)
    in_gradients = sum(linear.consensus(run, ring, in_gradients=True))
    clients = objective.clients
    noise = replace(
        levels(objective, RUN, clients),
        eigenvalues=tuple(np.linalg.eigvalsh(ring)[::-1][1:]),
    )
    found = predicted(objective, law(replace(RUN, local_steps=1)), noise)
    assert found["consensus"] == pytest.approx(in_gradients, rel=0.3)
    assert found["nodes from their mean, before mixing"] == pytest.approx(
        noise_part + bias_part, rel=0.3
    )


def test_settings_come_from_the_plan():
    """Eight clients of ten pairs; local: noise z C / (q n) at each, over S in the mean."""
    plan = fake_plan(
        "privacy.mode=local",
        "privacy.dropout_tolerance=0",
        "privacy.colluders=0",
        "federation.cohort=4",
        "federation.local_steps=3",
        "federation.server_optimizer=sgd",
        "federation.learning_rate=0.5",
        "federation.momentum=0.25",
        "federation.local_learning_rate=0.1",
    )
    noise = noise_levels(plan, survivors=4.0)
    own = plan.noise.share_stddev_steps / plan.gradient_steps_per_unit() / 5.0
    assert noise.privacy == pytest.approx(own**2 / 4)
    assert own == pytest.approx(0.2, rel=1e-3), "z C / (q n) = 1 / (0.5 * 10)"
    assert noise.sampling == pytest.approx((1 / 0.5 - 1) / (10 * 4))
    assert noise.participation == pytest.approx(4 / (4 * 7))
    found = round_law(plan, 9)
    assert (found.local_rate, found.local_steps, found.rounds) == (0.1, 3, 9)
    assert (found.server_rate, found.momentum) == (0.5, 0.25)
    assert unpredictable(plan) is None
    adaptive = fake_plan()
    assert "adaptive" in unpredictable(adaptive)
    shared = noise_levels(adaptive, survivors=8.0)
    total = adaptive.noise.share_stddev_steps / adaptive.gradient_steps_per_unit()
    assert shared.privacy == pytest.approx(8 * (total / 40) ** 2)


def test_momentum_widens_the_floor_as_theory_says():
    """Settled variance of heavy ball: lambda (1+b) / (h (1-b) (2 (1+b) - lambda h))."""
    curvature, rate, momentum = np.array([0.5, 2.0]), 0.1, 0.8
    law = RoundLaw(1.0, 1, 0.0, rate, momentum, rounds=5000)
    exact = (
        rate
        * (1 + momentum)
        / (curvature * (1 - momentum) * (2 * (1 + momentum) - rate * curvature))
    )
    assert law.noise_left(curvature) == pytest.approx(exact, rel=1e-6)


def test_the_last_fifth_is_averaged():
    assert mean_of_last([None, *range(10)]) == 8.5
    assert mean_of_last([3.0, None]) == 3.0
    assert mean_of_last([None]) is None
