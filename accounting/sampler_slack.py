"""What noise costs that is drawn with slightly wrong probabilities.

Each of the N = shares x coordinates x releases samples of a run has probabilities within a factor
e^{+-h} of the intended ones, up to 12 standard deviations. The log ratio of all of them is a sum of
N terms in [-h, h] with mean at most h^2 / 2 each, so by Azuma's inequality it exceeds
N h^2 / 2 + h sqrt(2 N ln(1 / f)) with probability at most f (the argument of advanced composition,
Dwork, Rothblum and Vadhan 2010), f = 1e-300. The few samples beyond are counted: at most m of them
but for another f, each wrong by at most e^{+-12 h}.

Whatever is computed from the samples afterwards cannot add to it, so it does not matter whether a
sample is a share of noise or half of one. The argument, with every constant, is in
docs/proofs/discrete-gaussian.md.
"""

import math

from accounting.accountants import NO_SLACK, Slack
from accounting.errors import InvalidPrivacyParameter

LARGEST_SAMPLER_SLACK = 1e-3
SAMPLER_FAILURE = 1e-300
# Of the sum over the run (Azuma), of the count of far samples, and of samples beyond 41 stddevs.
_SAMPLER_FAILURES = 4 * SAMPLER_FAILURE
_FAR_PROBABILITY = 3 * math.exp(-72)  # more than the mass beyond 12 standard deviations
_FAR_RATIO = 12.0  # (41.5 / 12)^2: the sampler's error grows with the square of the distance


def sampler_slack(samples: float, relative_error: float) -> Slack:
    """Return what the samples of a whole run may cost beyond exact ones.

    Args:
        samples: N >= 1.
        relative_error: how far the sampler's probabilities may be from the intended ones,
            relatively, at any point up to 12 standard deviations; in [0, 1).

    Guarantee: the caller ensures that at k > 12 standard deviations the error is at most
        (k / 12)^2 times that, that at most 3 e^-72 of the mass lies there, and that the mass
        beyond 41.5 standard deviations is below 1e-300 in all samples together.
    """
    if relative_error == 0:
        return NO_SLACK
    single = -math.log1p(-relative_error)
    plain = samples * single
    certain = _FAR_RATIO * plain
    by_azuma = plain * single / 2 + single * math.sqrt(2 * samples * -math.log(SAMPLER_FAILURE))
    likely = min(plain, by_azuma) + _far_slack(samples, single)
    if certain <= likely:
        return Slack(certain, 0.0, certain)
    return Slack(likely, _SAMPLER_FAILURES, certain)


def require_sampler_error(relative_error: float) -> None:
    """Raise `InvalidPrivacyParameter` unless the error is in [0, 1)."""
    if not 0 <= relative_error < 1:
        raise InvalidPrivacyParameter(
            "sampler_relative_error", relative_error, "give a number in [0, 1)"
        )


def require_small_slack(slack: Slack, relative_error: float) -> None:
    """Raise `InvalidPrivacyParameter` if the slack of a run is too large to be a correction."""
    if slack.log_ratio > LARGEST_SAMPLER_SLACK:
        raise InvalidPrivacyParameter(
            "sampler_relative_error",
            relative_error,
            "the sampler is too inexact for this many coordinates, clients and releases; use "
            "a sampler of higher precision",
        )


def _far_slack(samples: float, single: float) -> float:
    """Return the log ratio booked for samples beyond 12 standard deviations.

    At least m of them occur with probability at most (samples * p)^m. The second term is what
    leaving them out may add to the mean of the others.
    """
    expected = samples * _FAR_PROBABILITY
    if expected >= math.exp(-1):
        return math.inf
    most = math.ceil(math.log(SAMPLER_FAILURE) / math.log(expected))
    return _FAR_RATIO * most * single + expected
