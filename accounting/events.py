"""Frozen descriptions of what was released.

An event says what a mechanism is, never what it costs; accountants do the pricing. The meaning of
an event never changes once it has been written to a ledger: a new mechanism gets a new class and a
new `kind`.

All noise multipliers are the standard deviation of the noise divided by the L2 norm that one
record can contribute (its clip norm). Integer releases name both instead, in grid steps.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

from accounting.errors import InvalidPrivacyParameter, UnsupportedMechanism

# Far beyond any use; within them no accountant overflows.
SMALLEST_NOISE_MULTIPLIER = 1e-6
LARGEST_NOISE_MULTIPLIER = 1e9
SMALLEST_SAMPLE_RATE = 1e-12
LARGEST_COUNT = 10**12
LARGEST_STEPS = 1e30

EncodedEvent: TypeAlias = dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class GaussianRelease:
    """A sum over all records plus Gaussian noise; no sampling, so no amplification.

    Also the right description of one EPOCH of shuffled or fixed batches under zero-out adjacency,
    where each record is used exactly once per epoch.

    Attributes:
        noise_multiplier: noise standard deviation over clip norm, > 0.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        """Refuse noise that is not noise."""
        _require_noise(self.noise_multiplier)


@dataclass(frozen=True, slots=True)
class PoissonGaussianRelease:
    """A sum over a secret Poisson sample of the records, plus Gaussian noise.

    Guarantee: the caller ensures that every record joins independently with probability exactly
    `sample_rate`, that the sample (and its size) stays hidden, and that the sum is divided by
    public constants only.

    Attributes:
        sample_rate: inclusion probability of each record, in (0, 1].
        noise_multiplier: noise standard deviation over clip norm, > 0.
    """

    sample_rate: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        """Refuse rates and noise outside their range."""
        _require_rate(self.sample_rate)
        _require_noise(self.noise_multiplier)


@dataclass(frozen=True, slots=True)
class GroupPoissonGaussianRelease:
    """A Poisson-sampled noisy sum, seen by a person who owns up to `group_size` of the records.

    Everything of that person is protected together: zero-out of all their records at once.

    Guarantee: as for `PoissonGaussianRelease`; the caller also ensures that nobody owns more
    records than `group_size`.

    Attributes:
        group_size: most records of one person, >= 1.
        sample_rate: inclusion probability of each record, in (0, 1].
        noise_multiplier: noise standard deviation over the clip norm of ONE record, > 0.
    """

    group_size: int
    sample_rate: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        """Refuse groups, rates and noise outside their range."""
        _require_count("group_size", self.group_size)
        _require_rate(self.sample_rate)
        _require_noise(self.noise_multiplier)


@dataclass(frozen=True, slots=True)
class CappedPoissonGaussianRelease:
    """A Poisson-sampled noisy sum whose batch is cut down to a fixed capacity.

    If more than `batch_cap` records are drawn, a uniform subset of that size is kept. One record
    can then push another one out, which costs privacy unless the cap is hardly ever reached.

    Attributes:
        dataset_size: public number of records sampled from, >= 1.
        sample_rate: inclusion probability of each record before the cut, in (0, 1].
        batch_cap: most records in a batch, >= 1.
        noise_multiplier: noise standard deviation over clip norm, > 0.

    Reference: Ganesh (2025), truncated batches.
    """

    dataset_size: int
    sample_rate: float
    batch_cap: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        """Refuse sizes, rates and noise outside their range."""
        _require_count("dataset_size", self.dataset_size)
        _require_count("batch_cap", self.batch_cap)
        _require_rate(self.sample_rate)
        _require_noise(self.noise_multiplier)


@dataclass(frozen=True, slots=True)
class DiscreteGaussianSharesRelease:
    """A sum of integer vectors of Poisson-sampled records, plus shares of discrete Gaussian noise.

    Priced as it is, not as the continuous Gaussian it resembles. The sum of the shares is not a
    discrete Gaussian, so their number belongs to the mechanism.

    Attributes:
        sample_rate: inclusion probability of each record, in (0, 1].
        sensitivity_steps: largest L2 norm of one record's integer vector, in grid steps, > 0.
        dimension: coordinates of the sum, >= 1.
        share_stddev_steps: parameter of each share, in grid steps, > 0.
        shares: independent shares that the adversary does not know, >= 1.
    """

    sample_rate: float
    sensitivity_steps: float
    dimension: int
    share_stddev_steps: float
    shares: int

    def __post_init__(self) -> None:
        """Refuse rates, sizes and noise outside their range."""
        _require_rate(self.sample_rate)
        _require_steps("sensitivity_steps", self.sensitivity_steps)
        _require_count("dimension", self.dimension)
        _require_steps("share_stddev_steps", self.share_stddev_steps)
        _require_count("shares", self.shares)


