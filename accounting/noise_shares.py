r"""How much noise each client adds, so that the sum has enough after drop-outs and collusion.

The sum must carry noise of standard deviation z times the clip norm, although up to D of n clients
may drop out and up to K of the rest may subtract their own share again. So each share has variance
z^2 / (n - D - K) (in squared clip norms), and a sum is opened only if at least n - D clients are in
it.

`GridNoise` is the same on integers. Each share is a discrete Gaussian of standard deviation
`share_stddev_steps` grid steps; the sum is modelled as continuous Gaussian noise followed by a
randomised rounding of standard deviation b, which is post-processing. The model is off by at most a
factor e^{2 kappa + tau} per coordinate and release, and by the sampler:

* tau: a sum of discrete Gaussians is not quite one discrete Gaussian (Kairouz, Liu and Steinke
  2021, Theorem 9), tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 s^2 k / (k + 1)).
* kappa: the normaliser of a discrete Gaussian of std b depends on where it is centred, by at most
  1 +- kappa, kappa = 2 exp(-2 pi^2 b^2) (Poisson summation).
* sampler error: see `sampler_slack`.

The whole argument, with every constant, is in docs/proofs/discrete-gaussian.md.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from accounting.accountants import NO_SLACK, Slack
from accounting.errors import InvalidPrivacyParameter
from accounting.events import DiscreteGaussianSharesRelease
from accounting.integer_divergences import convolution_tau
from accounting.sampler_slack import require_sampler_error, require_small_slack, sampler_slack

SMALLEST_SHARE_STDDEV_STEPS = 4.0
LARGEST_SHARE_STDDEV_STEPS = 2.0**40  # beyond, float64 does not count squares of samples exactly
LARGEST_MODEL_SLACK = 1e-9


class CohortShares(ABC):
    """What shares of any noise have in common: a cohort, and what is left when some are missing."""

    __slots__ = ()

    cohort: int
    dropout_tolerance: int
    colluders: int

    @property
    def threshold(self) -> int:
        """Fewest survivors for which a sum may be opened: n - D."""
        return self.cohort - self.dropout_tolerance

    @abstractmethod
    def effective_noise_multiplier(self, survivors: int, colluding: int) -> float:
        """Return the noise multiplier of a sum over `survivors`, `colluding` of them known."""

    def seen_noise_multiplier(self, dropped: int, colluding: int) -> float:
        """Return the noise multiplier after `dropped` of the cohort are missing from the sum."""
        return self.effective_noise_multiplier(self.cohort - dropped, colluding)


@dataclass(frozen=True, slots=True)
class NoiseShares(CohortShares):
    """Gaussian noise split among the clients of a cohort.

    Attributes:
        noise_multiplier: z > 0, guaranteed on the sum even after D drop-outs and K colluders.
        cohort: n >= 1, clients asked to take part in a round.
        dropout_tolerance: D >= 0.
        colluders: K >= 0, clients that may hand their share, or fake ones, to the server.

    Raises:
        InvalidPrivacyParameter: a value out of range, or 2 (n - D) <= n + K: two different sets of
            survivors could then both gather enough signatures.
    """

    noise_multiplier: float
    cohort: int
    dropout_tolerance: int
    colluders: int

    def __post_init__(self) -> None:
        """Refuse plans under which the stated noise is not guaranteed."""
        require_noise_multiplier(self.noise_multiplier)
        require_cohort(self.cohort, self.dropout_tolerance, self.colluders)

    @property
    def slack(self) -> Slack:
        """Continuous noise is its own model: no slack."""
        return NO_SLACK

    @property
    def share_noise_multiplier(self) -> float:
        """Noise multiplier of one client's share: z / sqrt(n - D - K)."""
        return self.noise_multiplier / math.sqrt(self.threshold - self.colluders)

    def effective_noise_multiplier(self, survivors: int, colluding: int) -> float:
        """Return the noise multiplier of a sum over `survivors`, `colluding` of them known.

        Raises:
            InvalidPrivacyParameter: no honest share is left.
        """
        honest = honest_survivors(survivors, colluding)
        return self.noise_multiplier * math.sqrt(honest / (self.threshold - self.colluders))


