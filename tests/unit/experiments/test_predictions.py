"""Predicted floors against exact algebra and hand-derived cases."""

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from experiments import setting
from experiments.graphs import SIZES, metropolis_hastings, mixing_matrices, squared_gap
from experiments.objective import Objective
from experiments.predict import Linearised, participation_factor
from experiments.simulate import (
    FederatedRun,
    GossipRun,
    balanced_cohorts,
    consensus_error,
    federated_iterates,
    gossip_iterates,
    settled_mean,
    uniform_cohorts,
)


def quadratic():
    """Two clients in one dimension, IPO with beta = 1/2: losses (theta z - (2y-1))^2.

    Client 0 has z = 1, y = 1 and client 1 has z = 2, y = 0: gradients 2 (theta - 1) and
    4 (2 theta + 1), Hessians 2 and 8. The mean gradient 5 theta + 1 is zero at -1/5, where the
    clients' gradients are -12/5 and 12/5.
    """
    return Objective(np.array([[[1.0]], [[2.0]]]), np.array([[1.0], [0.0]]), beta=0.5, loss="ipo")


def test_by_hand():
    """mean H_i g_i = (2 (-12/5) + 8 (12/5)) / 2 = 36/5, so the floor at eta, K is eta^2 (K-1)^2/4
    times (36/5)^2 = 51.84: at 1/100 and K = 3 it is 0.005184."""
    linear = Linearised.of(quadratic())
    assert linear.optimum == pytest.approx([-0.2])
    assert linear.gradients.ravel() == pytest.approx([-2.4, 2.4])
    assert linear.heterogeneity == pytest.approx(5.76)
    assert linear.drift_floor(0.01, 3) == pytest.approx(0.005184)
    assert linear.drift_floor(0.01, 1) == 0.0


def test_the_exact_fixed_point_by_hand():
    """K = 2, eta = 1/10: P = (16/25, 1/25), Q = (9/5, 6/5); x = -(eta mean Q g) / (1 - mean P).

    mean Q g = (-2.4 * 1.8 + 2.4 * 1.2) / 2 = -0.72 and 1 - mean P = 0.66, so x = 0.0720 / 0.66.
    """
    linear = Linearised.of(quadratic())
    run = FederatedRun(rate=0.1, rounds=500, local_steps=2)
    assert linear.distance_left(run, np.zeros(1)) == pytest.approx([0.072 / 0.66])
    *_, last = federated_iterates(quadratic(), run, setting.noise(0), start=np.zeros(1))
    assert last[0, 0] == pytest.approx(-0.2 + 0.072 / 0.66)


@pytest.mark.parametrize(("clients", "cohort"), [(5, 1), (5, 2), (6, 3), (4, 4), (1, 1)])
def test_the_participation_factor_is_the_variance_of_a_sample_without_replacement(clients, cohort):
    from itertools import combinations

    values = np.random.default_rng(0).normal(size=clients)
    means = [np.mean(some) for some in combinations(values, cohort)]
    assert np.var(means) == pytest.approx(participation_factor(clients, cohort) * np.var(values))


def test_without_delay_the_settled_noise_solves_lyapunovs_equation():
    linear = Linearised.of(setting.objective(0))
    pull = 0.3 * linear.mean_hessian
    noise = linear.pair_scatter[0]
    keep = np.eye(len(pull)) - pull
    covariance = solve_discrete_lyapunov(keep, noise)
    hessian = linear.mean_hessian
    exact = np.trace(hessian @ covariance @ hessian)
    assert linear._settled(pull, noise, delay=0) == pytest.approx(exact, rel=1e-9)


def test_with_delay_it_solves_the_equation_of_the_whole_history():
    """x and its past as one state of (q+1) d numbers."""
    linear = Linearised.of(setting.objective(0))
    pull, noise, q = 0.3 * linear.mean_hessian, linear.pair_scatter[0], 3
    d = len(pull)
    keep = np.zeros(((q + 1) * d, (q + 1) * d))
    keep[:d] = np.tile(-pull / (q + 1), q + 1)
    keep[:d, :d] += np.eye(d)
    keep[d:, :-d] = np.eye(q * d)
    driven = np.zeros_like(keep)
    driven[:d, :d] = noise
    covariance = solve_discrete_lyapunov(keep, driven)[:d, :d]
    exact = np.trace(linear.mean_hessian @ covariance @ linear.mean_hessian)
    assert linear._settled(pull, noise, delay=q) == pytest.approx(exact, rel=1e-9)


