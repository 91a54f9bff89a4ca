"""Cohorts that outsiders do not learn: the claim, and what aborted rounds take from it.

Whoever does not know who took part sees a sampled Gaussian. Two things could tell on a client. The
first is published records of cohorts; the caller must keep them. The second is the run itself: a
round with too small a cohort is aborted, so where exactly one client is missing to the threshold,
the round happens if and only if that client joins. The others join independently of its data, so
such a round has the same probability in both worlds, and the probability that it ever happens and
the client joins is added to delta.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from accounting.errors import InvalidPrivacyParameter


@dataclass(frozen=True, slots=True)
class SecretCohort:
    """A claim about mode user: who takes part in a round is a secret Poisson sample.

    It amplifies against `Adversary.OUTSIDE` alone; the server runs the rounds and knows.

    Guarantee: the caller ensures that each client joins each round independently with probability
    `rate`, and that neither members nor sizes of cohorts, nor which rounds were aborted, leave the
    server and the clients. A cap on participations may end a client's part early: given what was
    released before, it then joins with probability at most `rate`, which a release at `rate`
    dominates.

    Attributes:
        rate: cohort over clients, in (0, 1].
        rounds: rounds of the whole run, >= 1, whether or not a given client joins them.
        failure: probability that over the run an aborted round could depend on one client's
            joining; taken from delta. See `failure_probability`. In [0, 1].

    Raises:
        InvalidPrivacyParameter: a value lies outside its range.
    """

    rate: float
    rounds: int
    failure: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no sample."""
        if not 0 < self.rate <= 1:
            raise InvalidPrivacyParameter("rate", self.rate, "give a probability in (0, 1]")
        if self.rounds < 1:
            raise InvalidPrivacyParameter("rounds", self.rounds, "give at least 1")
        if not 0 <= self.failure <= 1:
            raise InvalidPrivacyParameter("failure", self.failure, "give a probability")


def failure_probability(
    *, clients: int, rate: float, threshold: int, rounds: int, max_participations: int
) -> float:
    """Return a bound on how likely one client's joining ever decides whether a round is aborted.

    It decides if it joins and `threshold` - 1 others do. In each round the others would be a
    binomial number V, but for those who reached the cap by then; if these are at most w in the
    whole run, at least V - w join. So for any w the answer is at most the number of rounds times
    P[the client joins] P[V <= threshold - 1 + w], plus P[more than w clients reach the cap], and
    the best w counts.

    Args:
        clients: enrolled clients N.
        rate: probability with which each joins a round.
        threshold: fewest clients of a round that is played.
        rounds: rounds T of the run.
        max_participations: rounds after which a client joins no more.
    """
    others = clients - 1
    capped = np.arange(others + 1)
    reached = float(stats.binom.sf(max_participations - 1, rounds - 1, rate))
    too_few = stats.binom.cdf(threshold - 1 + capped, others, rate)
    too_many = stats.binom.sf(capped, others, reached)
    return min(1.0, float(np.min(rounds * rate * too_few + too_many)))


def understated_failure(
    claim: SecretCohort, clients: int, threshold: int, max_participations: int
) -> list[str]:
    """Return what is wrong with a claim's `failure`, a sentence; nothing if it covers the truth."""
    failure = failure_probability(
        clients=clients,
        rate=claim.rate,
        threshold=threshold,
        rounds=claim.rounds,
        max_participations=max_participations,
    )
    if claim.failure >= failure * (1 - 1e-6):
        return []
    told = f"secret cohorts are claimed to fail with probability {claim.failure:.3g}"
    return [f"{told}; with {clients} clients it is up to {failure:.3g}"]


def shortfall_probability(*, clients: int, rate: float, threshold: int) -> float:
    """Return how likely a cohort is too small for its threshold while nobody is capped."""
    return float(stats.binom.cdf(threshold - 1, clients, rate))
