"""Judging a run by what its released adapter knows about pairs: canaries and membership.

The score of a pair is the reference ratio, beta times [(log pi - log pi_ref)(chosen) - (log pi -
log pi_ref)(rejected)], under the final adapter. That is what PREMIA uses for membership inference
on preference data (Feng et al. 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accounting import (
    Adjacency,
    Adversary,
    ReleaseSchedule,
    Repeated,
    UnsupportedAdjacency,
    UnsupportedMechanism,
    membership_report,
    one_run_bound,
    one_run_gaussian_bound,
    pld_epsilon,
)
from privfed_dpo.audit.findings import JudgedBound, Membership
from privfed_dpo.audit.guesses import (
    guessing_ceiling,
    highest_correct,
    planned_guesses,
    surest_correct,
)
from privfed_dpo.audit.pair_canaries import PairCoins

FALSE_POSITIVE_RATE = 0.01
_NAMES = {"in_out": "pairs in/out", "swap": "pairs swapped"}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a run promised, for as many rounds as were booked.

    Attributes:
        schedule: the plan's releases.
        participations: most rounds booked for one client, >= 1.
        rounds: booked rounds of the run.
        delta: delta of the promise.
    """

    schedule: ReleaseSchedule
    participations: int
    rounds: int
    delta: float

    def epsilon(self, adversary: Adversary, adjacency: Adjacency = Adjacency.ZERO_OUT) -> float:
        """Return the certified epsilon, with the slack of the discrete mechanism.

        Under replace-one adjacency the adversary is taken to know who took part in each round.
        Infinite without noise, and where no accountant prices the mechanism under replace-one
        adjacency: then nothing was promised that an audit could refute.
        """
        schedule = self.schedule
        if adjacency is Adjacency.ZERO_OUT:
            spent = schedule.spent(adversary, self.delta, self.participations, self.rounds)
            return spent.certified
        one = schedule.round_events(adversary)
        spends = [Repeated(one.event, one.count * self.participations)]
        try:
            return schedule.slack.price(
                lambda delta: pld_epsilon(spends, delta, adjacency=adjacency), self.delta
            )
        except (UnsupportedAdjacency, UnsupportedMechanism):
            return math.inf


def audit_pairs(
    coins: PairCoins,
    margins: npt.NDArray[np.float64],
    claim: Claim,
    *,
    confidence: float,
) -> tuple[JudgedBound, ...]:
    """Bound epsilon from below by guessing the coins of pair canaries from the final adapter.

    in_out: the r highest margins are guessed "in". swap: the sign of a margin is the guess, for
    the r surest. Canaries of one run are not independent of each other, so only one-run bounds
    apply.

    Args:
        coins: the truth.
        margins: score of every canary as drawn, shape [m].
        claim: tested against the outside adversary, who holds the adapter.
        confidence: of each bound by itself.
    """
    swapped = coins.form == "swap"
    adjacency = Adjacency.REPLACE_ONE if swapped else Adjacency.ZERO_OUT
    certified, delta = claim.epsilon(Adversary.OUTSIDE, adjacency), claim.delta
    count = margins.size
    guesses = planned_guesses(count, certified, confidence=confidence)
    count_correct = surest_correct if swapped else highest_correct
    correct = count_correct(margins, coins.heads, guesses)
    ceiling = guessing_ceiling(count, guesses, delta, confidence=confidence)
    bounds = (
        (one_run_bound(count, guesses, correct, delta, confidence=confidence), ceiling),
        (one_run_gaussian_bound(count, guesses, correct, delta, confidence=confidence), None),
    )
    return tuple(
        JudgedBound(
            canaries=_NAMES[coins.form],
            bound=bound,
            certified=certified,
            adversary=Adversary.OUTSIDE,
            adjacency=adjacency,
            ceiling=limit,
        )
        for bound, limit in bounds
    )


def membership(
    about: str, members: npt.NDArray[np.float64], others: npt.NDArray[np.float64]
) -> Membership:
    """Describe how well margins tell members from others, at 1 % false positives.

    Args:
        about: which members and which others, in words.
        members: margins of members, shape [n], n >= 1.
        others: margins of others, shape [k], k >= 1.
    """
    found = membership_report(members, others, fpr=FALSE_POSITIVE_RATE)
    return Membership(
        about=about,
        auc=found.auc,
        tpr_at_fpr=found.tpr_at_fpr,
        fpr=found.fpr,
        members=members.size,
        others=others.size,
    )
