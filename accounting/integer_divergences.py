r"""Renyi divergences of the integer mechanisms themselves: no step through continuous noise.

The default accounting prices discrete Gaussian shares as a continuous Gaussian, by an argument of
our own (docs/proofs/discrete-gaussian.md). The bounds here do without it: published divergences of
the noise, put through a formula for Poisson sampling. They cost 9 to 15 % more epsilon.

* One discrete Gaussian of parameter S, shifted by an integer vector of norm D2:
  a D2^2 / (2 S^2) (Canonne, Kamath and Steinke 2020, Proposition 5).
* A sum of them: Kairouz, Liu and Steinke (2021, Theorem 1), a / 2 (D2 / S + tau sqrt(d))^2. Or from
  a log ratio of at most tau per coordinate to one discrete Gaussian, which costs
  (2 a - 1) / (a - 1) tau d. The smaller counts.
* Skellam noise: Agarwal, Kairouz and Liu (2021, Theorem 3.5), at whole orders.
* Sampling, at whole orders: with symmetric noise, removal has the binomial sum in closed form, and
  addition is never larger (Mironov, Talwar and Zhang 2019, Theorem 5: reflection at half the shift
  swaps the two laws and is a bijection of the integers). For any mechanism at all: Zhu and Wang
  (2019, Theorem 6), where all terms from the third on count three times.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from accounting.events import DiscreteGaussianSharesRelease, IntegerRelease, PoissonGaussianRelease

Array: TypeAlias = NDArray[np.float64]
Divergence: TypeAlias = Callable[[Array], Array]
"""Orders -> Renyi divergences of one release of one unsampled record, same shape."""

WHOLE_ORDERS: tuple[int, ...] = (
    *range(2, 65),
    *(72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024),
)
_TRIPLED_FROM = 3


def integer_divergences(event: IntegerRelease, orders: Sequence[float]) -> Array:
    """Return the divergences of one release, both directions, shape [orders].

    Infinite at every order for which no bound is known: fractional ones, except for unsampled
    discrete Gaussians.
    """
    one = unsampled_divergence(event)
    if event.sample_rate == 1 and isinstance(event, DiscreteGaussianSharesRelease):
        return one(np.array(orders, dtype=np.float64))
    found = np.full(len(orders), math.inf)
    whole = [index for index, order in enumerate(orders) if float(order).is_integer()]
    if whole:
        found[whole] = sampled_symmetric(
            one, event.sample_rate, [int(orders[index]) for index in whole]
        )
    return found


def unsampled_divergence(event: IntegerRelease) -> Divergence:
    """Return the divergences of one release of a record that is always drawn."""
    if isinstance(event, DiscreteGaussianSharesRelease):
        return shares_divergence(
            event.share_stddev_steps, event.shares, event.sensitivity_steps, event.dimension
        )
    return skellam_divergence(float(event.variance_steps), event.sensitivity_steps, event.dimension)


def dominating_gaussian(event: IntegerRelease) -> PoissonGaussianRelease:
    """Return the continuous release whose divergences, at whole orders, are never smaller.

    It is no step of a proof that the integer noise is private: it only bounds the same published
    divergences by a multiple of the order, so that a library can price them a second time. For
    Skellam noise of variance V, and at orders a >= 2, ((2a - 1) D2^2 + 6 D1) / (4 V^2) is at most
    a / 2 (D2^2 + 3/2 D1) / V^2, and 3 D1 / (2 V) at most a / 2 * 3 D1 / (2 V).
    """
    if isinstance(event, DiscreteGaussianSharesRelease):
        ratio = event.sensitivity_steps / (event.share_stddev_steps * math.sqrt(event.shares))
        tau = convolution_tau(event.share_stddev_steps, event.shares)
        inverse = ratio + tau * math.sqrt(event.dimension)
    else:
        variance, l2_steps = float(event.variance_steps), event.sensitivity_steps
        l1_steps = largest_l1_steps(l2_steps, event.dimension)
        fine = min((l2_steps**2 + 1.5 * l1_steps) / variance**2, 1.5 * l1_steps / variance)
        inverse = math.sqrt(l2_steps**2 / variance + fine)
    return PoissonGaussianRelease(event.sample_rate, 1 / inverse)


def convolution_tau(share_stddev_steps: float, shares: int) -> float:
    """Return the log ratio of a sum of discrete Gaussians to one of them, per coordinate.

    tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 s^2 k / (k + 1)); Kairouz, Liu and Steinke (2021, Theorem
    9).
    """
    exponent = -2 * (math.pi * share_stddev_steps) ** 2
    return 10 * math.fsum(math.exp(exponent * k / (k + 1)) for k in range(1, shares))


def largest_l1_steps(l2_steps: float, dimension: int) -> float:
    """Return the largest L1 norm of an integer vector of this L2 norm.

    l2_steps * min(sqrt(dimension), l2_steps), whole numbers being at most their squares.
    """
    return l2_steps * min(math.sqrt(dimension), l2_steps)


def shares_divergence(
    share_stddev_steps: float, shares: int, l2_steps: float, dimension: int
) -> Divergence:
    """Return the divergences of a sum of discrete Gaussian shares.

    Args:
        share_stddev_steps: parameter of one share, in grid steps, > 0.
        shares: how many the adversary cannot subtract, >= 1.
        l2_steps: largest L2 norm of one record's integer vector.
        dimension: coordinates, >= 1.
    """
    ratio = l2_steps / (share_stddev_steps * math.sqrt(shares))
    tau = convolution_tau(share_stddev_steps, shares)

    def divergences(orders: Array) -> Array:
        pointwise = orders / 2 * ratio**2 + (2 * orders - 1) / (orders - 1) * tau * dimension
        concentrated = orders / 2 * (ratio + tau * math.sqrt(dimension)) ** 2
        return np.minimum(pointwise, concentrated)

    return divergences


def skellam_divergence(variance: float, l2_steps: float, dimension: int) -> Divergence:
    """Return the divergences of symmetric Skellam noise; valid at whole orders > 1.

    Args:
        variance: of the honest noise on the sum, in squared grid steps, > 0; Skellam shares add up
            exactly, so it is the sum of theirs.
        l2_steps: largest L2 norm of one record's integer vector; it bounds the L1 norm too, see
            `largest_l1_steps`.
        dimension: coordinates, >= 1.
    """
    l1_steps = largest_l1_steps(l2_steps, dimension)

    def divergences(orders: Array) -> Array:
        gaussian = orders * l2_steps**2 / (2 * variance)
        fine = ((2 * orders - 1) * l2_steps**2 + 6 * l1_steps) / (4 * variance**2)
        return gaussian + np.minimum(fine, 3 * l1_steps / (2 * variance))

    return divergences


def sampled_symmetric(
    divergence: Divergence, sample_rate: float, orders: Sequence[int] = WHOLE_ORDERS
) -> Array:
    """Return divergences under Poisson sampling, for additive noise symmetric around 0.

    Args:
        divergence: of the unsampled release, for every shift that one record can cause.
        sample_rate: in (0, 1].
        orders: whole numbers >= 2.

    Returns:
        Upper bounds on both directions, shape [orders].
    """
    return _sampled(divergence, sample_rate, orders, heavy=1.0)


def sampled_generic(
    divergence: Divergence, sample_rate: float, orders: Sequence[int] = WHOLE_ORDERS
) -> Array:
    """Return divergences under Poisson sampling for any mechanism; arguments as above."""
    return _sampled(divergence, sample_rate, orders, heavy=3.0)


def _sampled(
    divergence: Divergence, sample_rate: float, orders: Sequence[int], *, heavy: float
) -> Array:
    drawn: Array = np.arange(2, max(orders) + 1, dtype=np.float64)
    # Counts 0 and 1 have moment 1: no divergence is defined there, and none is needed.
    log_moments = np.concatenate([np.zeros(2), (drawn - 1) * divergence(drawn)])
    log_weight = np.where(np.arange(max(orders) + 1) < _TRIPLED_FROM, 0.0, math.log(heavy))
    found = np.empty(len(orders))
    for index, order in enumerate(orders):
        counts = np.arange(order + 1)
        log_binomial = (
            special.gammaln(order + 1)
            - special.gammaln(counts + 1)
            - special.gammaln(order - counts + 1)
            + special.xlogy(counts, sample_rate)
            + special.xlog1py(order - counts, -sample_rate)
        )
        terms = log_binomial + log_moments[: order + 1] + log_weight[: order + 1]
        found[index] = max(0.0, float(special.logsumexp(terms))) / (order - 1)
    return found
