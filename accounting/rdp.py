"""Renyi differential privacy (RDP): the second opinion, and the filter for adaptive noise.

Divergences of the sampled Gaussian come from `dp_accounting` (Mironov, Talwar and Zhang 2019) at a
fixed grid of orders. RDP adds up over releases, one order at a time, and is turned into epsilon by
the conversion of Canonne, Kamath and Steinke (2020, Proposition 12).
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import dp_accounting
import numpy as np
from dp_accounting import rdp as dp_rdp
from numpy.typing import NDArray
from scipy import stats

from accounting.errors import UnsupportedAdjacency
from accounting.events import (
    CappedPoissonGaussianRelease,
    DiscreteGaussianSharesRelease,
    Event,
    GaussianRelease,
    GroupPoissonGaussianRelease,
    PoissonGaussianRelease,
    Repeated,
    SkellamRelease,
    UnprotectedRelease,
)
from accounting.integer_divergences import integer_divergences
from accounting.mixture import renyi_divergences_of, sampled_group, sampled_replacement
from accounting.units import Adjacency, Budget, require_delta

RDP_ORDERS: tuple[float, ...] = (
    *(1 + step / 10 for step in range(1, 100)),
    *(float(order) for order in range(11, 64)),
    *(72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 256.0, 384.0, 512.0, 768.0, 1024.0),
)
WHOLE_ORDERS = tuple(order for order in RDP_ORDERS if order.is_integer())
"""Five times as fast: only fractional orders of a sampled release need a series."""
_SMALLEST_AMPLIFIED_NOISE = 0.02  # below it sampling helps no order, and the series overflow
_CACHED_EVENTS = 20_000


def rdp_epsilon(
    spends: Sequence[Repeated],
    delta: float,
    *,
    adjacency: Adjacency = Adjacency.ZERO_OUT,
    orders: tuple[float, ...] = RDP_ORDERS,
) -> float:
    """Return an upper bound on epsilon of everything in `spends`, by RDP.

    Args:
        spends: what was released on one record; an empty sequence costs nothing.
        delta: failure probability, in (0, 1).
        adjacency: must be zero-out.
        orders: Renyi orders to minimise over, each > 1, fixed before any data is seen.

    Raises:
        InvalidPrivacyParameter: `delta` is not in (0, 1).
        UnsupportedAdjacency: replace-one; the available formulas bound the zero-out sensitivity,
            so their result would be too small by a factor of two in the noise.
    """
    require_delta(delta)
    refuse_replace_one(adjacency)
    total = np.zeros(len(orders))
    for spend in spends:
        total += spend.count * renyi_divergences(spend.event, orders)
    return _to_epsilon(orders, total, delta)[0]


def refuse_replace_one(adjacency: Adjacency) -> None:
    """Raise `UnsupportedAdjacency` unless `adjacency` is zero-out."""
    if adjacency is not Adjacency.ZERO_OUT:
        raise UnsupportedAdjacency(
            "RDP", adjacency, "use the PLD accountant, or zero-out adjacency"
        )


@lru_cache(maxsize=_CACHED_EVENTS)
def renyi_divergences(event: Event, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the Renyi divergence of one release at each order; read-only, shape (orders,).

    Whole orders are exact. At fractional orders the library adds the terms of an alternating series
    by their absolute values, which gives an upper bound a percent or so too large. An order at
    which the series does not converge is reported as infinite, hence never used; so is an order at
    which an integer release has no bound.
    """
    match event:
        case UnprotectedRelease():
            divergences = np.full(len(orders), math.inf)
        case PoissonGaussianRelease() if (
            event.sample_rate < 1 and event.noise_multiplier >= _SMALLEST_AMPLIFIED_NOISE
        ):
            divergences = _sampled(event, orders)
        case PoissonGaussianRelease() | GaussianRelease():
            divergences = np.array(orders) / (2 * event.noise_multiplier**2)
        case GroupPoissonGaussianRelease():
            pair = sampled_group(event.group_size, event.sample_rate, event.noise_multiplier)
            divergences = renyi_divergences_of(pair, orders)
        case CappedPoissonGaussianRelease():
            divergences = _capped(event, orders)
        case DiscreteGaussianSharesRelease() | SkellamRelease():
            divergences = integer_divergences(event, orders)
    divergences.setflags(write=False)
    return divergences


