"""Which fields of a schedule fit each other: what no accounting would describe is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from accounting.accountants import Accounting
from accounting.errors import InvalidPrivacyParameter
from accounting.modes import Mode
from accounting.noise_shares import GridNoise, NoiseShares, require_noise_multiplier
from accounting.record_copies import record_releases
from accounting.skellam_shares import SkellamNoise

if TYPE_CHECKING:
    from accounting.adversaries import ReleaseSchedule

IntegerNoise: TypeAlias = GridNoise | SkellamNoise
SHARED_NOISE = frozenset({Mode.DISTRIBUTED, Mode.USER})
OWN_NOISE = frozenset({Mode.LOCAL, Mode.GOSSIP})


def require_fitting_fields(schedule: ReleaseSchedule) -> None:
    """Refuse a schedule whose accounting would not describe the mechanism.

    Raises:
        InvalidPrivacyParameter: the first field that does not fit the others.
    """
    if not 0 < schedule.sample_rate <= 1:
        raise InvalidPrivacyParameter(
            "sample_rate", schedule.sample_rate, "give a probability in (0, 1]"
        )
    for name in ("participations", "local_steps"):
        if getattr(schedule, name) < 1:
            raise InvalidPrivacyParameter(name, getattr(schedule, name), "give at least 1")
    if schedule.secret_cohort is not None and schedule.mode is not Mode.USER:
        raise InvalidPrivacyParameter(
            "secret_cohort", schedule.secret_cohort, "only mode user has secret cohorts"
        )
    if schedule.copies is not None and schedule.mode not in {Mode.DISTRIBUTED, *OWN_NOISE}:
        raise InvalidPrivacyParameter(
            "record_copies",
            schedule.copies,
            f"mode {schedule.mode} does not price copies of a pair",
        )
    _require_rounds(schedule)
    if schedule.mode in SHARED_NOISE:
        _require_shares(schedule)
    elif schedule.mode in OWN_NOISE:
        _require_own_noise(schedule)
    elif schedule.noise is not None:
        raise InvalidPrivacyParameter("noise", schedule.noise, "mode none adds no noise: give None")
    _require_releases(schedule)
    _require_accounting(schedule)


def _require_rounds(schedule: ReleaseSchedule) -> None:
    """Nobody takes part in more rounds than there are: a claim of fewer would price too few."""
    for claim in (schedule.secret_cohort, schedule.copies):
        if claim is not None and schedule.participations > claim.rounds:
            raise InvalidPrivacyParameter(
                "participations",
                schedule.participations,
                f"the whole run has {claim.rounds} rounds; state all of them, or let a client take "
                "part in no more",
            )


def _require_accounting(schedule: ReleaseSchedule) -> None:
    problem = None
    if schedule.accounting is Accounting.REDUCTION:
        if isinstance(schedule.noise, SkellamNoise):
            problem = (
                "the reduction to a continuous Gaussian is proved for discrete Gaussian noise "
                "only; Skellam noise takes rdp"
            )
    elif not isinstance(schedule.noise, IntegerNoise):
        problem = "only integer noise is priced as it is; give a grid, or take reduction"
    elif schedule.copies_share_sums:
        problem = "copies of a pair that meet in one sum are priced by reduction only"
    if problem is not None:
        raise InvalidPrivacyParameter("accounting", str(schedule.accounting), problem)


def _require_releases(schedule: ReleaseSchedule) -> None:
    """What integer noise adds to epsilon grows with the releases: it must know of all of them."""
    noise = schedule.noise
    if not isinstance(noise, IntegerNoise):
        return
    fewest = record_releases(
        schedule.mode,
        participations=schedule.participations,
        local_steps=schedule.local_steps,
        copies=schedule.copies,
    )
    if noise.releases < fewest:
        raise InvalidPrivacyParameter(
            "releases",
            noise.releases,
            f"a record and its copies may be in {fewest} releases; the noise must be made for all "
            "of them",
        )


def _require_shares(schedule: ReleaseSchedule) -> None:
    if not isinstance(schedule.noise, NoiseShares | IntegerNoise):
        raise InvalidPrivacyParameter(
            "noise", schedule.noise, f"{schedule.mode} mode needs shares of noise"
        )
    if schedule.mode is Mode.USER:
        if schedule.sample_rate != 1:
            raise InvalidPrivacyParameter(
                "sample_rate",
                schedule.sample_rate,
                "mode user protects a client's whole update, and sampling inside the client "
                "does not amplify it: give 1",
            )
    elif schedule.local_steps != 1:
        raise InvalidPrivacyParameter(
            "local_steps",
            schedule.local_steps,
            "a share of noise protects one summed gradient, not a second local step; use 1, or "
            "mode local",
        )


def _require_own_noise(schedule: ReleaseSchedule) -> None:
    if isinstance(schedule.noise, IntegerNoise):
        if schedule.noise.cohort != 1:
            raise InvalidPrivacyParameter(
                "noise",
                schedule.noise,
                f"in {schedule.mode} mode each client adds full noise: cohort 1",
            )
    elif isinstance(schedule.noise, NoiseShares) or schedule.noise is None:
        raise InvalidPrivacyParameter(
            "noise", schedule.noise, f"{schedule.mode} mode needs the client's own noise multiplier"
        )
    else:
        require_noise_multiplier(schedule.noise)