@dataclass(frozen=True, slots=True)
class GridNoise(CohortShares):
    """Discrete Gaussian noise on an integer grid, split among the clients of a cohort.

    With cohort 1 and nobody dropping or colluding it is one client's own noise.

    Attributes:
        noise_multiplier: z > 0, the continuous multiplier guaranteed on the sum.
        sensitivity_steps: largest L2 norm of one record's integer vector, in grid steps, > 0.
        cohort: n >= 1.
        dropout_tolerance: D >= 0.
        colluders: K >= 0.
        dimension: coordinates of one release, >= 1.
        releases: sums released in the whole run, >= 1.
        smoothing_steps: b > 0, std of the rounding that exists in the proof only.
        sampler_relative_error: how far the sampler's probabilities may be from the discrete
            Gaussian's, relatively, at any point up to 12 standard deviations; per coordinate and
            share. Guarantee: at k > 12 standard deviations it is at most (k / 12)^2 times that.

    Raises:
        InvalidPrivacyParameter: a value out of range; shares narrower than 4 grid steps or wider
            than 2^40; or a model error above 1e-9 (sampler error: 1e-3) over the run.
    """

    noise_multiplier: float
    sensitivity_steps: float
    cohort: int
    dropout_tolerance: int
    colluders: int
    dimension: int
    releases: int
    smoothing_steps: float = 3.0
    sampler_relative_error: float = 0.0

    def __post_init__(self) -> None:
        """Refuse grids on which the continuous model is not valid."""
        require_noise_multiplier(self.noise_multiplier)
        require_cohort(self.cohort, self.dropout_tolerance, self.colluders)
        require_at_least_one("dimension", self.dimension)
        require_at_least_one("releases", self.releases)
        require_steps("sensitivity_steps", self.sensitivity_steps)
        require_steps("smoothing_steps", self.smoothing_steps)
        require_sampler_error(self.sampler_relative_error)
        if self.share_stddev_steps < SMALLEST_SHARE_STDDEV_STEPS:
            raise InvalidPrivacyParameter(
                "share_stddev_steps",
                self.share_stddev_steps,
                f"shares need at least {SMALLEST_SHARE_STDDEV_STEPS:g} grid steps of noise; "
                "use a finer grid (more steps per unit) or more noise",
            )
        if self.share_stddev_steps > LARGEST_SHARE_STDDEV_STEPS:
            raise InvalidPrivacyParameter(
                "share_stddev_steps",
                self.share_stddev_steps,
                "shares may have at most 2^40 grid steps of noise; use a coarser grid (fewer steps "
                "per unit, a ring of 32 bits) or less noise",
            )
        sums = float(self.dimension) * self.releases
        if sums * (2 * self.kappa + self.tau) > LARGEST_MODEL_SLACK:
            raise InvalidPrivacyParameter(
                "share_stddev_steps",
                self.share_stddev_steps,
                "the grid is too coarse for this many coordinates and releases; use a finer grid, "
                "more noise, or a larger smoothing_steps",
            )
        require_small_slack(self.slack, self.sampler_relative_error)

    @property
    def share_stddev_steps(self) -> float:
        """Parameter of each client's discrete Gaussian, in grid steps.

        sqrt((z D2)^2 + b^2) / sqrt(n - D - K), so that the guaranteed sum is worth exactly z.
        """
        total = math.hypot(self.noise_multiplier * self.sensitivity_steps, self.smoothing_steps)
        return total / math.sqrt(self.threshold - self.colluders)

    @property
    def share_noise_multiplier(self) -> float:
        """Continuous multiplier that one share alone is worth."""
        return self.effective_noise_multiplier(1, 0)

    def sum_stddev_steps(self, survivors: int) -> float:
        """Return the std of the noise on a sum over `survivors`, in grid steps."""
        return self.share_stddev_steps * math.sqrt(survivors)

    def effective_noise_multiplier(self, survivors: int, colluding: int) -> float:
        """Return the continuous multiplier of a sum over `survivors`, `colluding` of them known.

        sqrt((survivors - colluding) s^2 - b^2) / D2.

        Raises:
            InvalidPrivacyParameter: no honest share is left, or too little for the model.
        """
        honest = honest_survivors(survivors, colluding)
        if honest == self.threshold - self.colluders:
            return self.noise_multiplier  # by construction; spares a rounding error
        variance = honest * self.share_stddev_steps**2 - self.smoothing_steps**2
        if variance <= 0:
            raise InvalidPrivacyParameter(
                "survivors",
                survivors,
                "the honest noise is narrower than the smoothing; use a finer grid",
            )
        return math.sqrt(variance) / self.sensitivity_steps

    def release(self, honest: int, sample_rate: float) -> DiscreteGaussianSharesRelease:
        """Return a sum with `honest` unknown shares as what it is, for `Accounting.RDP`."""
        return DiscreteGaussianSharesRelease(
            sample_rate, self.sensitivity_steps, self.dimension, self.share_stddev_steps, honest
        )

    @property
    def tau(self) -> float:
        """Log-ratio of the sum of n discrete Gaussians to one discrete Gaussian, per coordinate."""
        return convolution_tau(self.share_stddev_steps, self.cohort)

    @property
    def kappa(self) -> float:
        """Relative swing of the normaliser of a discrete Gaussian of std `smoothing_steps`."""
        return 2 * math.exp(-2 * (math.pi * self.smoothing_steps) ** 2)

    @property
    def slack(self) -> Slack:
        """What the discrete mechanism may cost beyond its continuous model, over the whole run."""
        model = float(self.releases) * self.dimension * (2 * self.kappa + self.tau)
        drawn = self.sampler_slack
        return Slack(
            model + drawn.log_ratio,
            drawn.failure * math.exp(model),
            model + drawn.certain_log_ratio,
        )

    @property
    def sampler_slack(self) -> Slack:
        """The part of `slack` that the sampler's own error makes up."""
        samples = float(self.releases) * self.dimension * self.cohort
        return sampler_slack(samples, self.sampler_relative_error)

    @property
    def slack_epsilon(self) -> float:
        """What is added to epsilon: 2 eta."""
        return self.slack.epsilon

    @property
    def slack_delta_factor(self) -> float:
        """What delta is multiplied by: e^eta."""
        return self.slack.delta_factor


