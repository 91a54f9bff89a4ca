"""The sparse graph: regular, symmetric, unbiased, the same for everyone; and its bounds."""

import math
from collections import Counter
from fractions import Fraction

import pytest

from secure_agg import InvalidParams, plan_neighbourhood
from secure_agg.bounds import log2_some_client_has_more_than, log2_unsigned_pass
from secure_agg.graph import derive_graph


@pytest.mark.parametrize(("count", "degree"), [(7, 2), (9, 4), (40, 10), (101, 34)])
def test_every_client_has_degree_neighbours_and_neighbourhood_is_mutual(count, degree):
    graph = derive_graph(b"seed" * 8, tuple(range(0, 3 * count, 3)), degree)
    around = {client: graph.neighbours(client) for client in graph.ring}
    for client, peers in around.items():
        assert len(peers) == degree
        assert list(peers) == sorted(set(peers) - {client})
        assert all(client in around[peer] for peer in peers)
        assert set(graph.holders(client)) == {*peers, client}


def test_the_complete_graph_joins_everyone():
    graph = derive_graph(bytes(32), (1, 5, 9), None)
    assert graph.neighbours(5) == (1, 9)
    assert graph.holders(5) == (1, 5, 9)


def chi_square_of_meetings(seeds):
    """How unevenly client 0 meets the 19 others; 18 degrees of freedom if the graph is fair."""
    met = Counter()
    for seed in seeds:
        met.update(derive_graph(seed.to_bytes(32, "big"), tuple(range(20)), 6).neighbours(0))
    expected = len(seeds) * 6 / 19
    # A fixed number of neighbours per draw lowers the variance by the factor 1 - 6/19.
    return sum((met[c] - expected) ** 2 / expected for c in range(1, 20)) / (1 - 6 / 19)


def test_neighbours_are_a_uniform_subset():
    """The 1 - 1e-9 quantile is 82; a graph that repeats itself is far above it."""
    assert chi_square_of_meetings(range(3000)) < 82
    assert chi_square_of_meetings([7] * 3000) > 1000


def test_other_rosters_give_other_graphs():
    graphs = {derive_graph(bytes([i]) * 32, tuple(range(30)), 6).ring for i in range(20)}
    assert len(graphs) == 20


def exact_tail(allowed, among, marked, degree):
    """P[more than `allowed` marked among `degree` of `among - 1`], in exact fractions."""
    total = math.comb(among - 1, degree)
    return sum(
        Fraction(math.comb(marked, x) * math.comb(among - 1 - marked, degree - x), total)
        for x in range(allowed + 1, degree + 1)
    )


@pytest.mark.parametrize(
    ("allowed", "among", "marked", "degree"),
    [(3, 60, 10, 8), (10, 200, 20, 40), (40, 900, 50, 174), (0, 10, 1, 4)],
)
def test_the_tail_bound_agrees_with_exact_fractions(allowed, among, marked, degree):
    exact = exact_tail(allowed, among, marked, degree) * 1000
    computed = log2_some_client_has_more_than(
        allowed, clients=1000, among=among, marked=marked, degree=degree
    )
    exact_log2 = math.log2(exact.numerator) - math.log2(exact.denominator)
    assert computed == pytest.approx(exact_log2, abs=1e-6)


def test_what_cannot_happen_has_probability_zero():
    assert (
        log2_some_client_has_more_than(5, clients=10, among=100, marked=5, degree=20) == -math.inf
    )


def test_a_plan_for_a_thousand_clients():
    """10 % lost and 5 % corrupted; recomputed here with exact fractions."""
    plan = plan_neighbourhood(clients=1000, max_dropped=100, colluders=50)
    near = plan.neighbourhood
    assert near.degree == 174
    assert near.share_threshold == 133
    assert near.signature_quorum == 900
    assert plan.threshold == 882
    harmless = near.share_threshold - near.degree // 2 - 2
    unsafe = exact_tail(harmless, 900, 50, near.degree) * 1000 * 2**40
    assert unsafe < Fraction(1, 2**40)
    one_looser = exact_tail(harmless - 1, 900, 50, near.degree) * 1000 * 2**40
    assert one_looser > Fraction(1, 2**40)
    abort = exact_tail(near.degree - near.share_threshold, 1000, 100, near.degree) * 1000
    assert abort < Fraction(1, 10**6)


def test_the_degree_grows_like_the_logarithm():
    degrees = {
        n: plan_neighbourhood(
            clients=n, max_dropped=n // 10, colluders=n // 20
        ).neighbourhood.degree
        for n in (1000, 10_000)
    }
    assert degrees[10_000] < degrees[1000] * 2


def test_small_cohorts_get_the_complete_graph():
    plan = plan_neighbourhood(clients=30, max_dropped=5, colluders=2)
    assert plan.neighbourhood is None
    assert plan.threshold == 25
    assert "complete graph" in plan.describe()


def test_the_plan_prints_its_bounds():
    text = plan_neighbourhood(clients=1000, max_dropped=100, colluders=50).describe()
    for fact in ("1000 clients", "174 neighbours", "133 of 175", "900 signatures", "2^-44"):
        assert fact in text


@pytest.mark.parametrize(
    "numbers",
    [
        dict(clients=10, max_dropped=5, colluders=0),
        dict(clients=10, max_dropped=3, colluders=4),
        dict(clients=1, max_dropped=0, colluders=0),
        dict(clients=10, max_dropped=-1, colluders=0),
        dict(clients=100, max_dropped=1, colluders=1, abort_probability=0.0),
    ],
)
def test_impossible_bounds_are_refused(numbers):
    with pytest.raises(InvalidParams):
        plan_neighbourhood(**numbers)


def test_checking_everything_leaves_nothing_to_chance():
    assert (
        log2_unsigned_pass(clients=100, quorum=90, threshold=90, colluders=5, degree=34, checks=90)
        == -math.inf
    )


def test_more_checks_are_safer():
    few, many = (
        log2_unsigned_pass(
            clients=1000, quorum=900, threshold=882, colluders=50, degree=174, checks=checks
        )
        for checks in (60, 107)
    )
    assert many < -40 < few
