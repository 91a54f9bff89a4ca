"""Which single adapters follow from pooled sums: against brute force and hand-made graphs."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.engine.mixing import integer_weights
from privfed_dpo.engine.neighbourhood_exposure import exposures, smallest_mixture
from privfed_dpo.topology import GraphSettings, Topology


def complete(nodes):
    return Topology.of(nodes, [(i, j) for i in range(nodes) for j in range(i)])


def circulant(nodes, *offsets):
    return Topology.of(nodes, [(i, (i + k) % nodes) for k in offsets for i in range(nodes)])


def found(graph, most):
    return smallest_mixture(graph.nodes, integer_weights(graph), most)


def rank_of(rows):
    """Rank over the rationals by plain elimination: an implementation of its own."""
    rows = [[Fraction(v) for v in row] for row in rows]
    rank = 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        rows[rank] = [v / rows[rank][column] for v in rows[rank]]
        for r in range(len(rows)):
            if r != rank:
                rows[r] = [
                    a - rows[r][column] * b for a, b in zip(rows[r], rows[rank], strict=True)
                ]
        rank += 1
    return rank


def view_of(graph, coalition):
    """What a coalition holds in one round about the others, as rows, and who the others are."""
    weights = integer_weights(graph)
    honest = [n for n in range(graph.nodes) if n not in coalition]
    rows = [[weights.get((min(i, n), max(i, n)), 0) for n in honest] for i in coalition]
    return [*rows, [1] * len(honest)], honest


def knows(rows, unit):
    return rank_of([*rows, unit]) == rank_of(rows)


def brute_force(graph, most):
    """Size of the smallest set of honest nodes that carries some vector of a coalition's span.

    A set carries one iff the rows, cut to the columns outside it, lose rank.
    """
    best = graph.nodes
    for size in range(1, most + 1):
        for coalition in combinations(range(graph.nodes), size):
            rows, honest = view_of(graph, coalition)
            whole = rank_of(rows)
            for support in range(1, best):
                for chosen in combinations(range(len(honest)), support):
                    rest = [[v for p, v in enumerate(row) if p not in chosen] for row in rows]
                    if rank_of(rest) < whole:
                        best = min(best, support)
                        break
    return best


@given(
    nodes=st.integers(3, 6),
    chosen=st.data(),
    most=st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_the_smallest_mixture_is_that_of_a_search_through_all_sets(nodes, chosen, most):
    pairs = list(combinations(range(nodes), 2))
    edges = chosen.draw(st.lists(st.sampled_from(pairs), unique=True, min_size=2))
    graph = Topology.of(nodes, edges)
    mixture = found(graph, most)
    assert mixture.size == brute_force(graph, most)
    rows, honest = view_of(graph, mixture.coalition)
    assert set(mixture.nodes) <= set(honest)
    outside = [
        [v for v, n in zip(row, honest, strict=True) if n not in mixture.nodes] for row in rows
    ]
    assert rank_of(outside) < rank_of(rows), "the nodes named do carry a vector of the span"


@given(nodes=st.integers(3, 6), chosen=st.data(), most=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_exposed_nodes_are_those_whose_unit_vector_lies_in_a_span(nodes, chosen, most):
    pairs = list(combinations(range(nodes), 2))
    graph = Topology.of(
        nodes, chosen.draw(st.lists(st.sampled_from(pairs), unique=True, min_size=2))
    )
    expected = set()
    for size in range(1, most + 1):
        for coalition in combinations(range(nodes), size):
            rows, honest = view_of(graph, coalition)
            for place, node in enumerate(honest):
                unit = [int(p == place) for p in range(len(honest))]
                expected |= {node} if knows(rows, unit) else set()
    last = exposures(nodes, integer_weights(graph), most)[most - 1]
    assert set(last.exposed) == expected
    assert (last.mixture.size == 1) == bool(expected)


def test_values_by_hand():
    ring, star = circulant(6, 1), Topology.of(5, [(0, i) for i in range(1, 5)])
    assert found(ring, 1).size == 2, "a node's two neighbours"
    assert found(ring, 2).size == 1, "of a neighbour's two neighbours one is the colluder itself"
    assert found(star, 1).nodes == (0,), "a leaf sees its hub as it is"
    assert found(complete(6), 1).size == 5
    assert found(complete(6), 4).size == 2
    assert found(complete(6), 5).size == 1, "the mean less five known adapters"
    assert found(circulant(6, 1, 2), 1).size == 1, "four of six: the mean less the sum"
    six = integer_weights(circulant(6, 1, 2))
    assert smallest_mixture(6, six, 1, mean=False).size == 4, "as long as nobody has the mean"
    torus = GraphSettings("torus", 20).of_round(1)
    assert [found(torus, k).size for k in (1, 2, 3)] == [4, 3, 2]


def test_neighbourhoods_that_differ_in_one_node_show_it():
    """Nodes 0 and 1 have neighbours {2,3,4} and {2,3,4,5}, with equal weights."""
    rest = dict.fromkeys(combinations(range(2, 9), 2), 3)
    near = [(0, n) for n in (2, 3, 4)] + [(1, n) for n in (2, 3, 4, 5)]
    equal = rest | dict.fromkeys(near, 7)
    alone, together = exposures(9, equal, 1)
    assert alone.exposed == ()
    assert 5 in together.exposed
    assert (together.mixture.coalition, together.mixture.nodes) == ((0, 1), (5,))
    scaled = rest | {link: 7 if link[0] == 0 else 5 for link in near}
    assert 5 in exposures(9, scaled, 1)[1].exposed, "sums are scaled before subtracting"
    unlike = exposures(9, equal | {(1, 4): 6}, 1)[1].exposed
    assert 5 not in unlike, "with another weight two nodes stay mixed"


def test_several_rounds_show_no_adapter_that_one_round_does_not():
    """Steps are fresh in every round, so the whole history spans no unit vector that is new."""
    graph = circulant(8, 1, 2)
    mixing = np.eye(8)
    for (i, j), weight in integer_weights(graph).items():
        mixing[[i, j], [j, i]] = weight / 65536
        mixing[[i, j], [i, j]] -= weight / 65536
    for coalition in [(0,), (0, 4), (0, 1, 2), (0, 1, 4, 5)]:
        rows, honest = view_of(graph, coalition)
        one = np.array(rows, dtype=float)
        passed = mixing[np.ix_(honest, honest)]
        rounds = 4
        history = np.zeros((rounds * len(one), rounds * len(honest)))
        for late in range(rounds):
            for early in range(late + 1):
                block = one @ np.linalg.matrix_power(passed, late - early)
                history[
                    late * len(one) : (late + 1) * len(one),
                    early * len(honest) : (early + 1) * len(honest),
                ] = block
        for place in range(len(honest)):
            unit = np.eye(len(honest))[place]
            alone = np.linalg.matrix_rank(np.vstack([one, unit])) == np.linalg.matrix_rank(one)
            for when in range(rounds):
                # the adapter of round `when` as a function of all steps up to then
                adapter = np.zeros(history.shape[1])
                for early in range(when + 1):
                    adapter[early * len(honest) : (early + 1) * len(honest)] = (
                        unit @ np.linalg.matrix_power(passed, when - early)
                    )
                known = np.linalg.matrix_rank(np.vstack([history, adapter]), tol=1e-8)
                assert (known == np.linalg.matrix_rank(history, tol=1e-8)) == alone


def test_coalitions_must_leave_somebody():
    with pytest.raises(ValueError, match="leaves nothing"):
        smallest_mixture(4, {(0, 1): 1}, 4)
    with pytest.raises(ValueError, match="leaves nothing"):
        smallest_mixture(4, {(0, 1): 1}, 0)
    with pytest.raises(ValueError, match="sees anything"):
        smallest_mixture(4, {}, 1, mean=False)


def test_a_plan_looks_one_colluder_further_than_promised_while_that_is_cheap():
    few = exposures(8, integer_weights(circulant(8, 1, 2)), 1)
    assert [e.colluders for e in few] == [1, 2]
    assert few[0].describe()["single_nodes_learned"] == []
    many = circulant(60, 1, 2, 5)
    assert [e.colluders for e in exposures(60, integer_weights(many), 2)] == [1, 2]
