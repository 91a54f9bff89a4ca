"""The simulator of the experiments and the real engine give the same iterates."""

import numpy as np
import pytest
from scipy import stats

from experiments import setting
from experiments.objective import Objective
from experiments.population import Dials, draw_population
from experiments.real_engine import (
    engine_cohorts,
    engine_gossip_iterates,
    engine_iterates,
    engine_plan,
)
from experiments.simulate import FederatedRun, GossipRun, federated_iterates, gossip_iterates
from privfed_dpo.engine.mixing import mixing_matrix
from tests.support.entropy import counted_entropy

ROUNDS = 6
RATE = 0.5
NO_SERVER = (
    "federation.server_optimizer=adam",
    "federation.learning_rate=0.01",
    "federation.momentum=0.9",
)
"""Defaults, which a plan without a server leaves alone."""


def simulated(objective, run, cohorts=None):
    start = np.zeros(objective.dimension)
    steps = federated_iterates(objective, run, setting.noise(0), start=start, cohorts=cohorts)
    return np.array([point[:, 0] for point in steps])


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(("cohort", "local_steps"), [(8, 1), (4, 5)])
def test_engine_and_simulator_go_the_same_way(tmp_path, secure, cohort, local_steps):
    """To float32 rounding, in which clients see the adapter; secure sums change nothing."""
    objective = setting.objective(1)
    plan = engine_plan(
        objective,
        f"secure_agg.enabled={str(secure).lower()}",
        f"federation.rounds={ROUNDS}",
        f"federation.cohort={cohort}",
        f"federation.local_steps={local_steps}",
        f"federation.local_learning_rate={RATE}",
    )
    real = engine_iterates(objective, plan, tmp_path / "ledger", counted_entropy("engine"))
    run = FederatedRun(rate=RATE, rounds=ROUNDS, local_steps=local_steps)
    ours = simulated(objective, run, engine_cohorts(plan))
    assert real.shape == ours.shape == (ROUNDS, objective.dimension)
    assert np.abs(real - ours).max() < 4 * np.finfo(np.float32).eps * np.abs(ours).max()
    assert np.abs(np.diff(ours, axis=0)).max() > 1e-3, "they do go somewhere"
    slower = simulated(objective, FederatedRun(rate=RATE, rounds=ROUNDS), engine_cohorts(plan))
    if local_steps > 1:
        assert np.abs(real - slower).max() > 1e-2


@pytest.mark.parametrize("topology", ["ring", "star"])
def test_nodes_without_a_server_and_the_simulator_go_the_same_way(topology):
    objective = setting.objective(2)
    plan = engine_plan(
        objective,
        "secure_agg.enabled=false",
        "gossip.enabled=true",
        f"gossip.topology={topology}",
        "gossip.order=atc",
        *NO_SERVER,
        f"federation.rounds={ROUNDS}",
        f"federation.local_learning_rate={RATE}",
    )
    real = engine_gossip_iterates(objective, plan, counted_entropy("nodes"))
    mixing = mixing_matrix(plan.gossip.graph.of_round(1))
    run = GossipRun(rate=RATE, rounds=ROUNDS)
    start = np.zeros(objective.dimension)
    points = gossip_iterates(objective, mixing, run, setting.noise(0), start=start)
    ours = np.array([theta[:, :, 0] for theta in points])
    assert real.shape == ours.shape == (ROUNDS, 8, objective.dimension)
    assert np.abs(real - ours).max() < 4 * np.finfo(np.float32).eps * np.abs(ours).max()
    assert np.abs(real - real.mean(axis=1, keepdims=True)).max() > 1e-2, "they do disagree"


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_the_engines_noise_is_the_variance_of_experiment_10(tmp_path, mode):
    """What a round moves beyond its gradient has the predicted variance, and no other."""
    rng = np.random.default_rng(3)
    population = draw_population(rng, users=4, pairs=20, dimension=40, dials=Dials())
    objective = Objective.of(population)
    clip = float(np.linalg.norm(objective.features, axis=2).max())
    multiplier, rounds = 2.0, 12
    steps = ["federation.learning_rate=1.0", "federation.local_learning_rate=1.0"]
    plan = engine_plan(
        objective,
        f"privacy.mode={mode}",
        f"privacy.noise_multiplier={multiplier}",
        f"privacy.max_grad_norm={clip}",
        "privacy.delta=1e-5",
        f"federation.rounds={rounds}",
        *steps,
    )
    real = engine_iterates(objective, plan, tmp_path / "ledger", counted_entropy(mode))
    before = np.vstack([np.zeros(objective.dimension), real[:-1]])
    beyond = real - before + objective.mean_gradient(before.T).T
    pairs, clients = 20, 4
    shared = (multiplier * clip / (pairs * clients)) ** 2
    predicted = shared if mode == "distributed" else shared * clients
    statistic = (beyond**2).sum()
    count = beyond.size

    def p_value(variance):
        below = stats.chi2.cdf(statistic / variance, count)
        return 2 * min(below, 1 - below)

    assert p_value(predicted) > 1e-4
    for wrong in (predicted * 2, predicted / 2, shared * clients**2):
        assert p_value(wrong) < 1e-9
