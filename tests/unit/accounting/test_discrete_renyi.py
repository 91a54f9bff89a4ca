"""Renyi bounds of the integer mechanisms: anchors, and divergences summed from probabilities."""

import math

import numpy as np
import pytest
from scipy import special

from accounting import (
    Adversary,
    GridNoise,
    InvalidPrivacyParameter,
    Mode,
    NoiseShares,
    ReleaseSchedule,
    UnsupportedMechanism,
)
from accounting.discrete_rdp import best_order_epsilon, unconditional_epsilon
from accounting.integer_divergences import (
    sampled_generic,
    sampled_symmetric,
    shares_divergence,
    skellam_divergence,
)

DELTA = 1e-5
A1, A2, A4 = (0.01, 1.0, 1000), (0.05, 0.8, 200), (0.1, 2.0, 500)


def gaussian_divergence(z):
    return lambda orders: orders / (2 * z * z)


@pytest.mark.parametrize(
    ("anchor", "symmetric", "generic"),
    [(A1, 2.10775, 2.4503), (A2, 8.75396, 11.330), (A4, 6.08950, 8.0356)],
)
def test_sampling_anchors_at_whole_orders(anchor, symmetric, generic):
    rate, z, count = anchor
    one = gaussian_divergence(z)
    exact = best_order_epsilon(sampled_symmetric(one, rate), count, DELTA)
    any_mechanism = best_order_epsilon(sampled_generic(one, rate), count, DELTA)
    assert exact == pytest.approx(symmetric, rel=1e-4)
    assert any_mechanism == pytest.approx(generic, rel=1e-4)


@pytest.mark.parametrize(
    ("anchor", "dimension", "steps", "epsilon"),
    [
        (A1, 2**20, 2**14, 2.107753),
        (A1, 2**16, 2**6, 2.109025),
        (A2, 2**20, 2**14, 8.753965),
        (A2, 2**16, 2**6, 8.762633),
    ],
)
def test_skellam_anchors(anchor, dimension, steps, epsilon):
    rate, z, count = anchor
    one = skellam_divergence((z * steps) ** 2, steps, dimension)
    found = best_order_epsilon(sampled_symmetric(one, rate), count, DELTA)
    assert found == pytest.approx(epsilon, rel=1e-5)


def renyi(p, q, order):
    seen = (p > 0) & (q > 0)
    log_terms = order * np.log(p[seen]) + (1 - order) * np.log(q[seen])
    return float(special.logsumexp(log_terms)) / (order - 1)


@pytest.mark.parametrize(
    ("order", "exact", "bound"), [(2, 0.249461, 0.254395), (16, 1.7269, 2.0317)]
)
def test_skellam_noise_in_one_dimension(order, exact, bound):
    """P[k] = e^-mu I_k(mu) for variance mu = 64; a shift of 4."""
    support = np.arange(-120, 121)
    p, q = (special.ive(np.abs(support - shift), 64.0) for shift in (4, 0))
    assert p.sum() == pytest.approx(1.0)
    assert renyi(p, q, order) == pytest.approx(exact, rel=1e-4)
    found = float(skellam_divergence(64.0, 4.0, 1)(np.array([float(order)]))[0])
    assert found == pytest.approx(bound, rel=1e-4)
    assert renyi(p, q, order) <= found


def shares_and_sum(noise, clients, window=9):
    reach = math.ceil(window * noise.share_stddev_steps)
    support = np.arange(-reach, reach + 1)
    share = np.exp(-(support**2) / (2 * noise.share_stddev_steps**2))
    share /= share.sum()
    total = share
    for _ in range(clients - 1):
        total = np.convolve(total, share)
    return total


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("order", [2, 3, 5, 8])
def test_sampled_sums_of_shares_in_both_directions(rate, order):
    """Removal meets the closed form; addition stays below it; a smaller claim is refuted."""
    steps, clients = 6, 3
    noise = GridNoise(1.2, float(steps), clients, 0, 0, 1, 1)
    base = shares_and_sum(noise, clients)
    moved = np.roll(base, steps)
    mixed = (1 - rate) * base + rate * moved
    inner = slice(steps, -steps)
    (bound,) = sampled_symmetric(
        shares_divergence(noise.share_stddev_steps, clients, steps, 1), rate, (order,)
    )
    remove = renyi(mixed[inner], base[inner], order)
    add = renyi(base[inner], mixed[inner], order)
    assert remove == pytest.approx(float(bound), rel=1e-5)
    assert add <= remove * (1 + 1e-9)
    (less,) = sampled_symmetric(lambda a: 0.95 * a / (2 * 1.2**2 + 0.5), rate, (order,))
    assert remove > less, "the check must be able to fail"


def test_tau_is_booked_when_shares_are_narrow():
    """Close to the narrowest allowed shares tau is still invisible; it never lowers a bound."""
    noise = GridNoise(1.25, 4.0, 2, 0, 0, 1, 1)
    orders = np.array([2.0, 16.0])
    plain = orders / 2 * (4.0 / noise.sum_stddev_steps(2)) ** 2
    found = shares_divergence(noise.share_stddev_steps, 2, 4.0, 1)(orders)
    assert np.all(found >= plain)
    assert found == pytest.approx(plain, rel=1e-12)


GRID = GridNoise(1.0, 2.0**14, 20, 5, 2, 10**6, 200, sampler_relative_error=2.0**-45)


def test_a_run_costs_a_little_more_than_the_certified_figure():
    schedule = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, GRID, 200)
    for adversary in (Adversary.COALITION, Adversary.SERVER):
        certified = schedule.epsilon(adversary, DELTA)
        found = unconditional_epsilon(schedule, adversary, DELTA)
        assert certified.pld < found < 1.16 * certified.pld
        assert 0.999 * certified.rdp < found < 1.03 * certified.rdp
    alone = unconditional_epsilon(schedule, Adversary.NO_SECAGG, DELTA)
    assert alone > schedule.epsilon(Adversary.NO_SECAGG, DELTA).pld


def test_user_and_gossip_runs_have_the_bound_too():
    user = ReleaseSchedule(Mode.USER, 1.0, GRID, 10)
    own = GridNoise(1.0, 2.0**14, 1, 0, 0, 10**6, 100)
    gossip = ReleaseSchedule(Mode.GOSSIP, 0.05, own, 50, local_steps=2)
    for schedule in (user, gossip):
        found = unconditional_epsilon(schedule, Adversary.COALITION, DELTA)
        certified = schedule.epsilon(Adversary.COALITION, DELTA)
        assert 0.999 * certified.rdp < found < 1.03 * certified.rdp
        assert found > certified.pld


def test_only_grids_have_it():
    schedule = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, NoiseShares(1.0, 20, 5, 2), 200)
    with pytest.raises(UnsupportedMechanism):
        unconditional_epsilon(schedule, Adversary.SERVER, DELTA)
    on_grid = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, GRID, 200)
    with pytest.raises(InvalidPrivacyParameter):
        unconditional_epsilon(on_grid, Adversary.SERVER, 0.0)
