"""From a target budget to the least noise that meets it, with a certificate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accounting.accountants import Accounting
from accounting.errors import CalibrationFailed, InvalidPrivacyParameter
from accounting.events import Repeated
from accounting.pld import pld_epsilon, quick_interval
from accounting.rdp import WHOLE_ORDERS, rdp_epsilon
from accounting.units import Budget

SMALLEST_NOISE_MULTIPLIER = 0.05
LARGEST_NOISE_MULTIPLIER = 1e5
_COARSE_STEPS = 40
_NUDGES = 60

Price = Callable[[float], float]
"""Noise multiplier -> epsilon."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The noise found, and the two evaluations that show it is neither too small nor wasteful.

    Attributes:
        noise_multiplier: the answer.
        epsilon: certified epsilon at the answer, <= target.
        target: the epsilon that was asked for.
        delta: the delta of all three epsilons.
        epsilon_just_below: certified epsilon at noise_multiplier * (1 - tolerance), > target.
        tolerance: relative width of that bracket.
    """

    noise_multiplier: float
    epsilon: float
    target: float
    delta: float
    epsilon_just_below: float
    tolerance: float


def calibrate_noise_multiplier(
    schedule: Callable[[float], Sequence[Repeated]],
    budget: Budget,
    *,
    tolerance: float = 1e-3,
    accounting: Accounting = Accounting.REDUCTION,
) -> Certificate:
    """Return the smallest noise multiplier, to `tolerance`, whose releases fit the budget.

    A coarse PLD grid finds the neighbourhood by false position on log epsilon against log noise;
    the fine grid then certifies, nudging the answer up until it fits and its neighbour does not.
    Under `Accounting.RDP` the Renyi bound does both.

    Args:
        schedule: noise multiplier -> everything released on one record. Epsilon must fall as the
            noise grows.
        budget: the target; finite epsilon.
        tolerance: relative precision of the answer, in (0, 0.1].
        accounting: which figure certifies.

    Raises:
        InvalidPrivacyParameter: the budget is infinite, or the tolerance out of range.
        CalibrationFailed: no noise multiplier in [0.05, 1e5] meets the target, or all of them do.
    """
    if not math.isfinite(budget.epsilon):
        raise InvalidPrivacyParameter("epsilon", budget.epsilon, "calibrate to a finite target")
    if not 0 < tolerance <= 0.1:  # noqa: PLR2004
        raise InvalidPrivacyParameter("tolerance", tolerance, "give a number in (0, 0.1]")
    by_rdp = accounting is Accounting.RDP

    def quick(noise: float) -> float:
        return (rdp_epsilon if by_rdp else _quick_pld)(schedule(noise), budget.delta)

    def certified(noise: float) -> float:
        return (rdp_epsilon if by_rdp else pld_epsilon)(schedule(noise), budget.delta)

    return _certify(certified, budget, tolerance, _search(quick, budget, tolerance))


def _quick_pld(spends: Sequence[Repeated], delta: float) -> float:
    interval = quick_interval(spends, rdp_epsilon(spends, delta, orders=WHOLE_ORDERS))
    return pld_epsilon(spends, delta, interval=interval, orders=WHOLE_ORDERS)


def _search(price: Price, budget: Budget, tolerance: float) -> float:
    """Return a noise multiplier near the answer, by a quick price."""

    def excess(log_noise: float) -> float:
        epsilon = price(math.exp(log_noise))
        return math.log(max(epsilon, 1e-12) / budget.epsilon)

    low, high, low_excess, high_excess = _bracket(excess, budget.epsilon)
    side = 0
    for _ in range(_COARSE_STEPS):
        if high - low <= tolerance / 4:
            break
        middle = (low * high_excess - high * low_excess) / (high_excess - low_excess)
        margin = tolerance / 16
        middle = min(max(middle, low + margin), high - margin)
        value = excess(middle)
        if abs(value) <= tolerance / 8:
            return math.exp(middle)
        # The Illinois rule: an end that stays twice in a row counts half, so that both ends move.
        if value > 0:
            low, low_excess = middle, value
            high_excess = high_excess / 2 if side > 0 else high_excess
            side = 1
        else:
            high, high_excess = middle, value
            low_excess = low_excess / 2 if side < 0 else low_excess
            side = -1
    return math.exp(high)


def _bracket(excess: Callable[[float], float], target: float) -> tuple[float, float, float, float]:
    """Return log noise below and above the answer, with their excesses, by growing steps from 1."""
    floor, ceiling = math.log(SMALLEST_NOISE_MULTIPLIER), math.log(LARGEST_NOISE_MULTIPLIER)
    low = high = 0.0
    low_excess = high_excess = excess(0.0)
    step = 0.5
    while low_excess <= 0 and low > floor:
        high, high_excess = low, low_excess
        low = max(floor, low - step)
        low_excess = excess(low)
        step *= 2
    while high_excess > 0 and high < ceiling:
        low, low_excess = high, high_excess
        high = min(ceiling, high + step)
        high_excess = excess(high)
        step *= 2
    if low_excess <= 0 or high_excess > 0:
        raise CalibrationFailed(
            (math.exp(low), math.exp(high)),
            (target * math.exp(low_excess), target * math.exp(high_excess)),
            target,
        )
    return low, high, low_excess, high_excess


def _certify(certified: Price, budget: Budget, tolerance: float, start: float) -> Certificate:
    """Walk by the certified price until the answer fits and its neighbour below does not."""
    noise = start * (1 + tolerance / 4)
    epsilon = certified(noise)
    stride = 1
    for _ in range(_NUDGES):
        if epsilon > budget.epsilon:
            noise *= 1 + tolerance / 2
            epsilon = certified(noise)
            continue
        lower = noise * (1 - tolerance) ** stride
        below = certified(lower)
        if below <= budget.epsilon:
            # Where the quick price was far too high, longer strides come down in time.
            noise, epsilon, stride = lower, below, 2 * stride
        elif stride > 1:
            stride //= 2
        else:
            return Certificate(noise, epsilon, budget.epsilon, budget.delta, below, tolerance)
    raise CalibrationFailed((start, noise), (certified(start), epsilon), budget.epsilon)
