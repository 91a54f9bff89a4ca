"""What a run on integers costs by the Renyi divergences of its noise, whoever certifies it.

`integer_divergences` has the bounds and where they come from. A run with `Accounting.RDP` is held
to the same figure; here it is computed for any run on a grid.
"""

from collections.abc import Sequence
from dataclasses import replace

import dp_accounting
from dp_accounting import rdp as dp_rdp

from accounting.accountants import Accounting
from accounting.adversaries import Adversary, ReleaseSchedule
from accounting.errors import UnsupportedMechanism
from accounting.events import DiscreteGaussianSharesRelease, IntegerRelease, Repeated
from accounting.integer_divergences import WHOLE_ORDERS, Array, dominating_gaussian
from accounting.noise_shares import GridNoise
from accounting.rdp import RDP_ORDERS, epsilon_at_order, rdp_epsilon
from accounting.skellam_shares import SkellamNoise
from accounting.units import require_delta


def best_order_epsilon(
    divergences: Array, count: int, delta: float, orders: Sequence[float] = WHOLE_ORDERS
) -> float:
    """Return epsilon of `count` releases with these divergences, by the best order.

    Raises:
        InvalidPrivacyParameter: `delta` is not in (0, 1).
    """
    require_delta(delta)
    return min(
        epsilon_at_order(order, count * float(divergence), delta)
        for order, divergence in zip(orders, divergences, strict=True)
    )


def unconditional_epsilon(schedule: ReleaseSchedule, adversary: Adversary, delta: float) -> float:
    """Return epsilon of a whole run on a grid, without the reduction to continuous noise.

    The sampler's own error is booked as for the reduction: it concerns how noise is drawn, not how
    it is priced.

    Args:
        schedule: with a `GridNoise` or a `SkellamNoise`.
        adversary: whose view.
        delta: failure probability, in (0, 1).

    Raises:
        InvalidPrivacyParameter: `delta` is not in (0, 1).
        UnsupportedMechanism: the schedule has no discrete noise.
    """
    if not isinstance(schedule.noise, GridNoise | SkellamNoise):
        raise UnsupportedMechanism(schedule.mode, "only a schedule on a grid is discrete")
    priced = replace(schedule, accounting=Accounting.RDP)
    spends = priced.view(adversary)
    return priced.slack.price(lambda model: rdp_epsilon(spends, model), delta)


def library_epsilon(schedule: ReleaseSchedule, spends: Sequence[Repeated], delta: float) -> float:
    """Price integer releases a second time, by `dp_accounting` alone.

    The library composes, samples and converts the Gaussian of `dominating_gaussian`, at the same
    orders. Its figure is an upper bound too, and on grids as fine as ours the same to 1e-4: a
    certified figure that differs from it by more is wrong.

    Args:
        schedule: whose slack is added, as to the certified figure.
        spends: integer releases on one record.
        delta: failure probability, in (0, 1).

    Raises:
        UnsupportedMechanism: an event without integer noise.
    """

    def model(share: float) -> float:
        accountant = dp_rdp.RdpAccountant(
            _orders(spends), dp_accounting.NeighboringRelation.REPLACE_SPECIAL
        )
        for spend in spends:
            if not isinstance(spend.event, IntegerRelease):
                raise UnsupportedMechanism(spend.event, "only integer releases are priced here")
            dominating = dominating_gaussian(spend.event)
            gaussian = dp_accounting.GaussianDpEvent(dominating.noise_multiplier)
            accountant.compose(
                dp_accounting.PoissonSampledDpEvent(dominating.sample_rate, gaussian), spend.count
            )
        return float(accountant.get_epsilon(share))

    return schedule.slack.price(model, delta)


def _orders(spends: Sequence[Repeated]) -> list[float]:
    """Return the orders at which all these releases have bounds."""
    unsampled = all(
        isinstance(spend.event, DiscreteGaussianSharesRelease) and spend.event.sample_rate == 1
        for spend in spends
    )
    return [order for order in RDP_ORDERS if unsampled or order.is_integer()]
