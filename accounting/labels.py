"""Label privacy: randomised response on which of a pair's two answers was preferred.

The protected unit is one label, not one pair: prompts and answers are taken as known. Two data
sets are neighbours if they differ in one label. Each label is flipped once, with a public
probability p < 1/2, before anything is computed from it.

What composes, and what does not:

1. The flipped label is (log((1-p)/p), 0)-private (Warner, 1965). Everything that follows is
   post-processing of flipped labels, so that figure holds for the whole run, against everybody, for
   any number of rounds, with noise or without, and whether or not secure aggregation holds. It is
   spent once; rounds add nothing to it. It is spent again whenever the same label is flipped anew.
2. Flipping labels costs the larger unit nothing: given all flips of the other pairs, zero-out of
   one pair is zero-out of one pair of the flipped data, so a pair's (epsilon, delta) stays what
   the noise makes it. The two figures are about different units and are never added.
3. Noise behind the flips helps the label further. Changing a label replaces one unit by another,
   which zero-out adjacency covers in two steps: (e, d) for a unit gives (2e, (1 + exp(e)) d) for a
   replacement. Every pair of distributions that is (r, s)-close is post-processing of one fixed
   pair on four outcomes (Kairouz, Oh and Viswanath, 2015, theorem 10), and mixing it with weights
   1-p and p gives, worst case over its outcomes, the bound of `label_cost`.
4. It does not cover texts. Several labels of one person, or one judgement that stands in the data k
   times, cost k times the figure (group privacy, as each is flipped on its own); behind noise that
   is priced for all copies together, no more than a replacement of all of them, by joint convexity.
"""

import math
from dataclasses import dataclass

from accounting.errors import InvalidPrivacyParameter

_NO_PROMISE = 1.0


@dataclass(frozen=True, slots=True)
class RandomizedLabels:
    """Every label was flipped once, independently, with the same probability.

    The event of its own unit: it is never composed with events about pairs or users.

    Guarantee: the caller ensures that flips come from a secret source, one fresh draw per label,
    and that the true labels are used nowhere else.

    Attributes:
        flip_probability: p in (0, 0.5); what is really used may be larger, never smaller.

    Raises:
        InvalidPrivacyParameter: p lies outside its range.
    """

    flip_probability: float

    def __post_init__(self) -> None:
        """Refuse what flips nothing, and what leaves nothing."""
        if not 0 < self.flip_probability < 0.5:  # noqa: PLR2004 - a coin flip carries nothing
            raise InvalidPrivacyParameter(
                "flip_probability", self.flip_probability, "give a probability in (0, 0.5)"
            )

    @property
    def epsilon(self) -> float:
        """Privacy loss of one label, pure: log((1 - p) / p)."""
        return math.log1p(-self.flip_probability) - math.log(self.flip_probability)


@dataclass(frozen=True, slots=True)
class LabelCost:
    """Two bounds on what a run reveals about one label; both hold.

    Attributes:
        pure: epsilon at delta 0, from the flips alone, against everybody.
        epsilon: epsilon at `delta`, from flips and noise together; never above `pure`.
        delta: failure probability of `epsilon`; 0 where noise adds nothing that can be proved.
    """

    pure: float
    epsilon: float
    delta: float


def label_cost(
    labels: RandomizedLabels, unit_epsilon: float, delta: float, *, copies: int = 1
) -> LabelCost:
    """Bound what flips and noise together reveal about one label.

    Args:
        labels: the flips.
        unit_epsilon: epsilon of the run for one pair (or one user) under zero-out, at `delta`;
            infinite without noise.
        delta: of `unit_epsilon`.
        copies: how often one judgement may stand in the data; `unit_epsilon` covers all of them.

    Returns:
        With r = 2 unit_epsilon and s = (1 + exp(unit_epsilon)) delta:
        epsilon = log(((1-p) exp(r) + p) / (p exp(r) + 1-p)), at
        delta = s max(0, 1-p - p exp(epsilon)). Where s reaches 1, the flips alone. With copies,
        the smaller of r (at s) and the flips alone.
    """
    p, pure = labels.flip_probability, copies * labels.epsilon
    # 1 + exp(e) in logarithms, since e may be large.
    log_failure = math.log(delta) + unit_epsilon + math.log1p(math.exp(-unit_epsilon))
    if not log_failure < math.log(_NO_PROMISE):
        return LabelCost(pure, pure, 0.0)
    if copies > 1:
        replaced = LabelCost(pure, 2.0 * unit_epsilon, math.exp(log_failure))
        return replaced if replaced.epsilon < pure else LabelCost(pure, pure, 0.0)
    shrunk = math.exp(-2.0 * unit_epsilon)
    epsilon = min(pure, math.log((1 - p + p * shrunk) / (p + (1 - p) * shrunk)))
    left = max(0.0, 1 - p - p * math.exp(epsilon))
    return LabelCost(pure, epsilon, math.exp(log_failure) * left)
