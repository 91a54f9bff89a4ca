"""Bradley–Terry users whose tastes differ by a stated amount, so that the right answer is known.

A pair is the difference z of the features of two answers to one prompt. A user with reward weights
r prefers the first with probability s(r . z) (Bradley and Terry, 1952). Under a log-linear policy
log pi(y|x) = theta . phi(x, y) + const the normaliser cancels in the log-ratio of DPO, which
becomes beta * (theta - theta_ref) . z, so one user's optimum is r / beta.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Dials:
    """How much users differ; all zero means that only chance tells them apart.

    Attributes:
        optimum_shift: standard deviation of a user's own reward weights around the common ones, in
            units of the common weights' length over sqrt(d).
        opposed_share: share of the users who want the opposite of the common taste.
        annotator_noise: probability that a judgement is replaced by a fair coin, in [0, 1].
        covariate_shift: standard deviation, over users and coordinates, of the logarithm of the
            scale of a user's features: users ask about different things.
    """

    optimum_shift: float = 0.0
    opposed_share: float = 0.0
    annotator_noise: float = 0.0
    covariate_shift: float = 0.0


@dataclass(frozen=True, slots=True)
class Population:
    """Users, their pairs and their votes.

    Attributes:
        features: z of every pair, shape [N, n, d].
        choices: vote for the first answer, shape [N, n]: 0 or 1, or its probability where every
            pair was judged by infinitely many.
        rewards: reward weights of every user, shape [N, d].
        dials: what it was drawn with.
    """

    features: Reals
    choices: Reals
    rewards: Reals
    dials: Dials

    @property
    def users(self) -> int:
        """Number of users N."""
        return int(self.features.shape[0])

    def choice_probabilities(self, features: Reals) -> Reals:
        """Probability that each user prefers the first answer; [m, d] to [N, m]."""
        return _choice(self.rewards @ features.T, self.dials.annotator_noise)

    def bayes_accuracy(self, features: Reals) -> float:
        """Share of votes that the best single rule for all users gets right on pairs [m, d]."""
        mean = self.choice_probabilities(features).mean(axis=0)
        return float(np.maximum(mean, 1.0 - mean).mean())

    def personal_bayes_accuracy(self, features: Reals) -> float:
        """The same with one rule for every user."""
        own = self.choice_probabilities(features)
        return float(np.maximum(own, 1.0 - own).mean())

    def disagreement(self, features: Reals) -> float:
        """Probability that two different users, asked about one of the pairs, vote differently."""
        own = self.choice_probabilities(features)
        count = self.users
        if count == 1:
            return 0.0
        first, second = own.sum(axis=0), (own * own).sum(axis=0)
        agree = (first**2 - second) + ((count - first) ** 2 - ((1.0 - own) ** 2).sum(axis=0))
        return float(1.0 - (agree / (count * (count - 1))).mean())


def draw_population(
    rng: np.random.Generator,
    *,
    users: int,
    pairs: int,
    dimension: int,
    dials: Dials | None = None,
    reward_norm: float = 1.0,
    shared_features: bool = False,
    many_annotators: bool = False,
) -> Population:
    """Draw users and their pairs.

    Args:
        rng: public randomness; nothing private rests on it.
        users: N, at least 1.
        pairs: n for each user, at least 1.
        dimension: d, at least 1.
        dials: how much users differ; None is not at all.
        reward_norm: length of the common reward weights; with features of unit variance it is the
            standard deviation of a common reward difference.
        shared_features: every user judges the same pairs, so that all Hessians are equal.
        many_annotators: `choices` are probabilities instead of single votes.

    Returns:
        The population. The same generator state and arguments give the same one, and the dials
        move along fixed random directions.
    """
    dials = dials or Dials()
    common = rng.normal(size=dimension)
    common *= reward_norm / np.linalg.norm(common)
    shifts = rng.normal(size=(users, dimension)) * reward_norm / np.sqrt(dimension)
    scales = np.exp(dials.covariate_shift * rng.normal(size=(users, 1, dimension)))
    shape = (1 if shared_features else users, pairs, dimension)
    features = np.broadcast_to(rng.normal(size=shape) * scales[: shape[0]], (users, *shape[1:]))
    rewards = common + dials.optimum_shift * shifts
    rewards[: round(dials.opposed_share * users)] *= -1.0
    utilities = np.einsum("ijk,ik->ij", features, rewards)
    probabilities = _choice(utilities, dials.annotator_noise)
    votes = (rng.random(probabilities.shape) < probabilities).astype(np.float64)
    choices = probabilities if many_annotators else votes
    return Population(np.ascontiguousarray(features), choices, rewards, dials)


def _choice(utilities: Reals, annotator_noise: float) -> Reals:
    taste = 1.0 / (1.0 + np.exp(-utilities))
    return (1.0 - annotator_noise) * taste + 0.5 * annotator_noise
