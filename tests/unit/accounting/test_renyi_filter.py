"""The filter for noise that depends on what happened before."""

import pytest

from accounting import Budget, InvalidPrivacyParameter, PoissonGaussianRelease, RdpFilter, Repeated
from accounting.rdp import RDP_ORDERS, committed_order, rdp_epsilon

EVENT = PoissonGaussianRelease(0.05, 1.0)


def test_at_the_planned_order_the_filter_equals_composition():
    planned = [Repeated(EVENT, 200)]
    running = RdpFilter.committed(planned, 1e-5)
    assert len(running.orders) == 1
    for _ in range(4):
        running.spend(EVENT, 50)
    assert running.epsilon() == pytest.approx(rdp_epsilon(planned, 1e-5), rel=1e-12)


def test_more_survivors_than_planned_cost_less_and_fewer_cost_more():
    planned = [Repeated(EVENT, 200)]
    reference = rdp_epsilon(planned, 1e-5)
    for noise, cheaper in ((1.2, True), (0.9, False)):
        running = RdpFilter.committed(planned, 1e-5)
        running.spend(EVENT, 100)
        running.spend(PoissonGaussianRelease(0.05, noise), 100)
        assert (running.epsilon() < reference) is cheaper


def test_several_orders_pay_for_choosing_among_them():
    """A union bound over k orders is the single-order figure at delta / k."""
    order = committed_order([Repeated(EVENT, 200)], 1e-5)
    several = RdpFilter(1e-5, (2.0, order, 60.0))
    several.spend(EVENT, 200)
    alone = rdp_epsilon([Repeated(EVENT, 200)], 1e-5 / 3, orders=(order,))
    assert several.epsilon() == pytest.approx(alone, rel=1e-12)
    assert several.epsilon() > rdp_epsilon([Repeated(EVENT, 200)], 1e-5)


def test_the_filter_stops_before_it_overspends():
    budget = Budget(3.0, 1e-5)
    running = RdpFilter.committed([Repeated(EVENT, 41)], 1e-5)
    rounds = 0
    while not running.would_exceed(EVENT, budget):
        running.spend(EVENT)
        rounds += 1
    assert rounds == 41
    assert running.epsilon() <= 3.0


def test_nothing_spent_is_zero_and_counts_are_checked():
    running = RdpFilter(1e-5)
    assert running.epsilon() == 0.0
    with pytest.raises(InvalidPrivacyParameter):
        running.spend(EVENT, 0)
    assert committed_order([], 1e-5) == RDP_ORDERS[0]
