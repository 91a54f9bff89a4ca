"""Schedules as JSON: what a ledger's header holds, and what a stranger reads back."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from accounting.accountants import Accounting
from accounting.adversaries import Noise, ReleaseSchedule
from accounting.errors import InvalidPrivacyParameter
from accounting.labels import RandomizedLabels
from accounting.modes import Mode
from accounting.noise_shares import GridNoise, NoiseShares
from accounting.record_copies import RecordCopies
from accounting.secret_cohort import SecretCohort
from accounting.skellam_shares import SkellamNoise

_FIELDS = frozenset({"mode", "sample_rate", "noise", "participations", "local_steps"})
_OPTIONAL = frozenset({"secret_cohort", "record_copies", "labels", "accounting"})
_RESPONSE = "randomized_response"
_NOISE_KINDS: dict[str, type[NoiseShares | GridNoise | SkellamNoise]] = {
    "shares": NoiseShares,
    "grid": GridNoise,
    "skellam": SkellamNoise,
}
_KIND_OF = {cls: kind for kind, cls in _NOISE_KINDS.items()}
_FLOAT_FIELDS = {
    "noise_multiplier",
    "sensitivity_steps",
    "smoothing_steps",
    "sampler_relative_error",
}


def encode_schedule(schedule: ReleaseSchedule) -> dict[str, Any]:
    """Return a JSON-able mapping that `decode_schedule` reads back to an equal schedule."""
    encoded = {
        "mode": str(schedule.mode),
        "sample_rate": schedule.sample_rate,
        "noise": _encode_noise(schedule.noise),
        "participations": schedule.participations,
        "local_steps": schedule.local_steps,
    }
    if schedule.secret_cohort is not None:
        encoded["secret_cohort"] = asdict(schedule.secret_cohort)
    if schedule.copies is not None:
        encoded["record_copies"] = asdict(schedule.copies)
    if schedule.labels is not None:
        encoded["labels"] = {"kind": _RESPONSE, **asdict(schedule.labels)}
    if schedule.accounting is not Accounting.REDUCTION:
        encoded["accounting"] = str(schedule.accounting)
    return encoded


def decode_schedule(encoded: Mapping[str, Any]) -> ReleaseSchedule:
    """Read one schedule; strict.

    Without "secret_cohort" cohorts have one size; "failure" in it, from when a credit was taken, is
    read over. Without "accounting" the reduction certifies, as it
    did before there was a choice.

    Raises:
        InvalidPrivacyParameter: missing or unknown fields, wrong types, or values out of range.
    """
    if not isinstance(encoded, Mapping) or encoded.keys() - _OPTIONAL != _FIELDS:
        raise InvalidPrivacyParameter("schedule", encoded, f"expected the fields {sorted(_FIELDS)}")
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
        secret_cohort=_decode_cohort(encoded) if "secret_cohort" in encoded else None,
        copies=_decode_copies(encoded) if "record_copies" in encoded else None,
        labels=_decode_labels(encoded) if "labels" in encoded else None,
        accounting=_decode_accounting(encoded),
    )


def _decode_copies(encoded: Mapping[str, Any]) -> RecordCopies:
    fields = encoded["record_copies"]
    if not isinstance(fields, Mapping) or fields.keys() != {"most", "rounds"}:
        raise InvalidPrivacyParameter("record_copies", fields, "expected the fields most, rounds")
    for name in ("most", "rounds"):
        _require_type(name, fields[name], int)
    return RecordCopies(fields["most"], fields["rounds"])


def _decode_labels(encoded: Mapping[str, Any]) -> RandomizedLabels:
    fields = encoded["labels"]
    if (
        not isinstance(fields, Mapping)
        or fields.keys() != {"kind", "flip_probability"}
        or fields["kind"] != _RESPONSE
    ):
        raise InvalidPrivacyParameter(
            "labels", fields, f"expected kind {_RESPONSE} and a flip_probability"
        )
    _require_type("flip_probability", fields["flip_probability"], int, float)
    return RandomizedLabels(fields["flip_probability"])


def _decode_accounting(encoded: Mapping[str, Any]) -> Accounting:
    accounting = encoded.get("accounting", Accounting.REDUCTION)
    if accounting not in set(Accounting):
        raise InvalidPrivacyParameter("accounting", accounting, f"known are {sorted(Accounting)}")
    return Accounting(accounting)


def _decode_cohort(encoded: Mapping[str, Any]) -> SecretCohort:
    fields = encoded["secret_cohort"]
    if not isinstance(fields, Mapping) or fields.keys() - {"failure"} != {"rate", "rounds"}:
        raise InvalidPrivacyParameter("secret_cohort", fields, "expected the fields rate, rounds")
    for name in fields.keys() - {"rounds"}:
        _require_type(name, fields[name], int, float)
    _require_type("rounds", fields["rounds"], int)
    return SecretCohort(fields["rate"], fields["rounds"])


def _encode_noise(noise: Noise | None) -> dict[str, Any] | None:
    if noise is None:
        return None
    if isinstance(noise, int | float):
        return {"kind": "own", "noise_multiplier": noise}
    return {"kind": _KIND_OF[type(noise)], **asdict(noise)}


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
