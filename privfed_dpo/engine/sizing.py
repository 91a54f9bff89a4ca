"""How fine the integer grid is and how wide the ring: the largest that provably cannot wrap."""

from __future__ import annotations

import math
from dataclasses import dataclass

from privfed_dpo.errors import PlanRefused
from privfed_dpo.mechanism.clip import MAX_SENSITIVITY_STEPS
from privfed_dpo.mechanism.grid import RING_BITS, fits

UPDATE_LIMIT = 1024.0
"""Largest magnitude of one coordinate of a client's update; larger ones are held there."""

OWN_NOISE_SENSITIVITY_STEPS = 1 << 20
"""Grid of a client's own noisy steps, which never enter the ring as they are."""

_UPDATE_RING_BITS = 64
_SMALLEST_STEPS_PER_COORDINATE = 32.0
_LARGEST_SHARE_STDDEV_STEPS = 2.0**39  # what the samplers of both kinds of noise can draw


@dataclass(frozen=True, slots=True)
class UserUpdates:
    """How a client makes its one update of a round in user mode; nothing of it amplifies.

    Attributes:
        max_update_norm: L2 bound on the whole update, in units of the weights.
        sample_rate: probability with which a pair joins a local step.
    """

    max_update_norm: float
    sample_rate: float


@dataclass(frozen=True, slots=True)
class RingSizing:
    """The numbers of the integer side of a plan.

    Attributes:
        bits: ring size of the secure sum.
        clipper_steps: L2 bound of one clipped pair in grid steps, in user mode of one clipped
            update; None if nothing is clipped.
        carries_updates: True if clients send updates that only their own steps protect, False if
            the sum is one of clipped records.
        update_steps_per_unit: grid of those updates; 0 for gradient sums.
    """

    bits: int
    clipper_steps: int | None
    carries_updates: bool
    update_steps_per_unit: float = 0.0


def size_gradient_sums(
    *,
    largest_cohort_pairs: int,
    cohort: int,
    total_noise_multiplier: float,
    dimension: int,
    bits: int | None,
    fewest_steps: float = 1.0,
) -> RingSizing:
    """Choose the finest grid for sums of clipped pair gradients.

    The signal of a coordinate is at most (all pairs of the largest cohort) * sensitivity_steps,
    since every single pair is bounded by sensitivity_steps; so the sum can be read back whatever
    the sampler does. The noise may reach 12 standard deviations (with nobody dropping out), and a
    share of it 2^39 steps, which the samplers can draw.

    Args:
        largest_cohort_pairs: most pairs that could be summed in one round.
        cohort: clients in a round.
        total_noise_multiplier: standard deviation of all shares together over max_grad_norm.
        dimension: coordinates; a grid with fewer than 32 steps per average coordinate of a clipped
            pair is thought too coarse for 32 bits.
        bits: 32, 64, or None for the smallest that is fine enough.
        fewest_steps: steps per clip norm that the noise needs.

    Raises:
        PlanRefused: no grid fits the ring.
    """
    wanted = max(fewest_steps, _SMALLEST_STEPS_PER_COORDINATE * math.sqrt(dimension))
    candidates = RING_BITS if bits is None else (bits,)
    for ring_bits in candidates:
        steps = MAX_SENSITIVITY_STEPS
        while steps >= 1 and (
            total_noise_multiplier * steps / math.sqrt(cohort) > _LARGEST_SHARE_STDDEV_STEPS
            or not fits(
                ring_bits,
                largest_signal_steps=float(largest_cohort_pairs) * steps,
                noise_stddev_steps=total_noise_multiplier * steps + math.sqrt(cohort) * 4.0,
            )
        ):
            steps //= 2
        if steps >= 1 and (steps >= wanted or ring_bits == candidates[-1]):
            return RingSizing(bits=ring_bits, clipper_steps=steps, carries_updates=False)
    raise PlanRefused(
        f"the sum of up to {largest_cohort_pairs} clipped pairs and its noise does not fit a "
        f"ring of {candidates[-1]} bits",
        advice="Use secure_agg.modulus_bits=64, fewer pairs (data.max_pairs) or a smaller cohort.",
    )


def size_updates(*, cohort: int, clipped: bool, bits: int | None) -> RingSizing:
    """Choose the grid for client updates, each coordinate held within +-UPDATE_LIMIT.

    Raises:
        PlanRefused: a 32-bit ring was asked for; updates have no bound tight enough for it.
    """
    if bits not in (None, _UPDATE_RING_BITS):
        raise PlanRefused(
            f"client updates need a ring of {_UPDATE_RING_BITS} bits, not {bits}",
            advice="Leave secure_agg.modulus_bits at null.",
        )
    exponent = _UPDATE_RING_BITS - 2 - math.ceil(math.log2(cohort * UPDATE_LIMIT))
    return RingSizing(
        bits=_UPDATE_RING_BITS,
        clipper_steps=OWN_NOISE_SENSITIVITY_STEPS if clipped else None,
        carries_updates=True,
        update_steps_per_unit=2.0 ** min(exponent, 40),
    )