def test_sources_are_switched_off_one_by_one():
    linear = Linearised.of(setting.objective(0))
    run = FederatedRun(rate=0.1, rounds=1, local_steps=1)
    floors = linear.floors(run, setting.CLIENTS)
    assert floors.total == pytest.approx(0.0, abs=1e-18)
    noisy = FederatedRun(
        rate=0.1, rounds=1, local_steps=3, delay=4, sample_rate=0.5, shared_noise=1
    )
    floors = linear.floors(noisy, 2)
    parts = (floors.drift, floors.participation, floors.gradient_noise, floors.privacy_noise)
    assert min(*parts, floors.staleness) > 0.0
    assert floors.total == pytest.approx(sum(parts) + floors.staleness)


@pytest.mark.parametrize("nodes", SIZES)
def test_mixing_is_symmetric_doubly_stochastic_and_connected(nodes):
    matrices = mixing_matrices(nodes)
    assert len(matrices) == 7
    for name, matrix in matrices.items():
        assert np.array_equal(matrix, matrix.T), name
        assert matrix.sum(axis=1) == pytest.approx(np.ones(nodes))
        assert matrix.min() >= 0.0
        assert squared_gap(matrix) > 1e-3
    assert squared_gap(matrices["complete"]) == pytest.approx(1.0)


def test_weights_by_hand():
    """A path of three: both links 1/3, the middle keeps 1/3, the ends 2/3; rho = 2/3."""
    matrix = metropolis_hastings(3, [(0, 1), (1, 2)])
    assert matrix == pytest.approx(np.array([[2, 1, 0], [1, 1, 1], [0, 1, 2]]) / 3)
    assert squared_gap(matrix) == pytest.approx(1 - 4 / 9)


def test_on_a_quadratic_the_consensus_bias_is_exact():
    """Equal Hessians: same pairs, other votes, so the linear prediction has no error at all."""
    features = np.repeat(np.array([[[1.0, 0.5], [0.0, 2.0]]]), 8, axis=0)
    votes = np.random.default_rng(2).random((8, 2))
    objective = Objective(features, votes, beta=1.0, loss="ipo")
    linear = Linearised.of(objective)
    for name, matrix in mixing_matrices(8).items():
        for order in ("atc", "dgd"):
            run = GossipRun(rate=0.02, rounds=3000, order=order)
            *_, last = gossip_iterates(
                objective, matrix, run, setting.noise(0), start=linear.optimum
            )
            noise, bias = linear.consensus(run, matrix)
            assert noise == pytest.approx(0.0, abs=1e-18)
            assert consensus_error(last)[0] == pytest.approx(bias, rel=1e-6), (name, order)
            gradients = np.array([objective.stationarity(theta)[0] for theta in last]).mean()
            at_mean = objective.stationarity(last.mean(axis=0))[0]
            _, in_gradients = linear.consensus(run, matrix, in_gradients=True)
            assert gradients - at_mean == pytest.approx(in_gradients, rel=1e-6)


def test_cohorts_have_the_size_they_should():
    objective = setting.objective(0)
    for draw in (uniform_cohorts(objective, 2, 5, 0), balanced_cohorts(objective, 2, 5, 0)):
        masks = np.array([draw(number) for number in range(1, 9)])
        assert (masks.sum(axis=1) == 2).all()
    assert (masks.reshape(2, 4, *masks.shape[1:]).sum(axis=1) == 1).all(), "everybody once a cycle"


def test_a_run_too_short_to_settle_is_refused():
    points = iter([np.zeros((1, 1))])
    with pytest.raises(ValueError, match="no round"):
        settled_mean(points, lambda theta: theta, burn_in=5)
