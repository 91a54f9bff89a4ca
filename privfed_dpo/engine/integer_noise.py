"""Which noise a plan takes, and what draws it: the accountant's description and its sampler."""

from __future__ import annotations

import math
from enum import StrEnum

from accounting import SMALLEST_SKELLAM_STDDEV_STEPS, GridNoise, IntegerNoise, SkellamNoise
from privfed_dpo.mechanism.noise import SAMPLER_RELATIVE_ERROR, DiscreteGaussian, NoiseSampler
from privfed_dpo.mechanism.skellam import POISSON_RELATIVE_ERROR, Skellam


class NoiseKind(StrEnum):
    """The law of one client's noise."""

    DISCRETE_GAUSSIAN = "discrete_gaussian"
    SKELLAM = "skellam"


def integer_noise(  # noqa: PLR0917 - one number of the mechanism each
    kind: NoiseKind,
    noise_multiplier: float,
    sensitivity_steps: float,
    cohort: int,
    dropout_tolerance: int,
    colluders: int,
    dimension: int,
    releases: int,
) -> IntegerNoise:
    """Describe noise of either kind, with the error of its sampler.

    Args:
        kind: the law of a share.
        noise_multiplier: guaranteed on the sum, over the sensitivity.
        sensitivity_steps: largest L2 norm of one record's integer vector, in grid steps.
        cohort: clients of a round; 1 if each adds its own noise in full.
        dropout_tolerance: shares that may be missing from an opened sum.
        colluders: shares that the server may know.
        dimension: coordinates of one release.
        releases: releases of the whole run.

    Raises:
        InvalidPrivacyParameter: the grid is too coarse for this noise.
    """
    numbers = (
        noise_multiplier,
        sensitivity_steps,
        cohort,
        dropout_tolerance,
        colluders,
        dimension,
        releases,
    )
    if kind is NoiseKind.SKELLAM:
        return SkellamNoise(*numbers, sampler_relative_error=POISSON_RELATIVE_ERROR)
    return GridNoise(*numbers, sampler_relative_error=SAMPLER_RELATIVE_ERROR)


def noise_kind(noise: IntegerNoise) -> NoiseKind:
    """Return the law of a share."""
    if isinstance(noise, SkellamNoise):
        return NoiseKind.SKELLAM
    return NoiseKind.DISCRETE_GAUSSIAN


def noise_sampler(noise: IntegerNoise) -> NoiseSampler:
    """Return what draws one share of this noise, at the precision that it books."""
    if isinstance(noise, SkellamNoise):
        return Skellam(noise.poisson_mean)
    return DiscreteGaussian(noise.share_stddev_steps)


def fewest_steps(kind: NoiseKind, noise_multiplier: float, honest: int) -> float:
    """Return the fewest grid steps per clip norm under which a share of this noise is valid.

    Args:
        kind: the law of a share.
        noise_multiplier: of the guaranteed sum, > 0.
        honest: shares in the guaranteed sum, >= 1.
    """
    if kind is NoiseKind.DISCRETE_GAUSSIAN or noise_multiplier == 0:
        return 1.0
    return SMALLEST_SKELLAM_STDDEV_STEPS * math.sqrt(honest) / noise_multiplier