@dataclass(frozen=True, slots=True)
class SkellamRelease:
    """A sum of integer vectors of Poisson-sampled records, plus symmetric Skellam noise.

    Attributes:
        sample_rate: inclusion probability of each record, in (0, 1].
        sensitivity_steps: largest L2 norm of one record's integer vector, in grid steps, > 0.
        dimension: coordinates of the sum, >= 1.
        variance_steps: variance of the noise that the adversary does not know, per coordinate, in
            squared grid steps, >= 1.
    """

    sample_rate: float
    sensitivity_steps: float
    dimension: int
    variance_steps: int

    def __post_init__(self) -> None:
        """Refuse rates, sizes and noise outside their range."""
        _require_rate(self.sample_rate)
        _require_steps("sensitivity_steps", self.sensitivity_steps)
        _require_count("dimension", self.dimension)
        if self.variance_steps < 1:
            raise InvalidPrivacyParameter("variance_steps", self.variance_steps, "give at least 1")
        _require_steps("variance_steps", self.variance_steps)


@dataclass(frozen=True, slots=True)
class UnprotectedRelease:
    """A release without any noise: every accountant prices it at infinity."""


Event: TypeAlias = (
    GaussianRelease
    | PoissonGaussianRelease
    | GroupPoissonGaussianRelease
    | CappedPoissonGaussianRelease
    | DiscreteGaussianSharesRelease
    | SkellamRelease
    | UnprotectedRelease
)

IntegerRelease: TypeAlias = DiscreteGaussianSharesRelease | SkellamRelease
"""Releases whose noise is on the integers, priced by Renyi divergences alone."""

_KINDS: dict[str, type[Event]] = {
    "gaussian": GaussianRelease,
    "poisson_gaussian": PoissonGaussianRelease,
    "group_poisson_gaussian": GroupPoissonGaussianRelease,
    "capped_poisson_gaussian": CappedPoissonGaussianRelease,
    "discrete_gaussian_shares": DiscreteGaussianSharesRelease,
    "skellam": SkellamRelease,
    "unprotected": UnprotectedRelease,
}
_KIND_OF = {cls: kind for kind, cls in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Repeated:
    """The same mechanism, released `count` times on the same records.

    Attributes:
        event: the mechanism.
        count: how often, >= 1.
    """

    event: Event
    count: int

    def __post_init__(self) -> None:
        """Refuse empty repetitions."""
        _require_count("count", self.count)


def encode_event(event: Event) -> EncodedEvent:
    """Return a JSON-able mapping that `decode_event` reads back to an equal event."""
    return {"kind": _KIND_OF[type(event)], **asdict(event)}


def decode_event(encoded: Mapping[str, Any]) -> Event:
    """Read one event; strict.

    Raises:
        UnsupportedMechanism: unknown kind, missing or extra field, or a field of the wrong type.
        InvalidPrivacyParameter: the fields are numbers outside their range.
    """
    cls = _KINDS.get(str(encoded.get("kind")))
    if cls is None:
        raise UnsupportedMechanism(dict(encoded), f"known kinds are {sorted(_KINDS)}")
    values = {name: value for name, value in encoded.items() if name != "kind"}
    expected = {field.name: field.type for field in fields(cls)}
    if values.keys() != expected.keys():
        raise UnsupportedMechanism(dict(encoded), f"expected exactly the fields {sorted(expected)}")
    for name, value in values.items():
        allowed = (int,) if expected[name] is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise UnsupportedMechanism(dict(encoded), f"{name} must be a number")
    return cls(**values)


def _require_count(name: str, count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= LARGEST_COUNT:
        raise InvalidPrivacyParameter(name, count, f"give a whole number in [1, {LARGEST_COUNT}]")


def _require_steps(name: str, steps: float) -> None:
    if not 0 < steps <= LARGEST_STEPS:
        raise InvalidPrivacyParameter(name, steps, f"give a number in (0, {LARGEST_STEPS:g}]")


def _require_noise(noise_multiplier: float) -> None:
    if not SMALLEST_NOISE_MULTIPLIER <= noise_multiplier <= LARGEST_NOISE_MULTIPLIER:
        raise InvalidPrivacyParameter(
            "noise_multiplier",
            noise_multiplier,
            f"give a number in [{SMALLEST_NOISE_MULTIPLIER:g}, {LARGEST_NOISE_MULTIPLIER:g}]",
        )


def _require_rate(sample_rate: float) -> None:
    if not SMALLEST_SAMPLE_RATE <= sample_rate <= 1:
        raise InvalidPrivacyParameter(
            "sample_rate", sample_rate, f"give a probability in [{SMALLEST_SAMPLE_RATE:g}, 1]"
        )
