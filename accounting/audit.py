r"""Lower bounds on epsilon from membership guesses: what an experiment says against the claim.

An auditor hides canaries, flips a fair coin for each (in or out), looks at what was released, and
guesses. If the guesses are too good for (epsilon, delta)-DP, the claim is refuted at the stated
confidence. None of these numbers certifies anything: a low bound may just be a weak attack.

* One run, any mechanism: Steinke, Nasr and Jagielski (2023), Theorem 5.2.
* One run, Gaussian trade-off assumed: Mahloujifar, Melis and Chaudhuri (2024), Algorithm 3.
* Independent scores: rates at thresholds fixed in advance, with Clopper-Pearson intervals.

Guarantee: the caller ensures that coins were fair and independent, that the number of guesses and
all thresholds were fixed before the scores were seen, and that scores of in and out canaries were
computed alike. With probability at least `confidence` a correct mechanism's true epsilon is then
not below the bound.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from accounting.closed_form import gaussian_delta, gaussian_epsilon
from accounting.errors import InvalidPrivacyParameter

DEFAULT_CONFIDENCE = 0.95
_LARGEST_EPSILON = 100.0
_BISECTIONS = 60

AuditMethod = Literal["one_run", "one_run_gaussian", "rates", "rates_gaussian", "gaussian_fit"]


@dataclass(frozen=True, slots=True)
class AuditBound:
    """A lower bound on epsilon, with everything needed to recompute it.

    Attributes:
        method: how it was computed.
        epsilon: the lower bound, >= 0.
        delta: the delta it refers to.
        confidence: probability with which it holds for a mechanism as claimed.
        canaries: m, canaries flipped in or out.
        guesses: r, guesses made (all canaries where scores are compared).
        correct: v, correct guesses; None where scores are compared.
    """

    method: AuditMethod
    epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int | None = None


def one_run_bound(
    canaries: int,
    guesses: int,
    correct: int,
    delta: float,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
) -> AuditBound:
    """Return the bound of Steinke, Nasr and Jagielski (2023) from one training run.

    Args:
        canaries: m >= 1, each included independently with probability 1/2.
        guesses: r in [1, m], fixed in advance; the auditor abstains on the rest.
        correct: v in [0, r].
        delta: delta of the claim, in [0, 1).
        confidence: in (0, 1).

    Raises:
        InvalidPrivacyParameter: a number out of range.
    """
    _require_counts(canaries, guesses, correct, delta, confidence)

    def refuted(epsilon: float) -> bool:
        p_value = one_run_p_value(canaries, guesses, correct, epsilon, delta)
        return p_value < 1 - confidence

    epsilon = _largest(refuted)
    return AuditBound("one_run", epsilon, delta, confidence, canaries, guesses, correct)


def one_run_p_value(
    canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    """Return how likely so many correct guesses are, at most, under (epsilon, delta)-DP.

    With q = e^epsilon / (1 + e^epsilon) and B ~ Bin(r, q):
    P[B >= v] + 2 m delta max_i P[v > B >= v - i] / i, capped at 1.
    """
    law = stats.binom(guesses, special.expit(epsilon))
    beta = float(law.sf(correct - 1))
    if delta == 0 or correct == 0:
        return min(1.0, beta)
    steps = np.arange(1, correct + 1)
    between = law.sf(correct - steps - 1) - beta
    alpha = float(np.max(between / steps))
    return min(1.0, beta + 2 * canaries * delta * max(0.0, alpha))


def one_run_gaussian_bound(
    canaries: int,
    guesses: int,
    correct: int,
    delta: float,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
) -> AuditBound:
    """Return the tighter one-run bound that assumes a Gaussian trade-off curve.

    Args: as in `one_run_bound`, with delta in (0, 1).

    Raises:
        InvalidPrivacyParameter: a number out of range.
    Reference: Mahloujifar, Melis and Chaudhuri (2024), Algorithm 3.
    """
    _require_counts(canaries, guesses, correct, delta, confidence)
    if delta == 0:
        raise InvalidPrivacyParameter("delta", delta, "a Gaussian curve needs delta above 0")

    def refuted(epsilon: float) -> bool:
        separation = _separation(epsilon, delta)
        return _too_good(canaries, guesses, correct, separation, 1 - confidence)

    epsilon = _largest(refuted)
    return AuditBound("one_run_gaussian", epsilon, delta, confidence, canaries, guesses, correct)


def _too_good(canaries: int, guesses: int, correct: int, separation: float, level: float) -> bool:
    """Return whether v of r correct guesses are impossible at this level for N(0,1) vs N(mu,1)."""
    right = level * correct / canaries
    wrong = level * (guesses - correct) / canaries
    for index in range(correct - 1, -1, -1):
        most = max(wrong, float(special.ndtr(special.ndtri(right) - separation)))
        if most <= wrong:
            break
        right = min(1.0, right + index / (guesses - index) * (most - wrong))
        wrong = most
    return right + wrong > guesses / canaries


def rates_bound(
    in_scores: ArrayLike,
    out_scores: ArrayLike,
    thresholds: Sequence[float],
    delta: float,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
    gaussian: bool = False,
) -> AuditBound:
    """Return the best bound over fixed thresholds, from independent scores.

    True- and false-positive rates get one-sided Clopper-Pearson limits, with a Bonferroni
    correction over thresholds and both rates.

    Args:
        in_scores: scores of canaries that were in, shape [m1]; higher means more likely in.
        out_scores: scores of those that were out, shape [m0].
        thresholds: fixed before the scores were seen; each may be used in the report.
        delta: delta of the claim; in (0, 1) if `gaussian`, else in [0, 1).
        confidence: in (0, 1).
        gaussian: assume a Gaussian trade-off curve: tighter, but a model.

    Raises:
        InvalidPrivacyParameter: a number out of range, or no scores or thresholds.
    """
    inside, outside = require_scores(in_scores), require_scores(out_scores)
    _require_level(delta, confidence)
    if not len(thresholds):
        raise InvalidPrivacyParameter("thresholds", thresholds, "fix at least one in advance")
    level = (1 - confidence) / (2 * len(thresholds))
    best = 0.0
    for threshold in thresholds:
        hit_rate = _lower_limit(int((inside > threshold).sum()), inside.size, level)
        false_rate = 1 - _lower_limit(int((outside <= threshold).sum()), outside.size, level)
        if gaussian:
            separation = float(special.ndtri(hit_rate) - special.ndtri(false_rate))
            found = gaussian_epsilon(separation, delta) if separation > 0 else 0.0
        else:
            found = max(
                _log_ratio(hit_rate - delta, false_rate),
                _log_ratio(1 - false_rate - delta, 1 - hit_rate),
            )
        best = max(best, found)
    count = inside.size + outside.size
    method: AuditMethod = "rates_gaussian" if gaussian else "rates"
    return AuditBound(method, best, delta, confidence, count, count)


def gaussian_fit_bound(
    in_scores: ArrayLike,
    out_scores: ArrayLike,
    delta: float,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
) -> AuditBound:
    """Return the bound if both groups are Gaussian with one variance: tightest, and most model.

    The standardised difference of means is a noncentral t; its noncentrality is bounded from
    below, exactly under the model.

    Args: as in `rates_bound`; at least two scores in each group.

    Raises:
        InvalidPrivacyParameter: a number out of range, or too few scores.
    """
    inside, outside = require_scores(in_scores), require_scores(out_scores)
    _require_level(delta, confidence)
    n, m = inside.size, outside.size
    if min(n, m) < 2:  # noqa: PLR2004
        raise InvalidPrivacyParameter("scores", min(n, m), "give two scores of each kind or more")
    freedom = n + m - 2
    pooled = math.sqrt((inside.var(ddof=1) * (n - 1) + outside.var(ddof=1) * (m - 1)) / freedom)
    scale = math.sqrt(n * m / (n + m))
    apart = float(inside.mean() - outside.mean())

    def refuted(separation: float) -> bool:
        if pooled == 0:  # no noise at all: every separation is refuted
            return True
        observed = apart / pooled * scale
        return float(stats.nct.sf(observed, freedom, separation * scale)) < 1 - confidence

    separation = _largest(refuted) if apart > 0 else 0.0
    epsilon = gaussian_epsilon(separation, delta) if separation > 0 else 0.0
    return AuditBound("gaussian_fit", epsilon, delta, confidence, n + m, n + m)


def _separation(epsilon: float, delta: float) -> float:
    """Return the mu for which N(0,1) against N(mu,1) is exactly (epsilon, delta)-DP."""
    low, high = 0.0, math.sqrt(2 * epsilon) + 2 * abs(float(special.ndtri(delta))) + 10
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if float(gaussian_delta(epsilon, middle)) > delta:
            high = middle
        else:
            low = middle
    return low


def _largest(refuted: Callable[[float], bool]) -> float:
    """Return the largest value that is refuted, by bisection; 0 if none is."""
    low, high = 0.0, _LARGEST_EPSILON
    if not refuted(low):
        return 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if refuted(middle):
            low = middle
        else:
            high = middle
    return low


def _lower_limit(successes: int, trials: int, level: float) -> float:
    """Return the one-sided Clopper-Pearson lower limit of a rate."""
    if successes == 0:
        return 0.0
    return float(stats.beta.ppf(level, successes, trials - successes + 1))


def _log_ratio(numerator: float, denominator: float) -> float:
    if numerator <= 0:
        return 0.0
    return math.inf if denominator <= 0 else max(0.0, math.log(numerator / denominator))


def require_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Return finite scores as a flat float64 array, or raise `InvalidPrivacyParameter`."""
    values = np.asarray(scores, dtype=np.float64).ravel()
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise InvalidPrivacyParameter("scores", values.size, "give finite scores of both kinds")
    return values


def _require_level(delta: float, confidence: float) -> None:
    if not 0 <= delta < 1:
        raise InvalidPrivacyParameter("delta", delta, "give a probability in [0, 1)")
    if not 0 < confidence < 1:
        raise InvalidPrivacyParameter("confidence", confidence, "give a probability in (0, 1)")


def _require_counts(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float
) -> None:
    _require_level(delta, confidence)
    if not 1 <= guesses <= canaries:
        raise InvalidPrivacyParameter("guesses", guesses, f"give 1 to {canaries} guesses")
    if not 0 <= correct <= guesses:
        raise InvalidPrivacyParameter("correct", correct, f"give 0 to {guesses}")
