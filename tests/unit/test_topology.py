import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.errors import PlanRefused
from privfed_dpo.topology import (
    GRAPHS,
    RANDOM_GRAPHS,
    GraphSettings,
    Topology,
    _drawn,
    parse_links,
)

DRAWN = sorted(set(GRAPHS) - {"file"})


@st.composite
def settings_of(draw):
    kind = draw(st.sampled_from(DRAWN))
    nodes = draw(st.integers(6, 24).filter(lambda n: kind != "torus" or n % 2 == 0))
    return GraphSettings(
        kind=kind,
        nodes=nodes,
        degree=4,
        edge_probability=draw(st.floats(0.5, 1.0)),
        seed=draw(st.integers(0, 99)),
    )


@given(wanted=settings_of())
def test_every_graph_is_simple_connected_and_the_same_for_everybody(wanted):
    graph = wanted.of_round(1)
    assert graph.connected
    assert graph.nodes == wanted.nodes
    assert sum(graph.degrees) == 2 * len(graph.edges)
    assert all(i in graph.neighbours[j] and j in graph.neighbours[i] for i, j in graph.edges)
    _drawn.cache_clear()
    assert wanted.of_round(7) == graph, "drawn again, and in another round, it is the same"


@pytest.mark.parametrize(
    ("kind", "nodes", "links", "diameter", "degrees"),
    [
        ("path", 6, 5, 5, {1, 2}),
        ("ring", 6, 6, 3, {2}),
        ("star", 6, 5, 2, {1, 5}),
        ("complete", 6, 15, 1, {5}),
        ("torus", 12, 24, 3, {4}),
        ("torus", 4, 4, 2, {2}),
        ("exponential", 8, 20, 2, {5}),
        ("exponential", 16, 56, 2, {7}),
        ("expander", 12, 24, None, {4}),
        ("path", 2, 1, 1, {1}),
        ("ring", 2, 1, 1, {1}),
    ],
)
def test_shapes_by_hand(kind, nodes, links, diameter, degrees):
    graph = GraphSettings(kind=kind, nodes=nodes).of_round(1)
    assert len(graph.edges) == links
    assert set(graph.degrees) == degrees
    assert diameter is None or graph.diameter == diameter


@pytest.mark.parametrize("degree", [2, 3, 5, 9])
def test_an_expander_is_regular_whatever_the_seed(degree):
    graphs = [
        GraphSettings(kind="expander", nodes=10, degree=degree, seed=s).of_round(1)
        for s in range(5)
    ]
    assert all(set(graph.degrees) == {degree} for graph in graphs)
    assert degree == 9 or len({graph.edges for graph in graphs}) > 1


def test_a_random_expander_is_closer_than_a_ring_of_neighbours():
    wanted = GraphSettings(kind="expander", nodes=60, degree=4)
    circulant = Topology.of(60, ((i, (i + k) % 60) for k in (1, 2) for i in range(60)))
    assert wanted.of_round(1).diameter < circulant.diameter / 2


@pytest.mark.parametrize("kind", sorted(RANDOM_GRAPHS))
def test_random_graphs_are_drawn_anew_on_request_only(kind):
    kept = GraphSettings(kind=kind, nodes=20)
    assert kept.of_round(1) == kept.of_round(50)
    redrawn = GraphSettings(kind=kind, nodes=20, redraw_rounds=3)
    assert redrawn.of_round(1) == redrawn.of_round(3) == kept.of_round(1)
    assert redrawn.of_round(4) != redrawn.of_round(3)


def test_erdos_renyi_has_about_the_asked_share_of_links():
    counts = [
        len(
            GraphSettings(kind="erdos_renyi", nodes=30, edge_probability=0.4, seed=s)
            .of_round(1)
            .edges
        )
        for s in range(20)
    ]
    possible, share = 30 * 29 / 2, sum(counts) / 20 / (30 * 29 / 2)
    deviation = math.sqrt(0.4 * 0.6 / possible / 20)
    assert abs(share - 0.4) < 4 * deviation
    assert abs(share - 0.45) > 4 * deviation, "the test can tell another share apart"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "torus", "nodes": 7}, "no torus"),
        ({"kind": "expander", "nodes": 7, "degree": 3}, "no graph gives each"),
        ({"kind": "expander", "nodes": 4, "degree": 4}, "no graph gives each"),
        ({"kind": "erdos_renyi", "nodes": 40, "edge_probability": 0.001}, "left some"),
        ({"kind": "file", "nodes": 4, "edges": ((0, 1), (2, 3))}, "falls into parts"),
    ],
)
def test_graphs_that_cannot_be_are_refused(changes, words):
    with pytest.raises(PlanRefused, match=words):
        GraphSettings(**changes).of_round(1)


def test_links_from_a_file_by_name_and_by_number():
    text = "# who knows whom\nann bob\n\nbob carl # neighbours\n2 0\nbob ann\n"
    assert parse_links(text, ["ann", "bob", "carl"]) == ((0, 1), (0, 2), (1, 2))


@pytest.mark.parametrize("line", ["ann", "ann ann", "ann dave", "ann bob carl", "0 3"])
def test_lines_that_are_no_link_are_refused_by_number(line):
    with pytest.raises(PlanRefused, match="line 2"):
        parse_links(f"ann bob\n{line}\n", ["ann", "bob", "carl"])


def test_a_topology_is_simple():
    with pytest.raises(ValueError, match="no edge"):
        Topology(3, ((1, 1),))
    with pytest.raises(ValueError, match="ascending"):
        Topology(3, ((1, 2), (0, 1)))
    parts = Topology.of(4, [(0, 1), (1, 0), (2, 3)])
    assert parts.edges == ((0, 1), (2, 3))
    assert not parts.connected
    assert parts.diameter is None
    assert Topology.of(3, [(0, 1), (1, 2)]).without([(2, 1)]).edges == ((0, 1),)


def test_a_name_and_a_function_are_all_that_a_graph_needs():
    from typing import get_args

    from privfed_dpo.config import GossipConfig
    from privfed_dpo.topology import GRAPHS, GraphName

    assert set(get_args(GraphName)) == set(GRAPHS)
    assert GossipConfig.model_fields["topology"].annotation == GraphName
