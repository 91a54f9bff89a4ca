r"""One-dimensional Gaussian mixtures: divergences that no closed form covers.

A person with up to k sampled pairs shifts a sum by 0, 1, ... k clip norms, with binomial weights;
a capped batch lets one record move another out. Both are pairs of mixtures of N(shift, z^2), and
everything about them follows from the privacy loss L(x) = log p(x) - log q(x), which is increasing
in x for the pairs made here. Hockey-stick divergences come from its inverse, a closed form where
one record alone shifts the sum and Newton steps elsewhere; Renyi divergences come from the
trapezoidal rule, which converges geometrically for such analytic integrands (Trefethen and
Weideman 2014).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]
_TAIL_STDDEVS = 12.0
_NEGLIGIBLE_MASS = 1e-22
_END_BISECTIONS = 40
_CHUNK = 1 << 16
_NEWTON_STEPS = 40
# Deltas are stationary in x at the exact inverse, so this precision is squared in them.
_NEWTON_PRECISION = 1e-10
_STEPS_PER_SCALE = 6.0
_LARGEST_TABLE = 200_000


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture of unit-separated Gaussians with one standard deviation.

    Attributes:
        shifts: means, ascending, in clip norms.
        weights: their probabilities, > 0, adding up to 1.
        noise: standard deviation of every part, > 0, in clip norms.
    """

    shifts: tuple[float, ...]
    weights: tuple[float, ...]
    noise: float

    def log_density(self, x: Array) -> Array:
        """Return log density up to the constant log(noise sqrt(2 pi)), same shape as `x`."""
        log_weights = np.log(self.weights)
        parts = [
            log_weight - ((x - shift) / self.noise) ** 2 / 2
            for shift, log_weight in zip(self.shifts, log_weights, strict=True)
        ]
        return np.asarray(special.logsumexp(np.stack(parts), axis=0))

    def mean_of(self, x: Array) -> Array:
        """Return the expected shift given that `x` was seen, same shape as `x`."""
        shifts = np.asarray(self.shifts).reshape((-1,) + (1,) * x.ndim)
        log_weights = np.log(self.weights).reshape(shifts.shape)
        exponents = log_weights - ((x - shifts) / self.noise) ** 2 / 2
        return np.asarray((special.softmax(exponents, axis=0) * shifts).sum(axis=0))

    def survival(self, x: Array) -> Array:
        """Return P[X > x], same shape as `x`."""
        return np.exp(self.log_survival(x))

    def cumulative(self, x: Array) -> Array:
        """Return P[X <= x], same shape as `x`."""
        return np.exp(self.log_cumulative(x))

    def log_survival(self, x: Array) -> Array:
        """Return log P[X > x], same shape as `x`; exact where the probability underflows."""
        return self._log_tail(x, -1.0)

    def log_cumulative(self, x: Array) -> Array:
        """Return log P[X <= x], same shape as `x`; exact where the probability underflows."""
        return self._log_tail(x, 1.0)

    def _log_tail(self, x: Array, sign: float) -> Array:
        total: Array = np.full(x.shape, -math.inf)
        for shift, weight in zip(self.shifts, self.weights, strict=True):
            part = special.log_ndtr(sign * (x - shift) / self.noise) + math.log(weight)
            total = np.logaddexp(total, part)
        return total


def sampled_group(group_size: int, sample_rate: float, noise: float) -> tuple[Mixture, Mixture]:
    """Return (with, without) a person whose `group_size` pairs are sampled independently.

    The worst case is that all of the person's gradients are equal, so the sum is shifted by
    Bin(group_size, sample_rate) clip norms (Choquette-Choo et al. 2024).
    """
    counts = np.arange(group_size + 1)
    weights = stats.binom.pmf(counts, group_size, sample_rate)
    kept = weights > 0
    present = Mixture(tuple(map(float, counts[kept])), tuple(map(float, weights[kept])), noise)
    return present, Mixture((0.0,), (1.0,), noise)


def sampled_replacement(sample_rate: float, noise: float) -> tuple[Mixture, Mixture]:
    """Return the two outputs when a sampled record is replaced by its opposite."""
    if sample_rate >= 1:
        return Mixture((1.0,), (1.0,), noise), Mixture((-1.0,), (1.0,), noise)
    weights = (1 - sample_rate, sample_rate)
    return Mixture((0.0, 1.0), weights, noise), Mixture((-1.0, 0.0), weights[::-1], noise)


def loss(pair: tuple[Mixture, Mixture], x: Array) -> Array:
    """Return the privacy loss log p(x) - log q(x), same shape as `x`."""
    return pair[0].log_density(x) - pair[1].log_density(x)


