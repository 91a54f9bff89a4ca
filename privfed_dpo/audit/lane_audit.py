"""Judging a run by its audit lanes: dummy coordinates that went through the whole mechanism.

The score of a lane is the log-likelihood ratio of "its canary is in" against "it is out", given
all opened sums and the noise that the survivors of each round gave. Everything that decides the
outcome is fixed by public numbers: the score, r (`guesses.planned_guesses`), and the thresholds,
which lie between the score's expected values under "out" and "in" for the planned mechanism.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from accounting import (
    Adjacency,
    Adversary,
    AuditBound,
    IntegerNoise,
    PoissonGaussianRelease,
    ReleaseSchedule,
    Repeated,
    gaussian_fit_bound,
    lane_scores,
    one_run_bound,
    one_run_gaussian_bound,
    pld_epsilon,
    rates_bound,
)
from privfed_dpo.audit.findings import JudgedBound
from privfed_dpo.audit.guesses import guessing_ceiling, planned_guesses, surest_correct
from privfed_dpo.engine.lanes import LaneRecord
from privfed_dpo.errors import DataError

CONFIDENCE = 0.95
LANES = "lanes"

_HERMITE_NODES = 80
_SMALLEST_GROUP = 2


@dataclass(frozen=True, slots=True)
class LaneEvidence:
    """The opened lanes of a run and what the server knew about each round.

    Attributes:
        coins: the truth, shape [m].
        opened: lanes in clip norms, shape [t, m].
        noise: noise multiplier of each sum, shape [t].
        present: whether the lane's host was in the sum, shape [t, m].
        sample_rate: q.
    """

    coins: npt.NDArray[np.bool_] = field(repr=False)
    opened: npt.NDArray[np.float64] = field(repr=False)
    noise: npt.NDArray[np.float64]
    present: npt.NDArray[np.bool_] = field(repr=False)
    sample_rate: float

    @classmethod
    def of_run(
        cls,
        record: LaneRecord,
        schedule: ReleaseSchedule,
        survivors: Mapping[int, Sequence[int]],
    ) -> LaneEvidence:
        """Put lanes and protocol together.

        Args:
            record: what the auditor kept.
            schedule: the plan's releases.
            survivors: client numbers in the opened sum of every round, as the ledger has them.

        Raises:
            DataError: the record does not belong to these rounds, or there was no shared noise.
        """
        shares = schedule.noise
        if not isinstance(shares, IntegerNoise) or not record.rounds.size:
            raise DataError(
                "the audit lanes saw no noisy sum",
                advice="Lanes audit runs of privacy.mode=distributed that opened a round.",
            )
        counts = [len(survivors.get(int(number), ())) for number in record.rounds]
        if counts != record.survivors.tolist():
            raise DataError(
                "the audit lanes belong to other rounds than the ledger's",
                advice="Audit a run folder as train left it.",
            )
        hosts = record.coins.hosts
        return cls(
            coins=record.coins.included,
            opened=record.opened,
            noise=np.array([shares.effective_noise_multiplier(count, 0) for count in counts]),
            present=np.array(
                [np.isin(hosts, list(survivors[int(number)])) for number in record.rounds]
            ),
            sample_rate=schedule.sample_rate,
        )

    def scores(self) -> npt.NDArray[np.float64]:
        """Log-likelihood ratios, shape [m]; rounds without the host say nothing and count 0."""
        total = np.zeros(self.coins.size)
        for lanes, noise, present in zip(self.opened, self.noise, self.present, strict=True):
            one = lane_scores(lanes[None, :], 1.0, self.sample_rate, float(noise))
            total += np.where(present, one, 0.0)
        return total

    def thresholds(self) -> tuple[float, ...]:
        """Five cuts for hit rates, from the planned mechanism alone."""
        share = self.present.mean(axis=1)
        outs, ins, variances = zip(
            *(_score_moments(self.sample_rate, float(noise)) for noise in self.noise), strict=True
        )
        low, high = float(share @ np.array(outs)), float(share @ np.array(ins))
        spread = float(np.sqrt(share @ np.array(variances)))
        middle = (low + high) / 2
        return (middle, high, low + spread, low + 2 * spread, low + 3 * spread)

    def epsilon_as_run(self, delta: float) -> float:
        """Epsilon of the busiest host's rounds with the noise there was, seen by the server.

        Of Gaussian noise as wide as the noise was; what to expect of an audit, no guarantee.
        """
        busiest = self.present[:, int(self.present.sum(axis=0).argmax())]
        noises, counts = np.unique(self.noise[busiest], return_counts=True)
        spends = [
            Repeated(PoissonGaussianRelease(self.sample_rate, float(noise)), int(count))
            for noise, count in zip(noises, counts, strict=True)
        ]
        return pld_epsilon(spends, delta)


def audit_lanes(
    evidence: LaneEvidence, *, certified: float, delta: float, confidence: float = CONFIDENCE
) -> tuple[JudgedBound, ...]:
    """Bound epsilon from below by every method that the lanes allow.

    Args:
        evidence: the lanes of the run.
        certified: epsilon certified against the server.
        delta: delta of the claim.
        confidence: of each bound by itself.

    Returns:
        Bounds by Steinke et al., the f-DP variant, rates with Clopper-Pearson limits (plain and
        Gaussian) and a Gaussian fit; the last three need both kinds of canaries, and the fit
        scores that are not all alike.
    """
    scores, coins = evidence.scores(), evidence.coins
    guesses = planned_guesses(coins.size, certified, confidence=confidence)
    correct = surest_correct(scores, coins, guesses)
    counts = (coins.size, guesses, correct, delta)
    as_run = evidence.epsilon_as_run(delta)
    ceiling = guessing_ceiling(coins.size, guesses, delta, confidence=confidence)

    def judged(bound: AuditBound, limit: float | None = None) -> JudgedBound:
        return JudgedBound(
            LANES, bound, certified, Adversary.SERVER, Adjacency.ZERO_OUT, as_run, limit
        )

    found = [
        judged(one_run_bound(*counts, confidence=confidence), ceiling),
        judged(one_run_gaussian_bound(*counts, confidence=confidence)),
    ]
    inside, outside = scores[coins], scores[~coins]
    if min(inside.size, outside.size) >= _SMALLEST_GROUP:
        cuts = evidence.thresholds()
        found += [
            judged(rates_bound(inside, outside, cuts, delta, confidence=confidence)),
            judged(rates_bound(inside, outside, cuts, delta, confidence=confidence, gaussian=True)),
        ]
        if inside.var() + outside.var() > 0.0:
            found.append(judged(gaussian_fit_bound(inside, outside, delta, confidence=confidence)))
    return tuple(found)


def _score_moments(sample_rate: float, noise: float) -> tuple[float, float, float]:
    """Return mean under "out", mean under "in" and variance under "out" of one round's score."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_HERMITE_NODES)
    weights = weights / weights.sum()
    absent, drawn = (
        lane_scores((shift + noise * nodes)[None, :], 1.0, sample_rate, noise)
        for shift in (0.0, 1.0)
    )
    out = float(weights @ absent)
    inside = (1 - sample_rate) * out + sample_rate * float(weights @ drawn)
    return out, inside, float(weights @ (absent - out) ** 2)
