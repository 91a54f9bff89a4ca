r"""Renyi divergences of the integer mechanisms themselves: no step through continuous noise.

The certified figure prices discrete Gaussian shares as a continuous Gaussian, by an argument of our
own (docs/proofs/discrete-gaussian.md). The bounds here do without it, for those who doubt it, at 9
to 15 % more epsilon: published divergences of the noise, at whole orders, put through a formula for
Poisson sampling.

* One discrete Gaussian of parameter S, shifted by an integer vector of norm D2:
  a D2^2 / (2 S^2) (Canonne, Kamath and Steinke 2020, Proposition 5).
* A sum of them: Kairouz, Liu and Steinke (2021, Theorem 1), a / 2 (D2 / S + tau sqrt(d))^2. Or from
  a log ratio of at most tau per coordinate to one discrete Gaussian, which costs
  (2 a - 1) / (a - 1) tau d. The smaller counts.
* Skellam noise: Agarwal, Kairouz and Liu (2021, Theorem 3.5).
* Sampling: with symmetric noise, removal has the binomial sum in closed form, and addition is never
  larger (Mironov, Talwar and Zhang 2019, Theorem 5: reflection at half the shift swaps the two laws
  and is a bijection of the integers). For any mechanism at all: Zhu and Wang (2019, Theorem 6),
  where all terms from the third on count three times.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from accounting.adversaries import Adversary, ReleaseSchedule
from accounting.errors import UnsupportedMechanism
from accounting.events import GroupPoissonGaussianRelease, PoissonGaussianRelease
from accounting.noise_shares import GridNoise
from accounting.rdp import RDP_ORDERS, epsilon_at_order
from accounting.units import require_delta

Array: TypeAlias = NDArray[np.float64]
Divergence: TypeAlias = Callable[[Array], Array]
"""Orders -> Renyi divergences of one release of one unsampled record, same shape."""

WHOLE_ORDERS: tuple[int, ...] = (
    *range(2, 65),
    *(72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024),
)
_TRIPLED_FROM = 3


def shares_divergence(noise: GridNoise, honest: int) -> Divergence:
    """Return the divergences of a sum that holds `honest` unknown discrete Gaussian shares.

    Args:
        noise: the grid; its `smoothing_steps` is just noise here, no part of an argument.
        honest: shares that the adversary cannot subtract, in [1, cohort].
    """
    stddev = noise.sum_stddev_steps(honest)
    ratio, tau, dimension = noise.sensitivity_steps / stddev, noise.tau, noise.dimension

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
        l2_steps: largest L2 norm of one record's integer vector. Its L1 norm is then at most
            l2_steps * min(sqrt(dimension), l2_steps), whole numbers being at most their squares.
        dimension: coordinates, >= 1.
    """
    l1_steps = l2_steps * min(math.sqrt(dimension), l2_steps)

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

    The sampler's own error is booked as for the certified figure: it concerns how noise is drawn,
    not how it is priced.

    Args:
        schedule: with a `GridNoise`.
        adversary: whose view.
        delta: failure probability, in (0, 1).

    Raises:
        InvalidPrivacyParameter: `delta` is not in (0, 1).
        UnsupportedMechanism: the schedule has no discrete noise.
    """
    noise = schedule.noise
    if not isinstance(noise, GridNoise):
        raise UnsupportedMechanism(schedule.mode, "only a schedule with GridNoise is discrete")
    honest = noise.threshold
    if adversary is Adversary.COALITION:
        honest -= noise.colluders
    elif adversary is Adversary.NO_SECAGG:
        honest = 1
    (spend,) = schedule.view(adversary)
    event = spend.event
    if isinstance(event, GroupPoissonGaussianRelease):
        raise UnsupportedMechanism(event, "integer noise is priced for single records only")
    rate = event.sample_rate if isinstance(event, PoissonGaussianRelease) else 1.0
    one = shares_divergence(noise, honest)
    orders: Sequence[float] = WHOLE_ORDERS
    if rate == 1:
        orders, divergences = RDP_ORDERS, one(np.array(RDP_ORDERS))
    else:
        divergences = sampled_symmetric(one, rate)
    return noise.slack.price(
        lambda share: best_order_epsilon(divergences, spend.count, share, orders), delta
    )
