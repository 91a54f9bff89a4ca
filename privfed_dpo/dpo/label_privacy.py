"""Label-only privacy: randomised response on which of two answers was preferred.

Prompts and answers are taken as known; only the order is a secret. Each order is flipped once,
with a public probability, before anything is computed (Warner, 1965; for labels of training data
Ghazi et al., 2021; for preferences Chowdhury et al., 2024). Whatever is trained on the result,
for however many rounds and without any further noise, is private in the same measure. The
debiased loss makes up for the flips on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privfed_dpo.data.tokenize import TokenizedPair, pair_key
from privfed_dpo.dpo.loss import PairLoss
from privfed_dpo.errors import ModelError

_WORD_SPAN = 1 << 64


@dataclass(frozen=True, slots=True)
class RandomizedResponse:
    """Flips the order of every pair with the same probability, each on its own.

    Attributes:
        flip_probability: p in (0, 0.5). What is really used is the smallest multiple of 2^-64 not
            below it, so that `epsilon` is never exceeded.
    """

    flip_probability: float

    def __post_init__(self) -> None:
        """Checks the probability.

        Raises:
            ModelError: p is not within (0, 0.5): at 0 nothing is private, at 0.5 nothing is left.
        """
        if not 0.0 < self.flip_probability < 0.5:  # noqa: PLR2004 - a coin flip carries nothing
            raise ModelError(
                f"A flip probability of {self.flip_probability} is not a randomised response.",
                advice="Set it within (0, 0.5), for instance through an epsilon.",
            )

    @classmethod
    def for_epsilon(cls, epsilon: float) -> RandomizedResponse:
        """The response whose privacy loss is at most epsilon: p = 1 / (1 + e^epsilon).

        Raises:
            ModelError: epsilon is not positive, or so large that nothing would be flipped.
        """
        if not 0.0 < epsilon < math.inf:
            raise ModelError(
                f"A label epsilon of {epsilon} cannot be kept.", advice="Set a positive number."
            )
        odds = math.exp(-epsilon)
        # Rounded up, so that the loss of the number that comes out is not above what was asked.
        probability = math.nextafter(odds / (1.0 + odds), 1.0)
        return cls(min(probability, math.nextafter(0.5, 0.0)))

    @property
    def epsilon(self) -> float:
        """Label privacy loss of one pair, pure (delta = 0): log((1 - p) / p)."""
        return math.log1p(-self.flip_probability) - math.log(self.flip_probability)

    def privatize(
        self, pairs: Sequence[TokenizedPair], words: npt.NDArray[np.uint64]
    ) -> tuple[TokenizedPair, ...]:
        """Flips orders; the result may be used any number of times, the words never again.

        Args:
            pairs: the true preferences of ONE client.
            words: uint64 [n], one uniform word per pair from a secret stream.

        Returns:
            Pairs in the same order, some with chosen and rejected exchanged. They take the place
            of the true ones everywhere: reference log-probabilities, training, metrics.

        Raises:
            ModelError: not one 64-bit word per pair.

        Guarantee: for any two possible orders of one pair, every outcome's probabilities lie
            within a factor e^epsilon of each other. The caller makes sure that the words are
            uniform, secret and fresh, and that a pair is privatized once in its life: k times
            cost k epsilon, as does the same answer pair standing in the data k times.
        """
        if words.shape != (len(pairs),) or words.dtype != np.uint64:
            raise ModelError(
                f"{len(pairs)} pairs need as many 64-bit words, not {words.dtype} of shape "
                f"{words.shape}.",
                advice="Draw them with Keystream.words(len(pairs)).",
            )
        flips = words < np.uint64(self._threshold())
        return tuple(
            _exchanged(pair) if flip else pair for pair, flip in zip(pairs, flips, strict=True)
        )

    def debiased_loss(self, beta: float) -> PairLoss:
        """The loss whose mean over the flips is the sigmoid loss of the true order.

        Args:
            beta: see `PairLoss`.

        Returns:
            The robust loss at this flip probability (Chowdhury et al., 2024, section 3).
        """
        return PairLoss("robust", beta, label_smoothing=self.flip_probability)

    def _threshold(self) -> int:
        return math.ceil(self.flip_probability * _WORD_SPAN)


def _exchanged(pair: TokenizedPair) -> TokenizedPair:
    return TokenizedPair(
        prompt=pair.prompt,
        chosen=pair.rejected,
        rejected=pair.chosen,
        key=pair_key(pair.prompt, pair.rejected, pair.chosen),
    )
