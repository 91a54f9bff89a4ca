"""Plans that promise too little or cannot keep what they promise, refused with what to change."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

from accounting import Adversary, Budget, EpsilonPair, InvalidPrivacyParameter, ReleaseSchedule
from privfed_dpo.errors import InputNotice, PlanRefused

_COARSE_STEPS = 1e6
"""Narrower shares are refused where a grid is too coarse, wider ones where it is too fine."""


def require_small_delta(delta: float, records: int, unit: str) -> None:
    """Refuse a delta under which one record may be published whole.

    Args:
        delta: of the whole run.
        records: N, how many protected units there are.
        unit: what they are, for the message.

    Raises:
        PlanRefused: delta is not below 1/N.
    """
    if delta * records >= 1:
        raise PlanRefused(
            f"privacy.delta={delta:g} is not below 1 / {records}, one over the number of {unit}: "
            "it would allow one of them to be published whole",
            advice="Lower privacy.delta, or leave it out.",
        )


def require_one_round(schedule: ReleaseSchedule, whole_epsilon: float, budget: Budget) -> None:
    """Refuse given noise under which not even a first round is within the budget.

    Warns where the budget ends the run early, which it does once no further round fits.

    Args:
        schedule: at that noise.
        whole_epsilon: what all its rounds cost together, more than the budget.
        budget: target epsilon and delta.

    Raises:
        PlanRefused: a first round costs more than the whole budget.
    """
    first = replace(schedule, participations=1)
    least = first.epsilon(first.headline, budget.delta).certified
    if least > budget.epsilon:
        raise PlanRefused(
            f"under the given noise a first round costs epsilon {least:.3g}, more than the budget "
            f"of {budget.epsilon:g}",
            advice="Raise privacy.noise_multiplier, or leave it out: it is then found.",
        )
    warnings.warn(
        f"all {schedule.participations} rounds of one client would cost epsilon "
        f"{whole_epsilon:.3g}: the budget of {budget.epsilon:g} ends the run early",
        InputNotice,
        stacklevel=2,
    )


def require_whole_run(
    schedule: ReleaseSchedule, epsilons: Mapping[Adversary, EpsilonPair], budget: Budget
) -> None:
    """Refuse secret cohorts that a budget could cut short: the end would tell who took part.

    Args:
        schedule: with secret cohorts.
        epsilons: what it costs.
        budget: what may be spent.

    Raises:
        PlanRefused: the whole run costs more.
    """
    if epsilons[schedule.headline].certified > budget.epsilon:
        raise PlanRefused(
            f"{schedule.participations} rounds of one client cost more than epsilon "
            f"{budget.epsilon:g}, and secret cohorts may not end a run early",
            advice="Lower federation.max_participations, or raise privacy.noise_multiplier.",
        )


def where_it_comes_from(error: InvalidPrivacyParameter) -> str:
    """Say which keys lead to a number of the accounting that nobody has typed."""
    if error.parameter == "share_stddev_steps" and float(str(error.value)) < _COARSE_STEPS:
        return (
            "The grid follows from the cohort, its pairs and the noise. More noise helps: lower "
            "privacy.target_epsilon, or raise privacy.noise_multiplier, privacy.sample_rate or "
            "federation.rounds; so does secure_agg.modulus_bits=64."
        )
    if error.parameter == "noise_multiplier":
        return "Choose another privacy.noise_multiplier: what a share needs is worked out from it."
    return ""
