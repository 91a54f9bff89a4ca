"""Mechanisms beside plain Poisson sampling: groups, capped batches, epochs, selection."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from scipy import stats

from accounting import (
    Adjacency,
    CappedPoissonGaussianRelease,
    GaussianRelease,
    GroupPoissonGaussianRelease,
    InvalidPrivacyParameter,
    PoissonGaussianRelease,
    Repeated,
    UnprotectedRelease,
    UnsupportedMechanism,
    decode_event,
    encode_event,
    epsilon_pair,
    participation_epsilon,
    pld_epsilon,
    rdp_epsilon,
    selection_epsilon,
)
from accounting.mixture import (
    Mixture,
    hockey_sticks,
    loss,
    renyi_divergences_of,
    sampled_group,
    sampled_replacement,
)
from accounting.rdp import RDP_ORDERS, renyi_divergences

A1 = [Repeated(PoissonGaussianRelease(0.01, 1.0), 1000)]


@pytest.mark.parametrize(
    ("group", "epsilon"), [(1, 1.828), (2, 3.979), pytest.param(5, 11.64, marks=pytest.mark.slow)]
)
def test_annotators_with_several_pairs_reproduce_the_recorded_values(group, epsilon):
    spends = [Repeated(GroupPoissonGaussianRelease(group, 0.01, 1.0), 1000)]
    pair = epsilon_pair(spends, 1e-5)
    assert pair.pld == pytest.approx(epsilon, rel=1e-3)
    assert pair.pld < pair.rdp < participation_epsilon(spends, 1e-5)


def test_a_group_of_one_is_plain_sampling():
    """Two constructions of the same distribution: ours by inversion, the library's by formula."""
    group = [Repeated(GroupPoissonGaussianRelease(1, 0.01, 1.0), 1000)]
    assert pld_epsilon(group, 1e-5) == pytest.approx(pld_epsilon(A1, 1e-5), rel=1e-7)
    ours = renyi_divergences(GroupPoissonGaussianRelease(1, 0.05, 0.9), RDP_ORDERS)
    library = renyi_divergences(PoissonGaussianRelease(0.05, 0.9), RDP_ORDERS)
    whole = [order.is_integer() for order in RDP_ORDERS]
    assert ours[whole] == pytest.approx(library[whole], rel=1e-6)
    assert np.all(ours <= library * (1 + 1e-9)), "the library's fractional orders are upper bounds"


def test_a_group_agrees_with_the_library_mixture():
    weights = stats.binom.pmf(range(3), 2, 0.1)
    library = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        2.0, [0.0, 1.0, 2.0], list(weights), value_discretization_interval=1e-2
    )
    expected = library.self_compose(20).get_epsilon_for_delta(1e-5)
    spends = [Repeated(GroupPoissonGaussianRelease(2, 0.1, 2.0), 20)]
    assert pld_epsilon(spends, 1e-5, interval=1e-2) == pytest.approx(expected, rel=1e-3)


def test_an_unsampled_group_is_one_record_of_k_times_the_norm():
    group = [Repeated(GroupPoissonGaussianRelease(3, 1.0, 6.0), 10)]
    plain = [Repeated(GaussianRelease(2.0), 10)]
    assert pld_epsilon(group, 1e-5) == pytest.approx(pld_epsilon(plain, 1e-5), rel=1e-3)
    assert rdp_epsilon(group, 1e-5) == pytest.approx(rdp_epsilon(plain, 1e-5), rel=1e-6)


@pytest.mark.parametrize(
    ("cap", "epsilon"),
    [
        pytest.param(120, 5.297, marks=pytest.mark.slow),
        (130, 3.684),
        (150, 1.8305),
        pytest.param(200, 1.8282, marks=pytest.mark.slow),
    ],
)
def test_capped_batches_reproduce_the_recorded_values(cap, epsilon):
    """Mean batch 100, standard deviation 10: a cap at mean + 5 sigma is free."""
    spends = [Repeated(CappedPoissonGaussianRelease(10_000, 0.01, cap, 1.0), 1000)]
    pair = epsilon_pair(spends, 1e-5)
    assert pair.pld == pytest.approx(epsilon, rel=1e-3)
    assert pair.pld < pair.rdp


def test_a_cap_that_cannot_be_reached_changes_nothing():
    capped = CappedPoissonGaussianRelease(100, 0.01, 100, 1.0)
    plain = renyi_divergences(PoissonGaussianRelease(0.01, 1.0), RDP_ORDERS)
    assert np.array_equal(renyi_divergences(capped, RDP_ORDERS), plain)


@pytest.mark.parametrize(
    ("noise", "epochs", "epsilon"), [(1.0, 1, 4.377), (1.0, 10, 17.857), (4.0, 10, 3.341)]
)
def test_shuffled_batches_are_booked_per_epoch_without_amplification(noise, epochs, epsilon):
    spends = [Repeated(GaussianRelease(noise), epochs)]
    assert pld_epsilon(spends, 1e-5) == pytest.approx(epsilon, rel=1e-3)