def _sampled(event: PoissonGaussianRelease, orders: tuple[float, ...]) -> NDArray[np.float64]:
    accountant = dp_rdp.RdpAccountant(
        list(orders), dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    with without_convergence_warnings():
        accountant.compose(
            dp_accounting.PoissonSampledDpEvent(
                event.sample_rate, dp_accounting.GaussianDpEvent(event.noise_multiplier)
            )
        )
    return np.asarray(accountant.rdp, dtype=np.float64)


def _capped(event: CappedPoissonGaussianRelease, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Mix, as if the adversary saw which, a plain sample with one where the cap replaces records.

    `cut` is the probability that the other records alone fill the batch; given that and given that
    the record is drawn, it takes the place of another one (Ganesh 2025, Section 4.3).
    """
    size, rate, cap = event.dataset_size, event.sample_rate, event.batch_cap
    plain = renyi_divergences(PoissonGaussianRelease(rate, event.noise_multiplier), orders)
    cut = float(stats.binom.sf(cap - 1, size - 1, rate))
    if cut == 0:
        return plain.copy()
    drawn = float(stats.binom.sf(cap, size, rate)) * cap / cut / size
    pair = sampled_replacement(drawn, event.noise_multiplier / 2)
    replaced = renyi_divergences_of(pair, orders)
    factor = np.array(orders) - 1
    mixed = np.logaddexp(math.log1p(-cut) + factor * plain, math.log(cut) + factor * replaced)
    return np.asarray(mixed / factor)


class RdpFilter:
    """Running total of releases whose noise may depend on what happened before.

    PLD composition needs all mechanisms fixed in advance. At ONE Renyi order fixed in advance,
    stopping before the total exceeds a bound is valid even when each next mechanism is chosen
    after seeing the previous outputs (Feldman and Zrnic 2021). With several orders, whichever is
    best afterwards, the failure probability is split evenly among them (a union bound), so a
    single order is the cheapest: see `committed`.

    Args:
        delta: failure probability of the reported epsilon, in (0, 1).
        orders: Renyi orders, fixed before the first release.
    """

    def __init__(self, delta: float, orders: Sequence[float] = (2.0, 4.0, 8.0, 16.0, 32.0)) -> None:
        self._orders = tuple(float(order) for order in orders)
        self._delta = require_delta(delta) / len(self._orders)
        self._total = np.zeros(len(self._orders))

    @classmethod
    def committed(cls, planned: Sequence[Repeated], delta: float) -> "RdpFilter":
        """Return a filter at the one order that is best for the planned releases."""
        return cls(delta, (committed_order(planned, delta),))

    @property
    def orders(self) -> tuple[float, ...]:
        """The orders this filter was committed to."""
        return self._orders

    def spend(self, event: Event, count: int = 1) -> None:
        """Add `count` releases of `event`."""
        self._total = self._total + Repeated(event, count).count * renyi_divergences(
            event, self._orders
        )

    def would_exceed(self, event: Event, budget: Budget) -> bool:
        """Return whether one more release of `event` would bring epsilon above the budget.

        The budget's own delta decides, split over the orders as everywhere in this class.
        """
        after = self._total + renyi_divergences(event, self._orders)
        share = budget.delta / len(self._orders)
        return _to_epsilon(self._orders, after, share)[0] > budget.epsilon

    def epsilon(self) -> float:
        """Return epsilon of what was spent so far, at the delta of this filter."""
        return _to_epsilon(self._orders, self._total, self._delta)[0]


def committed_order(
    planned: Sequence[Repeated], delta: float, orders: tuple[float, ...] = RDP_ORDERS
) -> float:
    """Return the order that gives the smallest epsilon for the planned releases.

    It depends on the plan alone, so it may be fixed before the run begins.
    """
    total = np.zeros(len(orders))
    for spend in planned:
        total += spend.count * renyi_divergences(spend.event, orders)
    return _to_epsilon(orders, total, require_delta(delta))[1]


def epsilon_at_order(order: float, divergence: float, delta: float) -> float:
    """Return epsilon implied by one Renyi divergence at one order."""
    return _to_epsilon((order,), np.array([divergence]), require_delta(delta))[0]


def _to_epsilon(
    orders: Sequence[float], divergences: NDArray[np.float64], delta: float
) -> tuple[float, float]:
    """Return (epsilon, best order) by Canonne, Kamath and Steinke (2020, Proposition 12)."""
    if not np.any(divergences):
        return 0.0, orders[0]
    order = np.asarray(orders)
    epsilon = divergences + np.log1p(-1 / order) - (math.log(delta) + np.log(order)) / (order - 1)
    best = int(np.argmin(epsilon))
    return max(0.0, float(epsilon[best])), float(order[best])


@contextmanager
def without_convergence_warnings() -> Iterator[None]:
    """Silence one library warning: an order that does not converge is excluded anyway."""

    def keep(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
