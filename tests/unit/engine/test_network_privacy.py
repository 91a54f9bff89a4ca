"""What one node's view holds of another's steps: by hand, by brute force, and what it costs."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import Adversary
from privfed_dpo.engine.mixing import mixing_matrix
from privfed_dpo.engine.network_privacy import (
    ASSUMPTIONS,
    View,
    describe_pairwise,
    pairwise_epsilons,
    projected_share,
)
from privfed_dpo.topology import GraphSettings, Topology
from tests.support.fake_federation import fake_plan
from tests.support.fake_neighbours import gossip_plan

NOISE = "privacy.noise_multiplier=1.5"
PATH = Topology.of(3, [(0, 1), (1, 2)])
EIGHT = Topology.of(8, [(i, (i + k) % 8) for i in range(8) for k in (1, 2)])
CLEAR, MASKED = View(masked=False, mean=False), View(masked=True, mean=False)


def complete(nodes):
    return Topology.of(nodes, [(i, j) for i in range(nodes) for j in range(i)])


def shares(graph, view, rounds, node=0, scale=None, fresh=None):
    scale = np.ones(graph.nodes) if scale is None else scale
    fresh = [True] * rounds if fresh is None else fresh
    return projected_share(mixing_matrix(graph), scale, view, node, fresh=fresh)


def simulate_divergence(graph, view, node, target, fresh, scale, step):
    """(2 / alpha) times the Renyi divergence of the view under two inputs, by simulation of runs.

    The view is built by playing the rounds with one unit of noise at a time; then the squared
    Mahalanobis distance of the two means under the covariance of the view, what the node knows of
    itself left out.
    """
    mixing, nodes = mixing_matrix(graph), graph.nodes

    def play(inputs):
        state, seen, place = np.zeros(nodes), [], 0
        for new in fresh:
            if new:
                state = state + inputs[place]
                place += 1
            near = [n for n in range(nodes) if n != node and mixing[node, n] > 0]
            own = [mixing[node, n] * state[n] for n in near]
            seen += [sum(own)] if view.masked else [state[n] for n in near]
            seen += [state.sum()] if view.mean else []
            state = mixing @ state
        return np.array(seen)

    starts = sum(fresh)
    columns = []
    for place in range(starts):
        for other in range(nodes):
            if other != node:
                unit = np.zeros((starts, nodes))
                unit[place, other] = scale[other]
                columns.append(play(unit))
    columns = np.array(columns).T
    change = np.zeros((starts, nodes))
    change[:, target] = step
    moved = play(change * scale[target])
    covariance = columns @ columns.T
    return float(moved @ np.linalg.pinv(covariance, rcond=1e-10) @ moved)


def test_values_by_hand():
    assert shares(PATH, CLEAR, 1).tolist() == pytest.approx([0, 1, 0])
    # Two messages over one noisy step: x1, then (x0 + x1 + x2) / 3, of which x2 follows.
    twice = shares(PATH, CLEAR, 2, fresh=[True, False])
    assert twice.tolist() == pytest.approx([0, 1, 1])
    # With a fresh step of node 1 in between: x2 / 3 under noise 1.
    assert shares(PATH, CLEAR, 2).tolist() == pytest.approx([0, 1, (1 / 9) / (1 / 9 + 1)], abs=1e-5)
    # Everybody in one sum: each is one of n - 1.
    assert shares(complete(6), MASKED, 1)[1:].tolist() == pytest.approx([1 / 5] * 5)
    assert shares(complete(6), CLEAR, 1)[1:].tolist() == pytest.approx([1] * 5)
    # A hub that mixes leaves with equal weights sees their sum; a leaf sees its hub as it is.
    star = Topology.of(5, [(0, i) for i in range(1, 5)])
    assert shares(star, MASKED, 1)[1:].tolist() == pytest.approx([1 / 4] * 4)
    assert shares(star, MASKED, 1, node=1)[0] == pytest.approx(1)


def test_the_mean_counts_as_seen():
    with_mean = View(masked=False)
    assert shares(PATH, with_mean, 1).tolist() == pytest.approx([0, 1, 1])
    masked = shares(EIGHT, View(masked=True), 1)
    assert masked[[1, 2]].tolist() == pytest.approx([1 / 4, 1 / 4])
    assert masked[[3, 4, 5]].tolist() == pytest.approx([1 / 3] * 3), "the mean less the sum"


def test_single_messages_do_not_add_up_to_what_they_say_together():
    """The formula that adds divergences message by message is below the joint one."""
    mixing = mixing_matrix(PATH)
    one = (mixing[1, 2] / np.linalg.norm(mixing[1])) ** 2
    assert one == pytest.approx(1 / 3, abs=1e-4)
    joint = simulate_divergence(PATH, CLEAR, 0, 2, [True, False], np.ones(3), [1.0])
    assert joint == pytest.approx(1)


@given(
    seed=st.integers(0, 10**6),
    nodes=st.integers(3, 6),
    rounds=st.integers(1, 4),
    masked=st.booleans(),
    mean=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_no_change_of_a_nodes_steps_shows_more_than_its_share(seed, nodes, rounds, masked, mean):
    """Against the divergence of the view as simulated, and reached by the worst direction."""
    rng = np.random.default_rng(seed)
    extra = [(i, j) for i in range(nodes) for j in range(i) if rng.random() < 0.4]
    graph = Topology.of(nodes, [*((i, i + 1) for i in range(nodes - 1)), *extra])
    scale = rng.uniform(0.3, 1.0, nodes)
    view, fresh = View(masked, mean), [True] * rounds
    node, target = rng.choice(nodes, size=2, replace=False)
    share = shares(graph, view, rounds, node=node, scale=scale)[target]
    for _ in range(3):
        step = rng.normal(size=rounds)
        found = simulate_divergence(graph, view, node, target, fresh, scale, step)
        assert found <= share * (step @ step) * (1 + 1e-6) + 1e-9
    units = np.eye(rounds)
    form = np.array(
        [
            [
                (
                    simulate_divergence(graph, view, node, target, fresh, scale, a + b)
                    - simulate_divergence(graph, view, node, target, fresh, scale, a - b)
                )
                / 4
                for b in units
            ]
            for a in units
        ]
    )
    assert np.linalg.eigvalsh(form)[-1] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("view", [View(False), View(True), CLEAR, MASKED])
def test_longer_runs_show_more_and_masks_show_less(view):
    grown = [shares(EIGHT, view, rounds) for rounds in (1, 2, 4, 8)]
    for less, more in pairwise(grown):
        assert np.all(less <= more + 1e-9)
    clear = shares(EIGHT, View(False, view.mean), 4)
    assert np.all(shares(EIGHT, View(True, view.mean), 4) <= clear + 1e-9)


def test_a_plan_prices_each_distance_below_its_headline():
    plain = gossip_plan("gossip.topology=torus", NOISE, clients=12)
    headline = plain.epsilons[Adversary.COALITION].pld
    found = pairwise_epsilons(plain)
    assert [p.distance for p in found] == list(range(1, plain.gossip.describe()["diameter"] + 1))
    assert found[0].share == pytest.approx(1)
    assert found[0].epsilon == pytest.approx(headline, rel=1e-6), "a neighbour sees every step"
    assert all(0 < p.epsilon < headline for p in found[1:])
    masked = gossip_plan("gossip.topology=torus", "gossip.masked=true", NOISE, clients=12)
    assert pairwise_epsilons(masked)[0].epsilon < headline
    facts = describe_pairwise(masked)
    assert facts["certified"] is False
    assert facts["assumptions"] == list(ASSUMPTIONS)
    assert facts["by_distance"][0]["distance"] == 1


def test_nodes_with_little_noise_are_seen_best():
    """A node with many pairs adds less noise to its step, and stands out in a sum."""
    scale = np.array([1.0, 0.1, 1.0, 1.0, 1.0, 1.0])
    quiet = shares(complete(6), MASKED, 1, scale=scale)
    assert quiet[1] < quiet[2]
    assert quiet[1] == pytest.approx(0.01 / 4.01)
    assert quiet[2] == pytest.approx(1 / 4.01)


@pytest.mark.parametrize(
    "overrides",
    [
        ("gossip.order=cta",),
        ("gossip.topology=expander", "gossip.degree=3", "gossip.redraw_rounds=2"),
        ("federation.rounds=400",),
    ],
)
def test_settings_outside_the_model_have_no_row(overrides):
    assert describe_pairwise(gossip_plan(*overrides)) is None


def test_runs_with_a_server_and_without_noise_have_no_row():
    assert pairwise_epsilons(fake_plan()) is None
    assert pairwise_epsilons(gossip_plan(mode="none")) is None


def test_a_graph_of_twenty_as_the_guide_says():
    graph = GraphSettings("torus", 20).of_round(1)
    far = np.array(graph.distances(0))
    for view, expected in ((View(False), (1, 0.14)), (View(True), (0.25, 0.11))):
        found = shares(graph, view, 25)
        for distance, share in zip((1, 2), expected, strict=True):
            assert found[far == distance].max() == pytest.approx(share, abs=0.005)
