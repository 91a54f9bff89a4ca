"""Scores that separate members from others, and how well they do it.

For audits: a score per canary, higher when it was more likely in. See `audit` for the bounds.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from accounting.audit import require_scores


def lane_scores(
    lanes: ArrayLike, clip_norm: float, sample_rate: float, noise_multiplier: float
) -> NDArray[np.float64]:
    """Return one score per audit lane: the log-likelihood ratio of "in" against "out".

    Args:
        lanes: released sums of the dummy coordinates, shape [rounds, m], in update units.
        clip_norm: C, what an included canary adds to its lane when it is sampled.
        sample_rate: q, in (0, 1].
        noise_multiplier: z of the sum, > 0.

    Returns:
        shape [m], float64: sum over rounds of log(1 - q + q e^{(2 y - 1) / (2 z^2)}), y = lane / C.
    """
    values = np.asarray(lanes, dtype=np.float64) / clip_norm
    exponent = (2 * values - 1) / (2 * noise_multiplier**2)
    if sample_rate == 1:
        return np.asarray(exponent.sum(axis=0))
    drawn = exponent + math.log(sample_rate)
    return np.asarray(np.logaddexp(math.log1p(-sample_rate), drawn).sum(axis=0))


@dataclass(frozen=True, slots=True)
class MembershipReport:
    """How well scores separate members from others; no bound, just a description.

    Attributes:
        auc: probability that a member scores above a non-member, ties count half.
        tpr_at_fpr: true-positive rate at the highest threshold whose false-positive rate stays
            within `fpr`.
        fpr: that false-positive rate.
    """

    auc: float
    tpr_at_fpr: float
    fpr: float


def membership_report(
    in_scores: ArrayLike, out_scores: ArrayLike, *, fpr: float = 0.01
) -> MembershipReport:
    """Return AUC, and the true-positive rate at a small false-positive rate.

    Args:
        in_scores: scores of members, shape [m1].
        out_scores: scores of non-members, shape [m0].
        fpr: allowed false-positive rate, in [0, 1).

    Raises:
        InvalidPrivacyParameter: no scores, or one that is not finite.
    """
    inside, outside = require_scores(in_scores), require_scores(out_scores)
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    wins = float(ranks[: inside.size].sum()) - inside.size * (inside.size + 1) / 2
    allowed = math.floor(fpr * outside.size)
    threshold = np.sort(outside)[outside.size - 1 - allowed]
    return MembershipReport(
        auc=wins / (inside.size * outside.size),
        tpr_at_fpr=float((inside > threshold).mean()),
        fpr=fpr,
    )
