"""How well anybody could do on synthetic users: Bayes accuracies, exact, by enumeration.

Two answers of k attributes differ in one of (2 * levels - 1)^k ways z. Every user's probability of
each z and of each verdict on it is known, so the expected accuracy of a rule is a finite sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privfed_dpo.data.tastes import Reals, Tastes

Verdict = Literal["common", "own", "votes"]
"""Who judges held-out pairs: the common weights without noise; each user's own weights without
noise; each user's own votes, noise included."""

_TIE = 1e-9


@dataclass(frozen=True, slots=True)
class ClientAccuracy:
    """Expected accuracy over users who count the same.

    Attributes:
        mean: over users.
        min: of the user served worst.
    """

    mean: float
    min: float


@dataclass(frozen=True, slots=True)
class KnownOptimum:
    """Expected held-out accuracy of the best rules that any number of training votes could teach.

    A rule sees the difference z of two answers, not the user. Where held-out verdicts are votes,
    these are Bayes accuracies in the strict sense: no rule of that kind does better on average.

    Attributes:
        own: every user has a rule of their own, which follows their own weights.
        groups: one rule for the opposed users and one for all others.
        shared: one rule for all.
        common: the rule that follows the common weights.
        pairwise_disagreement: probability that the own weights of two different users, drawn at
            random, give different verdicts on a held-out pair; 0 with one user.
        verdict: who judges held-out pairs.
    """

    own: ClientAccuracy
    groups: ClientAccuracy
    shared: ClientAccuracy
    common: ClientAccuracy
    pairwise_disagreement: float
    verdict: Verdict


def known_optimum(
    tastes: Tastes, *, values: Sequence[float], verdict: Verdict, common_gap: float = 0.0
) -> KnownOptimum:
    """Compute what is attainable.

    Args:
        tastes: N users.
        values: the value of each level, ascending and equally spaced.
        verdict: who judges held-out pairs.
        common_gap: held-out pairs judged by the common weights differ at least this much in
            common utility.

    Returns:
        Exact expectations over pairs as they are drawn: two answers, the second drawn again until
        it differs in level from the first.
    """
    differences, shares = _pair_shares(tastes, values)
    utilities = tastes.own @ differences.T
    votes = tastes.choice(utilities)
    common = np.broadcast_to(_sure(tastes.common @ differences.T), votes.shape)
    own = _sure(utilities)
    truth, held_out = {"common": common, "own": own, "votes": votes}[verdict], shares
    if verdict == "common":
        clear = np.abs(tastes.common @ differences.T) >= common_gap
        held_out = shares * clear / (shares * clear).sum(axis=1, keepdims=True)

    everybody = np.ones((1, len(shares)), dtype=bool)
    groups = np.stack([~tastes.opposed, tastes.opposed])

    def scored(rule: Reals) -> ClientAccuracy:
        right = (held_out * (rule * truth + (1.0 - rule) * (1.0 - truth))).sum(axis=1)
        return ClientAccuracy(float(right.mean()), float(right.min()))

    return KnownOptimum(
        own=scored(own),
        groups=scored(_majority(shares, votes, groups)),
        shared=scored(_majority(shares, votes, everybody)),
        common=scored(common),
        pairwise_disagreement=_disagreement(own, held_out.mean(axis=0)),
        verdict=verdict,
    )


def _pair_shares(tastes: Tastes, values: Sequence[float]) -> tuple[Reals, Reals]:
    """All differences [m, k], and each user's probability of each, [N, m]."""
    users, size, levels = tastes.levels.shape
    answers = np.array(list(itertools.product(range(levels), repeat=size)))
    steps = answers[:, None, :] - answers[None, :, :]
    found, place = np.unique(steps.reshape(-1, size), axis=0, return_inverse=True)
    step = (values[-1] - values[0]) / (levels - 1)
    shares = np.zeros((users, len(found)))
    for user, offered in enumerate(tastes.levels):
        one = np.prod(offered[np.arange(size), answers], axis=1)
        both = one[:, None] * one[None, :] / (1.0 - one[:, None])
        np.fill_diagonal(both, 0.0)
        shares[user] = np.bincount(place.ravel(), both.ravel(), minlength=len(found))
    return found * step, shares


def _majority(shares: Reals, votes: Reals, groups: NDArray[np.bool_]) -> Reals:
    """Each user's rule [N, m]: what most votes of the user's group say."""
    rules = np.zeros_like(votes)
    for group in groups:
        if group.any():
            rules[group] = _sure((shares * (2.0 * votes - 1.0))[group].mean(axis=0))
    return rules


def _sure(utility: Reals) -> Reals:
    """1 for the first answer, 0 for the second, one half at a tie."""
    verdict: Reals = np.where(np.abs(utility) < _TIE, 0.5, (utility > 0).astype(np.float64))
    return verdict


def _disagreement(own: Reals, shares: Reals) -> float:
    count = len(own)
    if count == 1:
        return 0.0
    first, both = own.sum(axis=0), (own * (1.0 - own)).sum(axis=0)
    differ = 2.0 * (first * (count - first) - both) / (count * (count - 1))
    return float(differ @ shares)
