"""Certified epsilon from privacy-loss distributions (PLD).

The distributions are built and composed by `dp_accounting`, with the connect-the-dots
discretisation (Doroshenko et al. 2022), which is pessimistic: a coarser grid raises epsilon and
never lowers it. Both directions of each dominating pair are kept, and the worse one counts. The
deltas to be connected are computed by `mixture`, all at once; the library computes the same ones
singly.

Cost grows with the width of the distribution over the grid step, so the step follows the size of
epsilon: the grid raises epsilon by a small multiple of (releases) * step^2, and where epsilon is
not small the step is as long as that stays below a hundred-thousandth of it. Beyond
`PLD_CEILING_EPSILON` and `PLD_CEILING_RELEASES` (far outside any useful guarantee) an analytic
bound takes over: still a valid upper bound, just a looser one.

Convolutions are powers of a Fourier transform, and its rounding is spread over all losses, also
where the true mass is far below it. One transform of n numbers is off by 0.6 u sqrt(log2 n) of
their l2 norm, u = 2^-53, in root mean square (Gentleman and Sande 1966; Schatzman 1996, section 3);
the T-th power of numbers of size at most 1 multiplies that by T. Taken as independent, the errors
of all losses above epsilon then add up to at most 0.6 u sqrt(26) (T + 1) for n up to 2^26, with all
mass at one loss, where the norm is largest. `ROUNDING_PER_RELEASE` is five times that, and (T + 1)
of it is taken from delta. Where more than half of delta would go, the smaller of the analytic bound
and RDP is returned, both free of such transforms.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting.pld import pld_pmf, privacy_loss_distribution
from numpy.typing import NDArray

from accounting.closed_form import participation_epsilon, sensitivity_factor
from accounting.errors import UnsupportedMechanism
from accounting.events import (
    CappedPoissonGaussianRelease,
    Event,
    GaussianRelease,
    GroupPoissonGaussianRelease,
    IntegerRelease,
    PoissonGaussianRelease,
    Repeated,
    UnprotectedRelease,
)
from accounting.mixture import Mixture, hockey_sticks, sampled_group
from accounting.rdp import RDP_ORDERS, rdp_epsilon
from accounting.units import Adjacency, require_delta

CERTIFIED_INTERVAL = 1e-4
PLD_CEILING_EPSILON = 20_000.0
PLD_CEILING_RELEASES = 1_000_000
ROUNDING_PER_RELEASE = 2.0**-49
_STEPS_PER_EPSILON = 2e5  # the grid never needs to be finer than epsilon / this
_SMALLEST_ROUGH_EPSILON = 1.0  # below it a rarely sampled release would lose more
_CERTIFIED_ERROR = 1e-6  # (releases) * step^2 over epsilon; the true excess is a few times that
_LARGEST_GRID = 5e5  # points of the distribution of one release
_TAIL_STDDEVS = 10.0
_QUICK_DOUBLINGS = 3  # the quick grid is at most 8 times coarser than the certified one
_QUICK_ERROR = 1e-3
_CACHED_DISTRIBUTIONS = 24
_CACHED_EPSILONS = 4096

_NEIGHBOURS = {
    Adjacency.ZERO_OUT: dp_accounting.NeighboringRelation.REPLACE_SPECIAL,
    Adjacency.REPLACE_ONE: dp_accounting.NeighboringRelation.REPLACE_ONE,
}


def pld_epsilon(
    spends: Sequence[Repeated],
    delta: float,
    *,
    adjacency: Adjacency = Adjacency.ZERO_OUT,
    interval: float = CERTIFIED_INTERVAL,
    orders: tuple[float, ...] = RDP_ORDERS,
) -> float:
    """Return an upper bound on epsilon of everything in `spends`, composed on one record.

    The grid step is `interval`, or larger where that raises epsilon by less than a
    hundred-thousandth of it (or larger still where one release alone has losses over a huge
    range). Compositions without any sampling are priced in closed form. Where both the analytic
    bound of `closed_form` and RDP exceed `PLD_CEILING_EPSILON`, or there are more than
    `PLD_CEILING_RELEASES` releases, or delta is not twice what rounding may hide, the smaller of
    the two is returned instead of a PLD.

    Args:
        spends: what was released; an empty sequence costs nothing.
        delta: failure probability, in (0, 1).
        adjacency: zero-out (both directions), or replace-one.
        interval: smallest grid step of the discretised privacy loss.
        orders: Renyi orders of the RDP bound, which epsilon never exceeds.

    Returns:
        epsilon >= 0; infinite if anything was released without noise.

    Raises:
        InvalidPrivacyParameter: `delta` is not in (0, 1).
        UnsupportedMechanism: a release with integer noise, or one that is not priced under this
            adjacency.

    Guarantee: the caller ensures that `spends` holds every release that touched the record.
    Reference: Koskela et al. (2020); Doroshenko et al. (2022).
    """
    require_delta(delta)
    return _cached_epsilon(grouped(spends), delta, adjacency, interval, orders)


def quick_interval(spends: Sequence[Repeated], epsilon_bound: float) -> float:
    """Return a coarser grid step that raises epsilon by well under one percent.

    The discretisation costs about (releases) * step^2, so long runs need finer steps.

    Args:
        spends: what is to be priced.
        epsilon_bound: any upper bound on its epsilon, e.g. from RDP.
    """
    releases = sum(spend.count for spend in spends)
    if releases == 0 or not 0 < epsilon_bound < math.inf:
        return CERTIFIED_INTERVAL
    wanted = math.sqrt(_QUICK_ERROR * epsilon_bound / releases)
    doublings = math.floor(math.log2(wanted / CERTIFIED_INTERVAL))
    return CERTIFIED_INTERVAL * 2.0 ** min(max(doublings, 0), _QUICK_DOUBLINGS)


def grouped(spends: Iterable[Repeated]) -> tuple[Repeated, ...]:
    """Return an equivalent, canonical composition: equal mechanisms counted together.

    All unsampled Gaussians merge into one; sampling at rate 1 is no sampling.
    """
    sampled: dict[Event, int] = {}
    precision = 0.0
    for spend in spends:
        event = spend.event
        if isinstance(event, PoissonGaussianRelease) and event.sample_rate == 1:
            event = GaussianRelease(event.noise_multiplier)
        if isinstance(event, GaussianRelease):
            precision += spend.count / event.noise_multiplier**2
        else:
            sampled[event] = sampled.get(event, 0) + spend.count
    merged = [Repeated(event, count) for event, count in sampled.items()]
    if precision > 0:
        merged.append(Repeated(GaussianRelease(1 / math.sqrt(precision)), 1))
    return tuple(sorted(merged, key=repr))


@lru_cache(maxsize=_CACHED_EPSILONS)
def _cached_epsilon(
    spends: tuple[Repeated, ...],
    delta: float,
    adjacency: Adjacency,
    interval: float,
    orders: tuple[float, ...],
) -> float:
    if any(isinstance(spend.event, UnprotectedRelease) for spend in spends):
        return math.inf
    ceiling = participation_epsilon(spends, delta, adjacency)
    if all(isinstance(spend.event, GaussianRelease) for spend in spends):
        return ceiling
    if adjacency is Adjacency.ZERO_OUT:
        ceiling = min(ceiling, rdp_epsilon(spends, delta, orders=orders))
    if ceiling == 0:
        return 0.0
    releases = sum(spend.count for spend in spends)
    hidden = ROUNDING_PER_RELEASE * (releases + 1)
    if ceiling > PLD_CEILING_EPSILON or releases > PLD_CEILING_RELEASES or hidden > delta / 2:
        return ceiling
    widest = max(_loss_width(spend.event, adjacency) for spend in spends)
    finest = max(ceiling / _STEPS_PER_EPSILON, widest / _LARGEST_GRID)
    rough = max(finest, math.sqrt(_CERTIFIED_ERROR * ceiling / releases))
    epsilon = 0.0
    if ceiling >= _SMALLEST_ROUGH_EPSILON:
        epsilon = _composed(spends, adjacency, _grid_step(rough, interval), delta - hidden)
    if epsilon < _SMALLEST_ROUGH_EPSILON:
        epsilon = _composed(spends, adjacency, _grid_step(finest, interval), delta - hidden)
    return min(ceiling, epsilon)


def _composed(
    spends: tuple[Repeated, ...], adjacency: Adjacency, step: float, delta: float
) -> float:
    total: Any = None
    for spend in spends:
        part = _distribution(spend.event, adjacency, step).self_compose(spend.count)
        total = part if total is None else total.compose(part)
    return max(0.0, float(total.get_epsilon_for_delta(delta)))


def _grid_step(wanted: float, interval: float) -> float:
    """Return a power-of-two multiple of `interval`, at least 1, so that caches can be shared."""
    return interval * 2.0 ** max(0, math.floor(math.log2(wanted / interval)))


def _loss_width(event: Event, adjacency: Adjacency) -> float:
    """Return roughly how far the privacy losses of one release are spread."""
    if isinstance(event, UnprotectedRelease | IntegerRelease):
        return math.inf
    shift = sensitivity_factor(adjacency)
    if isinstance(event, GroupPoissonGaussianRelease):
        shift *= event.group_size
    elif isinstance(event, CappedPoissonGaussianRelease):
        shift *= 2
    separation = shift / event.noise_multiplier
    return separation * (separation + 2 * _TAIL_STDDEVS)


@lru_cache(maxsize=_CACHED_DISTRIBUTIONS)
def _distribution(event: Event, adjacency: Adjacency, step: float) -> Any:
    """Return the discretised privacy-loss distribution of one sampled release."""
    match event:
        case PoissonGaussianRelease() | GaussianRelease():
            sample_rate = getattr(event, "sample_rate", 1.0)
            if adjacency is Adjacency.ZERO_OUT:
                return _of_mixtures(sampled_group(1, sample_rate, event.noise_multiplier), step)
            return privacy_loss_distribution.from_gaussian_mechanism(
                standard_deviation=event.noise_multiplier,
                sampling_prob=sample_rate,
                value_discretization_interval=step,
                neighboring_relation=_NEIGHBOURS[adjacency],
            )
        case CappedPoissonGaussianRelease() if adjacency is Adjacency.ZERO_OUT:
            return privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
                dataset_size=event.dataset_size,
                sampling_probability=event.sample_rate,
                truncated_batch_size=event.batch_cap,
                noise_multiplier=event.noise_multiplier,
                value_discretization_interval=step,
                neighboring_relation=_NEIGHBOURS[adjacency],
            )
        case GroupPoissonGaussianRelease() if adjacency is Adjacency.ZERO_OUT:
            pair = sampled_group(event.group_size, event.sample_rate, event.noise_multiplier)
            return _of_mixtures(pair, step)
    raise UnsupportedMechanism(event, f"PLD does not price it under {adjacency} adjacency")


def _of_mixtures(pair: tuple[Mixture, Mixture], step: float) -> Any:
    first, remove, first_added, add = hockey_sticks(pair, step)
    return privacy_loss_distribution.PrivacyLossDistribution(
        _connected(first, remove, step), _connected(first_added, add, step)
    )


def _connected(first: int, deltas: NDArray[np.float64], step: float) -> Any:
    """Return the pessimistic connect-the-dots distribution through these deltas."""
    return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
        step, first, first + deltas.size - 1, deltas
    )