def hockey_sticks(pair: tuple[Mixture, Mixture], interval: float) -> tuple[int, Array, int, Array]:
    """Return delta of both directions on the grid of all relevant epsilons.

    Losses that occur with probability below 1e-22 are beyond the grid's ends; the deltas at the
    ends account for them.

    Args:
        pair: with and without the person; the privacy loss must increase in x.
        interval: step of the grid of epsilons.

    Returns:
        (first index, deltas) for p against q, then (first index, deltas) for q against p. Index i
        stands for epsilon = i * interval; deltas have shape [grid], and never increase.
    """
    p, q = pair
    ends = np.array([_end(pair, upper=False), _end(pair, upper=True)])
    low, high = loss(pair, ends)
    first, last = math.floor(low / interval), math.ceil(high / interval)
    forward, backward = np.empty(last - first + 1), np.empty(last - first + 1)
    for start in range(0, forward.size, _CHUNK):
        part = slice(start, min(start + _CHUNK, forward.size))
        epsilon = np.arange(first + part.start, first + part.stop) * interval
        x = _inverse_loss(pair, epsilon, ends)
        forward[part] = p.survival(x) - np.exp(epsilon + q.log_survival(x))
        backward[part] = q.cumulative(x) - np.exp(p.log_cumulative(x) - epsilon)
    # The backward deltas belong to -epsilon; read from the end they ascend again.
    return first, _as_deltas(forward), -last, _as_deltas(backward[::-1])


def _end(pair: tuple[Mixture, Mixture], *, upper: bool) -> float:
    """Return where the tail of both mixtures falls below the negligible mass."""
    shifts = (*pair[0].shifts, *pair[1].shifts)
    reach = _TAIL_STDDEVS * pair[0].noise
    inner, outer = (min(shifts) - reach, max(shifts) + reach)
    if not upper:
        inner, outer = outer, inner
    for _ in range(_END_BISECTIONS):
        middle = np.array([(inner + outer) / 2])
        tails = [m.survival(middle) if upper else m.cumulative(middle) for m in pair]
        if max(float(tail[0]) for tail in tails) > _NEGLIGIBLE_MASS:
            inner = float(middle[0])
        else:
            outer = float(middle[0])
    return outer


def renyi_divergences_of(
    pair: tuple[Mixture, Mixture], orders: Sequence[float]
) -> NDArray[np.float64]:
    """Return the larger Renyi divergence of the two directions at each order > 1, shape [orders].

    Infinite at orders whose integrand reaches too far for a table: a valid, useless bound.
    """
    p, q = pair
    spread = max(p.shifts[-1], 0.0) - min(q.shifts[0], 0.0)
    step = min(p.noise, p.noise**2 / spread) / _STEPS_PER_SCALE
    reaches = np.array([(order + 1) * spread + _TAIL_STDDEVS * p.noise for order in orders])
    points = np.ceil(reaches / step).astype(int)
    half = int(min(points.max(), _LARGEST_TABLE))
    x: Array = np.arange(-half, half + 1, dtype=np.float64) * step
    log_p, log_q = p.log_density(x), q.log_density(x)
    constant = math.log(step) - math.log(p.noise * math.sqrt(2 * math.pi))
    divergences = np.full(len(orders), math.inf)
    for index, (order, count) in enumerate(zip(orders, points, strict=True)):
        if count > half:
            continue
        near = slice(half - count, half + count + 1)
        left, right = log_p[near], log_q[near]
        moments = [
            _log_sum(order * left + (1 - order) * right),
            _log_sum(order * right + (1 - order) * left),
        ]
        divergences[index] = max(0.0, (max(moments) + constant) / (order - 1))
    return divergences


def _log_sum(exponents: Array) -> float:
    highest = float(exponents.max())
    return highest + math.log(float(np.exp(exponents - highest).sum()))


def _inverse_loss(pair: tuple[Mixture, Mixture], epsilon: Array, ends: Array) -> Array:
    """Return x with loss(x) = epsilon, by Newton steps kept inside a shrinking bracket."""
    p, q = pair
    if q.shifts == (0.0,) and p.shifts in ((1.0,), (0.0, 1.0)):
        return _inverse_loss_of_one(p.weights[-1], p.noise, epsilon)
    low = np.full(epsilon.shape, ends[0])
    high = np.full(epsilon.shape, ends[1])
    table = np.linspace(ends[0], ends[1], 4097)
    x = np.interp(epsilon, loss(pair, table), table)
    for _ in range(_NEWTON_STEPS):
        excess = loss(pair, x) - epsilon
        low = np.where(excess < 0, x, low)
        high = np.where(excess > 0, x, high)
        slope = (p.mean_of(x) - q.mean_of(x)) / p.noise**2
        with np.errstate(divide="ignore", invalid="ignore"):
            guess = x - excess / slope
        inside = (guess > low) & (guess < high)
        moved = np.where(inside, guess, (low + high) / 2)
        moved = np.where(excess == 0, x, moved)
        if np.all(np.abs(moved - x) <= _NEWTON_PRECISION * p.noise):
            return moved
        x = moved
    return x


def _inverse_loss_of_one(sample_rate: float, noise: float, epsilon: Array) -> Array:
    """Return x with log(1 - q + q exp((2 x - 1) / (2 z^2))) = epsilon, -inf where none has."""
    if sample_rate == 1:
        return np.asarray(noise**2 * epsilon + 0.5)
    # Near zero 1 - q and exp(epsilon) nearly cancel; far above, the exponential overflows.
    near, far = np.minimum(epsilon, 1.0), np.maximum(epsilon, 1.0)
    with np.errstate(divide="ignore"):
        low = np.log1p(np.maximum(np.expm1(near) / sample_rate, -1.0))
    high = far + np.log1p((sample_rate - 1) * np.exp(-far)) - math.log(sample_rate)
    return np.asarray(noise**2 * np.where(epsilon < 1, low, high) + 0.5)


def _as_deltas(values: Array) -> Array:
    return np.maximum.accumulate(np.clip(values, 0.0, 1.0)[::-1])[::-1]