@pytest.mark.parametrize(("mean_runs", "epsilon"), [(5, 3.686), (20, 4.481), (50, 4.942)])
def test_keeping_the_best_run_has_its_price(mean_runs, epsilon):
    assert selection_epsilon(A1, 1e-5, mean_runs) == pytest.approx(epsilon, rel=1e-3)


def test_selection_of_nothing_and_impossible_selections():
    assert selection_epsilon([], 1e-5, 3) == 0.0
    with pytest.raises(InvalidPrivacyParameter):
        selection_epsilon(A1, 1e-5, 0.5)
    with pytest.raises(UnsupportedMechanism):
        selection_epsilon([Repeated(UnprotectedRelease(), 1)], 1e-5, 3)


@pytest.mark.parametrize(
    "event",
    [GroupPoissonGaussianRelease(3, 0.1, 1.0), CappedPoissonGaussianRelease(100, 0.1, 20, 1.0)],
)
def test_they_survive_json_and_refuse_replace_one(event):
    encoded = encode_event(event)
    assert decode_event(encoded) == event
    with pytest.raises(UnsupportedMechanism):
        pld_epsilon([Repeated(event, 2)], 1e-5, adjacency=Adjacency.REPLACE_ONE)
    whole = next(name for name, value in encoded.items() if isinstance(value, int))
    with pytest.raises(UnsupportedMechanism):
        decode_event({**encoded, whole: 3.0})


@pytest.mark.parametrize(
    "make",
    [
        lambda: GroupPoissonGaussianRelease(0, 0.1, 1.0),
        lambda: GroupPoissonGaussianRelease(2, 0.0, 1.0),
        lambda: GroupPoissonGaussianRelease(2, 0.1, 0.0),
        lambda: CappedPoissonGaussianRelease(0, 0.1, 5, 1.0),
        lambda: CappedPoissonGaussianRelease(10, 0.1, 0, 1.0),
        lambda: CappedPoissonGaussianRelease(10, 1.5, 5, 1.0),
    ],
)
def test_impossible_samplers_are_refused(make):
    with pytest.raises(InvalidPrivacyParameter):
        make()


def test_mixed_samplers_compose_below_their_analytic_bound():
    spends = [
        Repeated(GroupPoissonGaussianRelease(2, 0.02, 2.0), 20),
        Repeated(CappedPoissonGaussianRelease(1000, 0.02, 50, 2.0), 10),
        Repeated(GaussianRelease(10.0), 1),
    ]
    pair = epsilon_pair(spends, 1e-5)
    assert pair.pld < pair.rdp
    assert pair.pld < participation_epsilon(spends, 1e-5)


def test_hockey_sticks_against_a_plain_integral():
    """Group of 2, q = 0.3, z = 0.8, on the grid point nearest to epsilon = 0.5, both directions."""
    pair = sampled_group(2, 0.3, 0.8)
    first, remove, first_added, add = hockey_sticks(pair, 0.01)
    grid = np.linspace(-12, 14, 1_000_001)
    step = grid[1] - grid[0]
    p, q = (
        sum(w * stats.norm.pdf(grid, s, m.noise) for s, w in zip(m.shifts, m.weights, strict=True))
        for m in pair
    )
    for left, right, start, deltas in ((p, q, first, remove), (q, p, first_added, add)):
        index = 50 - start
        expected = np.maximum(left - math.exp(0.5) * right, 0).sum() * step
        assert deltas[index] == pytest.approx(expected, rel=1e-6)


def test_a_replacement_is_symmetric_and_grows_with_its_rate():
    for rate in (0.2, 1.0):
        pair = sampled_replacement(rate, 1.5)
        swapped = (pair[1], pair[0])
        mirrored = loss(pair, np.array([0.7])), loss(swapped, np.array([-0.7]))
        assert mirrored[0] == pytest.approx(mirrored[1])
    few, many = (renyi_divergences_of(sampled_replacement(r, 1.5), (2.0,))[0] for r in (0.2, 1.0))
    assert few < many == pytest.approx(2.0 * 4 / (2 * 1.5**2))


def test_orders_out_of_reach_are_infinite_not_wrong():
    pair = sampled_group(8, 0.5, 0.1)
    assert renyi_divergences_of(pair, (1.1, 1000.0))[1] == math.inf


def test_one_part_is_a_plain_gaussian():
    mixture = Mixture((1.0,), (1.0,), 2.0)
    x = np.array([-1.0, 0.0, 3.0])
    assert mixture.survival(x) + mixture.cumulative(x) == pytest.approx(np.ones(3))
    assert mixture.mean_of(x) == pytest.approx(np.ones(3))
    assert dp_accounting.get_epsilon_gaussian(2.0, 1e-5) == pytest.approx(
        pld_epsilon([Repeated(GroupPoissonGaussianRelease(1, 1.0, 2.0), 1)], 1e-5), rel=1e-3
    )
