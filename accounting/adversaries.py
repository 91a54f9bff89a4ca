"""Who sees what: one plan of releases, priced differently for each adversary."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from accounting.accountants import (
    NO_SLACK,
    EpsilonCurve,
    EpsilonPair,
    Slack,
    epsilon_pair,
)
from accounting.errors import InvalidPrivacyParameter
from accounting.events import Event, PoissonGaussianRelease, Repeated, UnprotectedRelease
from accounting.noise_shares import GridNoise, NoiseShares, require_noise_multiplier


class Adversary(StrEnum):
    """From whose eyes the data are protected.

    SERVER: runs the rounds, sees every opened sum, knows who took part and who dropped out; no
        client helps it.
    COALITION: the server together with up to K clients that subtract their own noise; fewest
        survivors. This is the headline.
    OUTSIDE: holds the released model only. No client sampling is claimed for it here, so it is
        priced as the server.
    NO_SECAGG: what a client's own message would be worth if secure aggregation failed.
    """

    SERVER = "server"
    COALITION = "coalition"
    OUTSIDE = "outside"
    NO_SECAGG = "no_secagg"


class Mode(StrEnum):
    """Who adds the noise.

    DISTRIBUTED: every client a share; only the sum is protected.
    LOCAL: every client in full, before anything leaves it.
    NONE: nobody; epsilon is infinite.
    """

    DISTRIBUTED = "distributed"
    LOCAL = "local"
    NONE = "none"


Noise = NoiseShares | GridNoise | float


@dataclass(frozen=True, slots=True)
class ReleaseSchedule:
    """Everything that one client's records go through in a run, at the guaranteed noise.

    Attributes:
        mode: who adds the noise.
        sample_rate: probability with which a record joins one noisy sum or one local step.
        noise: `NoiseShares` or `GridNoise` in distributed mode; in local mode the client's own
            multiplier, or a `GridNoise` of cohort 1; None without noise.
        participations: most rounds that any one client takes part in. Guarantee: the scheduler
            enforces it, and the ledger refuses more.
        local_steps: noisy steps per round; 1 in distributed mode, whose shares only protect a sum
            of gradients taken at the same weights.

    Raises:
        InvalidPrivacyParameter: the fields do not fit each other.
    """

    mode: Mode
    sample_rate: float
    noise: Noise | None
    participations: int
    local_steps: int = 1

    def __post_init__(self) -> None:
        """Refuse schedules whose accounting would not describe the mechanism."""
        if not 0 < self.sample_rate <= 1:
            raise InvalidPrivacyParameter(
                "sample_rate", self.sample_rate, "give a probability in (0, 1]"
            )
        for name in ("participations", "local_steps"):
            if getattr(self, name) < 1:
                raise InvalidPrivacyParameter(name, getattr(self, name), "give at least 1")
        if self.mode is Mode.DISTRIBUTED:
            self._require_shares()
        elif self.mode is Mode.LOCAL:
            self._require_own_noise()
        elif self.noise is not None:
            raise InvalidPrivacyParameter("noise", self.noise, "mode none adds no noise: give None")

    def _require_shares(self) -> None:
        if not isinstance(self.noise, NoiseShares | GridNoise):
            raise InvalidPrivacyParameter(
                "noise", self.noise, "distributed mode needs NoiseShares or GridNoise"
            )
        if self.local_steps != 1:
            raise InvalidPrivacyParameter(
                "local_steps",
                self.local_steps,
                "a share of noise protects one summed gradient, not a second local step; use 1, or "
                "mode local",
            )

    def _require_own_noise(self) -> None:
        if isinstance(self.noise, GridNoise):
            if self.noise.cohort != 1:
                raise InvalidPrivacyParameter(
                    "noise", self.noise, "in local mode each client adds full noise: cohort 1"
                )
        elif isinstance(self.noise, NoiseShares) or self.noise is None:
            raise InvalidPrivacyParameter(
                "noise", self.noise, "local mode needs the client's own noise multiplier"
            )
        else:
            require_noise_multiplier(self.noise)

    @property
    def headline(self) -> Adversary:
        """The adversary whose epsilon the budget is held against."""
        return Adversary.COALITION

    @property
    def slack(self) -> Slack:
        """Distance of the discrete mechanism from its model; none for continuous noise."""
        return self.noise.slack if isinstance(self.noise, NoiseShares | GridNoise) else NO_SLACK

    @property
    def cohort(self) -> int | None:
        """Clients asked per round, where the noise depends on it; else None."""
        return self._shares.cohort if self._shares else None

    @property
    def threshold(self) -> int | None:
        """Fewest survivors of an opened sum, where the noise depends on it; else None."""
        return self._shares.threshold if self._shares else None

    @property
    def _shares(self) -> NoiseShares | GridNoise | None:
        if self.mode is Mode.DISTRIBUTED and isinstance(self.noise, NoiseShares | GridNoise):
            return self.noise
        return None

    def noise_multiplier(self, adversary: Adversary) -> float | None:
        """Return the guaranteed multiplier that this adversary faces; None without noise."""
        if self.noise is None:
            return None
        shares = self._shares
        if shares is None:
            own = self.noise
            return own if isinstance(own, int | float) else own.noise_multiplier
        if adversary is Adversary.COALITION:
            return shares.effective_noise_multiplier(shares.threshold, shares.colluders)
        if adversary is Adversary.NO_SECAGG:
            return shares.share_noise_multiplier
        return shares.effective_noise_multiplier(shares.threshold, 0)

    def round_events(self, adversary: Adversary) -> Repeated:
        """Return what one round releases on a record of a client that takes part in it."""
        return Repeated(self._event(self.noise_multiplier(adversary)), self.local_steps)

    def view(self, adversary: Adversary) -> tuple[Repeated, ...]:
        """Return what the whole run releases on one record, for this adversary."""
        one = self.round_events(adversary)
        return (Repeated(one.event, one.count * self.participations),)

    def realised_round(self, survivors: int | None) -> Repeated:
        """Return one round as it happened, for the coalition.

        Args:
            survivors: clients in the opened sum; None (unknown, or aborted) and any number below
                the threshold are booked at the guaranteed noise.
        """
        shares = self._shares
        if shares is None or survivors is None or survivors < shares.threshold:
            return self.round_events(Adversary.COALITION)
        seen = shares.effective_noise_multiplier(min(survivors, shares.cohort), shares.colluders)
        return Repeated(self._event(seen), self.local_steps)

    def epsilon(self, adversary: Adversary, delta: float) -> EpsilonPair:
        """Return the certified cost of the whole run for this adversary."""
        return epsilon_pair(self.view(adversary), delta, slack=self.slack)

    def curve(self, adversary: Adversary, delta: float) -> EpsilonCurve:
        """Return epsilon by number of participations, for this adversary."""
        return EpsilonCurve(self.round_events(adversary), delta, self.slack)

    def _event(self, noise_multiplier: float | None) -> Event:
        if noise_multiplier is None:
            return UnprotectedRelease()
        return PoissonGaussianRelease(self.sample_rate, noise_multiplier)


def encode_schedule(schedule: ReleaseSchedule) -> dict[str, Any]:
    """Return a JSON-able mapping that `decode_schedule` reads back to an equal schedule."""
    return {
        "mode": str(schedule.mode),
        "sample_rate": schedule.sample_rate,
        "noise": _encode_noise(schedule.noise),
        "participations": schedule.participations,
        "local_steps": schedule.local_steps,
    }


def decode_schedule(encoded: Mapping[str, Any]) -> ReleaseSchedule:
    """Read one schedule; strict.

    Raises:
        InvalidPrivacyParameter: missing or unknown fields, wrong types, or values out of range.
    """
    expected = {"mode", "sample_rate", "noise", "participations", "local_steps"}
    if not isinstance(encoded, Mapping) or encoded.keys() != expected:
        raise InvalidPrivacyParameter(
            "schedule", encoded, f"expected the fields {sorted(expected)}"
        )
    if encoded["mode"] not in set(Mode):
        raise InvalidPrivacyParameter("mode", encoded["mode"], f"known are {sorted(Mode)}")
    for name in ("participations", "local_steps"):
        _require_type(name, encoded[name], int)
    _require_type("sample_rate", encoded["sample_rate"], int, float)
    return ReleaseSchedule(
        mode=Mode(encoded["mode"]),
        sample_rate=encoded["sample_rate"],
        noise=_decode_noise(encoded["noise"]),
        participations=encoded["participations"],
        local_steps=encoded["local_steps"],
    )


_NOISE_KINDS: dict[str, type[NoiseShares | GridNoise]] = {"shares": NoiseShares, "grid": GridNoise}
_FLOAT_FIELDS = {
    "noise_multiplier",
    "sensitivity_steps",
    "smoothing_steps",
    "sampler_relative_error",
}


def _encode_noise(noise: Noise | None) -> dict[str, Any] | None:
    if noise is None:
        return None
    if isinstance(noise, NoiseShares):
        return {"kind": "shares", **asdict(noise)}
    if isinstance(noise, GridNoise):
        return {"kind": "grid", **asdict(noise)}
    return {"kind": "own", "noise_multiplier": noise}


def _decode_noise(encoded: Any) -> Noise | None:
    if encoded is None:
        return None
    if not isinstance(encoded, Mapping):
        raise InvalidPrivacyParameter("noise", encoded, "expected an object or null")
    fields = {name: value for name, value in encoded.items() if name != "kind"}
    for name, value in fields.items():
        _require_type(name, value, *((int, float) if name in _FLOAT_FIELDS else (int,)))
    kind = encoded.get("kind")
    if kind == "own" and fields.keys() == {"noise_multiplier"}:
        return float(fields["noise_multiplier"])
    cls = _NOISE_KINDS.get(str(kind))
    if cls is None or fields.keys() != set(cls.__dataclass_fields__):
        raise InvalidPrivacyParameter("noise", dict(encoded), "unknown kind or fields")
    return cls(**fields)


def _require_type(name: str, value: Any, *types: type) -> None:
    if isinstance(value, bool) or not isinstance(value, types):
        raise InvalidPrivacyParameter(name, value, "expected a number of the right type")
