r"""Cohorts drawn by secret coins, and why they lower nobody's epsilon.

It is tempting to book each round, for whoever does not learn who took part, as a Poisson-sampled
Gaussian. That needs noise whose law is the same whether or not one client joins. Here every client
brings a share of its own, so a sum over M clients carries M shares, and in d coordinates its noise
shows M up to about sqrt(2 / d) M: the adapter itself tells how many took part. Sizes that are kept
secret do not help.

Once M is known, the others cannot be given to the adversary beside it, as the proof of Poisson
sampling does, since M less the others is the client's coin. What is left is a random subset of
known size: the client is in it with probability M / N, and in another's place. Let all others send
-u with |u| = 1 clip norm, and the client u. Then the sum is -M u without the client, -(M - 2) u
with it, and -(M - 1) u if it is a null record: joining moves the sum by two clip norms, not by one
(subsampling without replacement: Balle, Barthe and Gaboardi 2018, section 4). At 1000 clients, rate
0.1, threshold 52 and noise 1 a single round of 100 clients has delta 1.1e-3 at epsilon 1; the
sampled Gaussian that used to be booked has 2.1e-4.

So all adversaries are priced by participations. A bound for random subsets would be half the noise
at rate M / N, but a cap on participations undoes the symmetry that it rests on.
"""

import math
from dataclasses import dataclass

from scipy import stats

from accounting.errors import InvalidPrivacyParameter

_SAME_RATE = 1e-9


@dataclass(frozen=True, slots=True)
class SecretCohort:
    """Mode user: each client joins each round by a coin of its own, so cohorts have any size.

    It says how cohorts are drawn, and amplifies against nobody: see this module.

    Attributes:
        rate: cohort over clients, in (0, 1].
        rounds: rounds of the whole run, >= 1, whether or not a given client joins them.

    Raises:
        InvalidPrivacyParameter: a value lies outside its range.
    """

    rate: float
    rounds: int

    def __post_init__(self) -> None:
        """Refuse what is no sample."""
        if not 0 < self.rate <= 1:
            raise InvalidPrivacyParameter("rate", self.rate, "give a probability in (0, 1]")
        if self.rounds < 1:
            raise InvalidPrivacyParameter("rounds", self.rounds, "give at least 1")

    def problems(self, *, clients: int, cohort: int, rounds: int) -> list[str]:
        """Return in what way a run was not drawn as claimed, a sentence each.

        Args:
            clients: enrolled clients.
            cohort: mean cohort, for which the noise was made.
            rounds: rounds booked.
        """
        found = []
        if not math.isclose(self.rate * clients, cohort, rel_tol=_SAME_RATE):
            found.append(
                f"cohorts are claimed to be drawn at rate {self.rate:.6g}, and the noise is made "
                f"for {cohort} of {clients} clients"
            )
        if rounds > self.rounds:
            found.append(f"{rounds} rounds were booked, the plan has {self.rounds}")
        return found


def shortfall_probability(*, clients: int, rate: float, threshold: int) -> float:
    """Return how likely a cohort is too small for its threshold while nobody is capped."""
    return float(stats.binom.cdf(threshold - 1, clients, rate))
