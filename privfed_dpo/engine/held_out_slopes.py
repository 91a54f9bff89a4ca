"""Gradients of the real policy on held-out pairs, as the floor is predicted from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from privfed_dpo.dpo.gradient_metrics import Group
from privfed_dpo.engine.measurement import HeldOutPairs, MeasuredPolicy

Reals = npt.NDArray[np.float64]

_FEWEST_PAIRS = 2


class PolicySlopes:
    """Gradients on the held-out pairs that gradient metrics use; see `HeldOutSlopes`.

    Args:
        policy: the model; its adapter is moved, and is left where the last call put it.
        held_out: pairs the coordinator may see; at least one for gradient metrics.
    """

    def __init__(self, policy: MeasuredPolicy, held_out: HeldOutPairs) -> None:
        self._policy = policy
        self._all: Group = held_out.gradient_group()
        self._groups = [
            group
            for user, group in held_out.gradient_groups().items()
            if user and len(group[0]) >= _FEWEST_PAIRS
        ]

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return len(self._all[0])

    @property
    def groups(self) -> int:
        """Named clients with at least two of them."""
        return len(self._groups)

    def mean(self, weights: Reals) -> Reals:
        """Mean gradient of all pairs at an adapter, shape [d]."""
        return _mean(self.rows(weights))

    def rows(self, weights: Reals) -> Iterator[Reals]:
        """Every pair's gradient, in batches of shape [b, d]."""
        return self._rows(weights, self._all)

    def half(self, weights: Reals, group: int, half: int) -> Reals:
        """Mean gradient of one half, 0 or 1, of a client's pairs, shape [d]."""
        pairs, reference = self._groups[group]
        chosen: Sequence[int] = range(half, len(pairs), 2)
        return _mean(self._rows(weights, ([pairs[i] for i in chosen], reference[list(chosen)])))

    def _rows(self, weights: Reals, group: Group) -> Iterator[Reals]:
        self._policy.load(weights.astype(np.float32))
        for rows in self._policy.pair_gradients(*group):
            yield rows.double().cpu().numpy()


def _mean(batches: Iterator[Reals]) -> Reals:
    sums, counts = zip(*((batch.sum(axis=0), len(batch)) for batch in batches), strict=True)
    return np.asarray(np.sum(sums, axis=0) / sum(counts))