def require_noise_multiplier(noise_multiplier: float) -> None:
    """Raise `InvalidPrivacyParameter` unless the multiplier is finite and above 0."""
    if not (noise_multiplier > 0 and math.isfinite(noise_multiplier)):
        raise InvalidPrivacyParameter(
            "noise_multiplier", noise_multiplier, "give a finite number above 0"
        )


def require_cohort(cohort: int, dropout_tolerance: int, colluders: int) -> None:
    """Raise `InvalidPrivacyParameter` unless 2 (n - D) > n + K with n >= 1 and D, K >= 0."""
    if cohort < 1:
        raise InvalidPrivacyParameter("cohort", cohort, "give at least one client")
    if dropout_tolerance < 0:
        raise InvalidPrivacyParameter("dropout_tolerance", dropout_tolerance, "give 0 or more")
    if colluders < 0:
        raise InvalidPrivacyParameter("colluders", colluders, "give 0 or more")
    threshold = cohort - dropout_tolerance
    if 2 * threshold <= cohort + colluders:
        raise InvalidPrivacyParameter(
            "dropout_tolerance",
            dropout_tolerance,
            f"with a cohort of {cohort} and {colluders} colluders at most "
            f"{max(0, (cohort - colluders - 1) // 2)} may drop out, or two different survivor sets "
            "could both be signed; lower dropout_tolerance or colluders, or enlarge the cohort",
        )


def honest_survivors(survivors: int, colluding: int) -> int:
    """Return survivors - colluding.

    Raises:
        InvalidPrivacyParameter: none is left, or a number is negative.
    """
    if colluding < 0:
        raise InvalidPrivacyParameter("colluding", colluding, "give 0 or more")
    if survivors <= colluding:
        raise InvalidPrivacyParameter(
            "survivors", survivors, f"with {colluding} colluding no honest noise is left in the sum"
        )
    return survivors - colluding


def require_at_least_one(name: str, value: int) -> None:
    """Refuse counts below 1.

    Raises:
        InvalidPrivacyParameter: the value, under its name.
    """
    if value < 1:
        raise InvalidPrivacyParameter(name, value, "give at least 1")


def require_steps(name: str, value: float) -> None:
    """Refuse lengths in grid steps that are not finite or not above 0.

    Raises:
        InvalidPrivacyParameter: the value, under its name.
    """
    if not (value > 0 and math.isfinite(value)):
        raise InvalidPrivacyParameter(name, value, "give a finite number above 0")
