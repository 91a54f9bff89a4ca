"""Weights, spectra and forecasts; closed forms and simulations as oracles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.engine.mixing import (
    WEIGHT_BITS,
    WEIGHT_UNIT,
    ConsensusForecast,
    Spectrum,
    consensus_error,
    flow,
    integer_weights,
    mixing_matrix,
    split,
)
from privfed_dpo.topology import GraphSettings, Topology

ROUNDED = 2.0**-WEIGHT_BITS


def graph_of(kind, nodes, **others):
    return GraphSettings(kind=kind, nodes=nodes, **others).of_round(1)


@st.composite
def graphs(draw):
    """Any graph, connected or not."""
    nodes = draw(st.integers(1, 9))
    possible = [(i, j) for i in range(nodes) for j in range(i + 1, nodes)]
    return Topology.of(nodes, draw(st.lists(st.sampled_from(possible))) if possible else [])


@given(graph=graphs(), data=st.data())
def test_weights_are_symmetric_and_doubly_stochastic_whatever_links_fail(graph, data):
    used = data.draw(st.lists(st.sampled_from(graph.edges))) if graph.edges else []
    matrix = mixing_matrix(graph, used)
    assert np.array_equal(matrix, matrix.T)
    assert np.array_equal(matrix.sum(axis=0), np.ones(graph.nodes)), "multiples of 2^-16 are exact"
    assert (np.diag(matrix) > 0).all()
    assert (matrix >= 0).all()
    assert Spectrum.of(matrix).rho <= 1 + 1e-12


@given(graph=graphs())
def test_weights_are_metropolis_hastings_up_to_the_grid(graph):
    degrees = graph.degrees
    for (i, j), weight in integer_weights(graph).items():
        exact = 1 / (1 + max(degrees[i], degrees[j]))
        assert 0 <= exact - weight / WEIGHT_UNIT < ROUNDED


@pytest.mark.parametrize("nodes", [3, 5, 8, 16])
def test_spectrum_of_a_ring(nodes):
    found = Spectrum.of(mixing_matrix(graph_of("ring", nodes))).eigenvalues
    closed = 1 / 3 + 2 / 3 * np.cos(2 * np.pi * np.arange(nodes) / nodes)
    assert np.allclose(found, np.sort(closed)[::-1], atol=4 * ROUNDED)


@pytest.mark.parametrize("nodes", [2, 5, 9])
def test_spectrum_of_a_complete_graph(nodes):
    spectrum = Spectrum.of(mixing_matrix(graph_of("complete", nodes)))
    assert np.allclose(spectrum.eigenvalues, [1] + [0] * (nodes - 1), atol=nodes * ROUNDED)
    assert spectrum.gap == pytest.approx(1, abs=nodes * ROUNDED)


@pytest.mark.parametrize("nodes", [3, 5, 8])
def test_spectrum_of_a_star(nodes):
    found = Spectrum.of(mixing_matrix(graph_of("star", nodes))).eigenvalues
    closed = [1] + [1 - 1 / nodes] * (nodes - 2) + [0]
    assert np.allclose(found, closed, atol=2 * nodes * ROUNDED)


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (3, 4), (4, 5)])
def test_spectrum_of_a_torus(rows, columns):
    found = Spectrum.of(mixing_matrix(graph_of("torus", rows * columns))).eigenvalues
    down, right = (2 * np.pi * np.arange(n) / n for n in (rows, columns))
    closed = (1 + 2 * np.cos(down)[:, None] + 2 * np.cos(right)[None]).ravel() / 5
    assert np.allclose(found, np.sort(closed)[::-1], atol=8 * ROUNDED)


def test_the_gap_does_not_order_graphs_but_the_whole_spectrum_does():
    """A star of 8 has the larger gap, yet disagrees more than a path under the same noise."""
    star, path = (Spectrum.of(mixing_matrix(graph_of(kind, 8))) for kind in ("star", "path"))
    assert star.gap > path.gap
    errors = [s.steady_consensus_error(learning_rate=1, noise_power=1) for s in (star, path)]
    assert errors == [pytest.approx(3.32, abs=0.01), pytest.approx(2.34, abs=0.01)]


@given(values=st.lists(st.integers(-(2**58), 2**58), min_size=1, max_size=5))
def test_split_loses_nothing(values):
    fine = np.array(values, dtype=np.int64)
    sent, kept = split(fine)
    assert np.array_equal((sent << WEIGHT_BITS) + kept, fine)
    assert ((kept >= 0) & (kept < WEIGHT_UNIT)).all()


@given(
    weight=st.integers(0, WEIGHT_UNIT // 2),
    ends=st.tuples(st.integers(-(2**43), 2**43), st.integers(-(2**43), 2**43)),
)
def test_flows_of_a_link_cancel_to_the_bit(weight, ends):
    ours, theirs = (np.array([end], dtype=np.int64) for end in ends)
    here, there = flow(weight, theirs, ours), flow(weight, ours, theirs)
    assert int(here[0]) == -int(there[0]) == weight * (ends[1] - ends[0])


@pytest.mark.parametrize("kind", ["path", "ring", "star", "torus", "exponential", "complete"])
def test_the_forecast_settles_at_the_closed_form(kind):
    matrix = mixing_matrix(graph_of(kind, 8))
    forecast = ConsensusForecast.start(8)
    for _ in range(400):
        before = forecast.adapted(np.full(8, 2.5))
        forecast = before.combined(matrix)
    closed = Spectrum.of(matrix).steady_consensus_error(learning_rate=1, noise_power=2.5)
    assert before.error() == pytest.approx(closed, rel=1e-6)
    assert forecast.error() < before.error()


def test_the_forecast_is_what_random_walks_do_on_links_that_fail():
    """Monte Carlo: mean disagreement of many coordinates, nodes of different noise."""
    graph, rng = graph_of("ring", 6), np.random.default_rng(1)
    power, dimension = np.array([1.0, 2.0, 0.5, 0.0, 1.0, 3.0]), 4000
    forecast, values = ConsensusForecast.start(6), np.zeros((6, dimension))
    for number in range(12):
        used = [edge for k, edge in enumerate(graph.edges) if (number + k) % 3]
        matrix = mixing_matrix(graph, used)
        values += rng.normal(size=values.shape) * np.sqrt(power / dimension)[:, None]
        forecast = forecast.adapted(power)
        found = consensus_error(values)
        assert found == pytest.approx(forecast.error(), rel=0.06)
        assert found != pytest.approx(1.3 * forecast.error(), rel=0.06)
        values, forecast = matrix @ values, forecast.combined(matrix)


@pytest.mark.parametrize("kind", ["path", "ring", "star", "complete"])
def test_the_heterogeneous_part_is_what_descent_on_quadratics_settles_at(kind):
    """f_i = h/2 |x - a_i|^2: linear dynamics, solved by iteration."""
    nodes, rate, curvature = 8, 0.1, 0.4
    matrix = mixing_matrix(graph_of(kind, nodes))
    optima = np.random.default_rng(2).normal(size=(nodes, 3))
    optima -= optima.mean(axis=0)
    values = np.zeros((nodes, 3))
    for _ in range(3000):
        adapted = values - rate * curvature * (values - optima)
        values = matrix @ adapted
    _, modes = np.linalg.eigh(matrix)
    power = (curvature**2 * (modes.T @ optima) ** 2).sum(axis=1)[::-1][1:]
    predicted = Spectrum.of(matrix).steady_consensus_error(
        learning_rate=rate, noise_power=0.0, mode_power=power, curvature=curvature
    )
    assert consensus_error(adapted) == pytest.approx(predicted, rel=1e-6)
