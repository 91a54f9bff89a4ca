"""Skellam noise split among the clients of a cohort: shares that add up exactly.

A share is the difference of two independent Poisson variables of the same whole mean m, so its
variance is 2 m. Sums of independent Skellam variables are Skellam again (Skellam 1946): the noise
on a sum has a law of its own family, and no `tau` is needed. There is no continuous Gaussian that
it could be reduced to with a proof of ours, so it is priced by its Renyi divergences alone
(Agarwal, Kairouz and Liu 2021).
"""

import math
from dataclasses import dataclass

from accounting.accountants import Slack
from accounting.errors import InvalidPrivacyParameter
from accounting.events import SkellamRelease
from accounting.noise_shares import (
    CohortShares,
    honest_survivors,
    require_at_least_one,
    require_cohort,
    require_noise_multiplier,
    require_steps,
)
from accounting.sampler_slack import require_sampler_error, require_small_slack, sampler_slack

SMALLEST_POISSON_MEAN = 2**18
LARGEST_POISSON_MEAN = 2**78
SMALLEST_SKELLAM_STDDEV_STEPS = math.sqrt(2 * SMALLEST_POISSON_MEAN)
"""Narrower shares would have too much mass far out for the sampler's slack: 724 grid steps."""

_DRAWS_PER_SHARE = 2


@dataclass(frozen=True, slots=True)
class SkellamNoise(CohortShares):
    """Symmetric Skellam noise on an integer grid, split among the clients of a cohort.

    With cohort 1 and nobody dropping or colluding it is one client's own noise.

    Attributes:
        noise_multiplier: z > 0; the sum is guaranteed a standard deviation of at least z times the
            sensitivity.
        sensitivity_steps: largest L2 norm of one record's integer vector, in grid steps, > 0.
        cohort: n >= 1.
        dropout_tolerance: D >= 0.
        colluders: K >= 0.
        dimension: coordinates of one release, >= 1.
        releases: sums released in the whole run, >= 1.
        sampler_relative_error: as for `GridNoise`, but of each Poisson variable.

    Raises:
        InvalidPrivacyParameter: a value out of range, shares narrower than 724 grid steps or
            wider than the sampler's range, or a sampler error above 1e-3 over the run.
    """

    noise_multiplier: float
    sensitivity_steps: float
    cohort: int
    dropout_tolerance: int
    colluders: int
    dimension: int
    releases: int
    sampler_relative_error: float = 0.0

    def __post_init__(self) -> None:
        """Refuse grids on which the sampler's slack would not hold."""
        require_noise_multiplier(self.noise_multiplier)
        require_cohort(self.cohort, self.dropout_tolerance, self.colluders)
        require_at_least_one("dimension", self.dimension)
        require_at_least_one("releases", self.releases)
        require_steps("sensitivity_steps", self.sensitivity_steps)
        require_sampler_error(self.sampler_relative_error)
        if self.poisson_mean < SMALLEST_POISSON_MEAN:
            raise InvalidPrivacyParameter(
                "share_stddev_steps",
                self.share_stddev_steps,
                f"Skellam shares need at least {SMALLEST_SKELLAM_STDDEV_STEPS:.0f} grid steps of "
                "noise; use a finer grid (more steps per unit, a ring of 64 bits), more noise, or "
                "discrete Gaussian shares",
            )
        if self.poisson_mean > LARGEST_POISSON_MEAN:
            raise InvalidPrivacyParameter(
                "noise_multiplier",
                self.noise_multiplier,
                "Skellam shares may have at most 2^39 grid steps of noise; use a coarser grid (a "
                "ring of 32 bits) or less noise",
            )
        require_small_slack(self.slack, self.sampler_relative_error)

    @property
    def poisson_mean(self) -> int:
        """Mean of each of the two Poisson variables of a share.

        (z D2)^2 / (2 (n - D - K)), rounded up.
        """
        variance = (self.noise_multiplier * self.sensitivity_steps) ** 2
        return math.ceil(variance / (2 * (self.threshold - self.colluders)))

    @property
    def share_variance_steps(self) -> int:
        """Variance of one share, in squared grid steps; a whole number."""
        return 2 * self.poisson_mean

    @property
    def share_stddev_steps(self) -> float:
        """Standard deviation of one share, in grid steps."""
        return math.sqrt(self.share_variance_steps)

    @property
    def smoothing_steps(self) -> float:
        """Width of a rounding that exists in a proof only: 0, there is none here."""
        return 0.0

    @property
    def share_noise_multiplier(self) -> float:
        """Multiplier of one share alone."""
        return self.effective_noise_multiplier(1, 0)

    def sum_stddev_steps(self, survivors: int) -> float:
        """Return the std of the noise on a sum over `survivors`, in grid steps."""
        return math.sqrt(self.share_variance_steps * survivors)

    def effective_noise_multiplier(self, survivors: int, colluding: int) -> float:
        """Return the multiplier of a sum over `survivors`, `colluding` of them known.

        Raises:
            InvalidPrivacyParameter: no honest share is left.
        """
        honest = honest_survivors(survivors, colluding)
        return self.sum_stddev_steps(honest) / self.sensitivity_steps

    def release(self, honest: int, sample_rate: float) -> SkellamRelease:
        """Return a sum with `honest` unknown shares, as an event."""
        return SkellamRelease(
            sample_rate,
            self.sensitivity_steps,
            self.dimension,
            honest * self.share_variance_steps,
        )

    @property
    def slack(self) -> Slack:
        """What the sampler's own error may cost over the whole run."""
        return self.sampler_slack

    @property
    def sampler_slack(self) -> Slack:
        """The same: there is no other."""
        samples = float(self.releases) * self.dimension * self.cohort * _DRAWS_PER_SHARE
        return sampler_slack(samples, self.sampler_relative_error)

    @property
    def slack_epsilon(self) -> float:
        """What is added to epsilon: 2 eta."""
        return self.slack.epsilon
