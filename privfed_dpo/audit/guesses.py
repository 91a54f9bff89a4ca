"""From scores to membership guesses, by rules that are fixed before any score is seen."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from accounting import one_run_bound

GUESSED_SHARE = 20
"""One canary in this many is guessed, unless that is too few."""

FEWEST_GUESSES = 30
"""Fewer right guesses prove next to nothing: 30 stop at an epsilon of 2.2, 3 prove nothing."""

_HEADROOM = 1.1


def planned_guesses(canaries: int, claimed_epsilon: float, *, confidence: float) -> int:
    """Return r, the number of guesses, from public numbers alone.

    Perfect guesses prove no more than a ceiling that grows with r, the log-odds of
    (1 - confidence)^(1/r). So r is a twentieth of the canaries (30 at least, half of them at
    most), or as many as a ceiling above the claim takes. If even guessing all canaries could not
    refute the claim, the former remains: the surest guesses give the largest bound. Without a
    claim, half of the canaries are guessed.

    Args:
        canaries: m, at least 1.
        claimed_epsilon: the certified epsilon under test; may be infinite.
        confidence: of the bound, in (0, 1).

    Returns:
        r in [1, m].
    """
    half = max(1, canaries // 2)
    few = max(canaries // GUESSED_SHARE, min(FEWEST_GUESSES, half))
    if not math.isfinite(claimed_epsilon):
        return half
    log_odds = -math.log(special.expit(_HEADROOM * claimed_epsilon))
    needed = math.ceil(math.log(1 / (1 - confidence)) / log_odds) if log_odds else canaries + 1
    return max(few, needed) if needed <= canaries else few


def guessing_ceiling(canaries: int, guesses: int, delta: float, *, confidence: float) -> float:
    """Return the largest epsilon that `guesses` guesses could show, all of them right."""
    return one_run_bound(canaries, guesses, guesses, delta, confidence=confidence).epsilon


def surest_correct(
    scores: npt.NDArray[np.float64], coins: npt.NDArray[np.bool_], guesses: int
) -> int:
    """Guess the canaries whose score is farthest from 0, "in" above it; count the right ones.

    For scores that are log-likelihood ratios, where 0 means undecided.

    Args:
        scores: shape [m].
        coins: the truth, shape [m].
        guesses: r, fixed beforehand. Ties fall to the lower number, whatever the coins.
    """
    surest = np.argsort(-np.abs(scores), kind="stable")[:guesses]
    return int(((scores[surest] > 0.0) == coins[surest]).sum())


def highest_correct(
    scores: npt.NDArray[np.float64], coins: npt.NDArray[np.bool_], guesses: int
) -> int:
    """Guess the highest scores to be "in" and abstain on the rest; count the right guesses.

    For scores whose zero means nothing. Arguments as in `surest_correct`.
    """
    highest = np.argsort(-scores, kind="stable")[:guesses]
    return int(coins[highest].sum())
