"""Users whose tastes differ by stated amounts: Bradley–Terry reward weights, noise, offers.

A user with reward weights r prefers the first of two answers with feature difference z with
probability sigmoid(r . z / temperature) (Bradley and Terry, 1952). The dials say how far users are
from each other; at zero only `flip_probability` tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privfed_dpo.errors import DataError

Reals = NDArray[np.float64]

MOST_SHIFT = 10.0
"""Largest `optimum_shift`; far above 1 little is left of the common taste."""
MOST_COVARIATE_SHIFT = 3.0
"""Largest `covariate_shift`; beyond it some users would hardly ever see two different answers."""


@dataclass(frozen=True, slots=True)
class TasteDials:
    """How much users differ, and how noisily they judge.

    Attributes:
        flip_probability: of the sign of each of a user's weights, in [0, 0.5].
        optimum_shift: standard deviation of each of a user's weights around the common one, in
            units of the root mean square of the common weights; in [0, MOST_SHIFT].
        opposed_share: share of users whose weights are turned round, rounded to whole users.
        annotator_noise: probability that a judgement is a fair coin, in [0, 1].
        temperature: of the choice; above 0.
        covariate_shift: standard deviation, over users, of the logits with which topics come up
            and answers are offered at each level; in [0, MOST_COVARIATE_SHIFT].
    """

    flip_probability: float = 0.15
    optimum_shift: float = 0.0
    opposed_share: float = 0.0
    annotator_noise: float = 0.0
    temperature: float = 0.5
    covariate_shift: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a dial out of range.

        Raises:
            DataError: which, and what it may be.
        """
        ranges = {
            "heterogeneity": (self.flip_probability, 0.5),  # more would flip the common taste
            "optimum_shift": (self.optimum_shift, MOST_SHIFT),
            "opposed_share": (self.opposed_share, 1.0),
            "annotator_noise": (self.annotator_noise, 1.0),
            "covariate_shift": (self.covariate_shift, MOST_COVARIATE_SHIFT),
        }
        for name, (value, most) in ranges.items():
            if not 0 <= value <= most:
                raise DataError(f"{name} must lie in [0, {most:g}], not {value}")
        if not self.temperature > 0:
            raise DataError(f"temperature must be above 0, not {self.temperature}")


@dataclass(frozen=True, slots=True)
class Tastes:
    """What each of N users wants, and what is put before them.

    Attributes:
        common: weights that users share but for the dials, shape [k].
        own: every user's weights, shape [N, k].
        opposed: True for users in the opposed group, shape [N].
        levels: probability with which an answer shows each level, shape [N, k, levels].
        topics: probability of each topic, shape [N, topics].
        dials: what they were drawn with.
    """

    common: Reals = field(repr=False)
    own: Reals = field(repr=False)
    opposed: NDArray[np.bool_] = field(repr=False)
    levels: Reals = field(repr=False)
    topics: Reals = field(repr=False)
    dials: TasteDials

    def choice(self, utility: Reals | float) -> Reals:
        """Probability of preferring the first answer by its utility less that of the second."""
        noise = self.dials.annotator_noise
        taste: Reals = 1.0 / (1.0 + np.exp(-np.asarray(utility) / self.dials.temperature))
        return (1.0 - noise) * taste + 0.5 * noise

    def group(self, user: int) -> str:
        """The group a user belongs to."""
        return "opposed" if self.opposed[user] else "others"


def draw_tastes(
    common: Reals,
    *,
    clients: int,
    dials: TasteDials,
    flips: np.random.Generator,
    shifts: np.random.Generator,
    offers: np.random.Generator,
    levels: int,
    topics: int,
) -> Tastes:
    """Draw users; each dial moves them along directions of its own, fixed by its generator.

    Args:
        common: weights all users share but for the dials, shape [k].
        clients: number of users N, at least 1.
        dials: how much they differ.
        flips: public randomness of flipped signs.
        shifts: public randomness of shifted weights.
        offers: public randomness of topics and levels.
        levels: levels of each attribute.
        topics: number of topics.

    Returns:
        The users. The opposed ones are the last.
    """
    size = common.size
    flipped = flips.random((clients, size)) < dials.flip_probability
    own: Reals = np.where(flipped, -common, common)
    scale = np.sqrt(np.mean(common**2))
    own = own + dials.optimum_shift * scale * shifts.normal(size=(clients, size))
    opposed = np.arange(clients) >= clients - round(dials.opposed_share * clients)
    own[opposed] *= -1.0
    return Tastes(
        common=common,
        own=own,
        opposed=opposed,
        levels=_softmax(dials.covariate_shift * offers.normal(size=(clients, size, levels))),
        topics=_softmax(dials.covariate_shift * offers.normal(size=(clients, topics))),
        dials=dials,
    )


def _softmax(logits: Reals) -> Reals:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Reals = weights / weights.sum(axis=-1, keepdims=True)
    return shares
