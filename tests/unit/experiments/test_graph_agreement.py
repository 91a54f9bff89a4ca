"""The graphs and the consensus formula of the experiments, and those of the engine, are the same."""

import numpy as np
import pytest

from experiments.graphs import EXPANDER_DEGREE, SIZES, mixing_matrices
from experiments.objective import Objective
from experiments.predict import Linearised
from experiments.simulate import GossipRun
from privfed_dpo.engine.mixing import WEIGHT_UNIT, Spectrum, mixing_matrix
from privfed_dpo.topology import GraphSettings


def engine_matrix(name, nodes):
    wanted = GraphSettings(kind=name, nodes=nodes, degree=EXPANDER_DEGREE)
    return mixing_matrix(wanted.of_round(1))


@pytest.mark.parametrize("nodes", SIZES)
def test_mixing_matrices_are_the_engines_to_its_rounding(nodes):
    """The engine rounds each weight down to a multiple of 2^-16."""
    for name, ours in mixing_matrices(nodes).items():
        theirs = engine_matrix(name, nodes)
        if name == "expander":
            assert sorted((ours > 0).sum(axis=1)) == sorted((theirs > 0).sum(axis=1))
            continue
        assert np.abs(theirs - ours).max() <= nodes / WEIGHT_UNIT, name


def test_where_the_hessian_is_a_number_the_engine_predicts_the_same_consensus_error():
    """One dimension: the mean eigenvalue of the Hessian is the Hessian."""
    rng = np.random.default_rng(4)
    features = np.repeat(rng.normal(size=(1, 12, 1)), 8, axis=0)
    objective = Objective(features, rng.random((8, 12)), loss="ipo")
    linear = Linearised.of(objective)
    run = GossipRun(rate=0.03, rounds=1, sample_rate=0.5, local_noise=0.2)
    noise_power = float(sum(part.mean() for part in linear.step_noise(run)))
    for name in ("path", "ring", "star", "complete"):
        matrix = mixing_matrices(8)[name]
        values, modes = np.linalg.eigh(matrix)
        mode_power = ((modes.T @ linear.gradients) ** 2).sum(axis=1)[::-1]
        spectrum = Spectrum.of(matrix)
        assert spectrum.eigenvalues == pytest.approx(tuple(values[::-1]))
        theirs = spectrum.steady_consensus_error(
            learning_rate=run.rate,
            noise_power=noise_power,
            mode_power=mode_power[1:],
            curvature=float(linear.mean_hessian[0, 0]),
        )
        assert sum(linear.consensus(run, matrix)) == pytest.approx(theirs, rel=1e-9)
