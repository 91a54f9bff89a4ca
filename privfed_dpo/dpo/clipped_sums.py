"""Clipped integer sums of pair gradients, layer by layer, without float64 rows of all weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.dealing import ALONE, Deal
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.pair_hooks import Receive
from privfed_dpo.errors import ModelError
from privfed_dpo.mechanism.clip import ClippedSum, PairClipper
from privfed_dpo.model.pair_batch import length_ordered_batches

SumMethod = Literal["rows", "two_pass"]
SUM_METHODS: tuple[SumMethod, ...] = get_args(SumMethod)

# n squares of integers, rounded and added in any order, lose at most a share n 2^-53 of their sum
# (Higham, 2002, section 3.1); a layer's partial sums add less than as much again.
_ROUNDING = 2.0**-51

_Replay = Callable[[Receive], None]


class ClippedSums:
    """What `PairClipper.clip` gives for the rows of `PairGradients`, with less memory and time.

    One pair's gradient is clipped once, over all layers together, and truncated to the grid. The
    squares of the very integers that are summed are added up and compared with the bound, with
    room for everything float64 could have rounded away; where that leaves a doubt, the clipper
    decides in int64. So the sensitivity rests neither on rounding nor on a second pass repeating
    the first. Integers are held in float64, which is exact: they stay far below 2^53.

    - `rows` keeps the float32 gradients of one micro-batch [b, d], as autograd made them, and
      converts them layer by layer.
    - `two_pass` keeps no gradient of a pair at all: a first backward pass adds up norms, a second
      one over the same graph scales, truncates and sums each layer. Memory beyond the graph is one
      layer's [b, size] and the sum [d]; time is one more backward pass. For adapters so large that
      b x d counts. (Under `two_forward`, gradients of the first completion wait for the second.)

    Both give the integers of the materialised rows, except where a float64 norm rounded in another
    order moves a coordinate that lies within 1e-15 of a grid point.

    Attributes:
        gradients: policy, loss and layout.
        clipper: bound and grid.
        method: `rows` or `two_pass`.
    """

    def __init__(
        self, gradients: PairGradients, clipper: PairClipper, *, method: SumMethod = "rows"
    ) -> None:
        """Takes the parts.

        Raises:
            ModelError: unknown method.
        """
        if method not in SUM_METHODS:
            raise ModelError(
                f"{method!r} is not a way to sum pair gradients.",
                advice=f"Use one of {', '.join(SUM_METHODS)}.",
            )
        self.gradients = gradients
        self.clipper = clipper
        self.method = method

    def __call__(
        self,
        pairs: Sequence[TokenizedPair],
        reference: npt.NDArray[np.floating],
        *,
        deal: Deal = ALONE,
    ) -> ClippedSum:
        """Sums the clipped gradients of the sampled pairs of ONE client.

        Args:
            pairs: any number; none gives the zero sum without touching the model.
            reference: float [B, 2], log pi_ref of chosen and rejected, row by row.
            deal: which of the micro-batches to take: every one of them is the same whoever takes
                it, so the parts of all processes add up to the whole sum.

        Returns:
            The exact integer sum over this process's pairs, before noise; secret. A pair whose
            gradient is not finite counts as zero.

        Raises:
            ModelError: shapes do not fit, a pair is too long, or a row would not be a pair.

        Guarantee: replacing one pair by nothing changes the total by an integer vector of L2 norm
            at most `clipper.sensitivity_steps`, given the rows of the others; these are functions
            of their pairs up to float rounding, and to the bit with `micro_batch_pairs` 1.
        """
        self.gradients.check_reference(pairs, reference)
        total = self.clipper.empty(self.gradients.adapter.dimension)
        batches = length_ordered_batches(pairs, self.gradients.micro_batch_pairs)
        doubtful: list[int] = []
        for chosen, counts in deal.turns(batches):
            part = self._micro_batch([pairs[i] for i in chosen], reference[chosen])
            if part is None:
                doubtful += [int(i) for i in chosen] if counts else []
            elif counts:
                total = total.plus(part)
        return total.plus(self._one_by_one(pairs, reference, doubtful, deal))

    def _micro_batch(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.floating]
    ) -> ClippedSum | None:
        """The sum over one micro-batch; None if a pair of it may be too long for the bound."""
        with self.gradients.graph(pairs, reference) as graph:
            if self.method == "two_pass":
                return self._sum(lambda receive: graph.backward(receive, keep=True), len(pairs))
            kept: dict[int, torch.Tensor] = {}
            graph.backward(kept.__setitem__)
            graph.release()
            return self._sum(lambda receive: _replay(kept, receive), len(pairs))

    def _sum(self, replay: _Replay, count: int) -> ClippedSum | None:
        """Norms first, then integers; None if those of a pair may be too long."""
        adapter, limit = self.gradients.adapter, self.clipper.sensitivity_steps
        squared = torch.zeros(count, dtype=torch.float64, device=adapter.device)
        replay(lambda _slot, rows: _add(squared, rows.double().square_().sum(dim=1)))
        # float32 squares cannot overflow in float64, so this finds exactly the bad rows.
        finite = torch.isfinite(squared)
        factor = limit / squared.sqrt().clamp_(min=self.clipper.max_grad_norm)
        lengths = torch.zeros_like(squared)
        total = torch.zeros(adapter.dimension, dtype=torch.float64, device=adapter.device)
        spoiled = not bool(finite.all())

        def truncate(slot: int, rows: torch.Tensor) -> None:
            steps = rows.double().mul_(factor[:, None]).trunc_()
            if spoiled:
                steps[~finite] = 0.0
            place = adapter.layout[slot]
            total[place.start : place.stop] = steps.sum(dim=0)
            lengths.add_(steps.square_().sum(dim=1))

        replay(truncate)
        # Written so that a length that is not a number fails.
        if not bool((lengths * (1 + adapter.dimension * _ROUNDING) <= limit**2).all()):
            return None
        integers = total.cpu().numpy().astype(np.int64)
        return ClippedSum(integers, pairs=count, non_finite=int((~finite).sum()))

    def _one_by_one(
        self,
        pairs: Sequence[TokenizedPair],
        reference: npt.NDArray[np.floating],
        doubtful: Sequence[int],
        deal: Deal,
    ) -> ClippedSum:
        """Rounding pushed a pair over the bound: the clipper shortens it, on one row at a time."""
        total = self.clipper.empty(self.gradients.adapter.dimension)
        for turn in range(deal.passes(len(doubtful))):
            counts = turn < len(doubtful)
            place = doubtful[turn] if counts else 0
            for rows in self.gradients([pairs[place]], reference[place : place + 1]):
                if counts:
                    total = total.plus(self.clipper.clip(rows))
        return total


def _add(total: torch.Tensor, part: torch.Tensor) -> None:
    total.add_(part)


def _replay(kept: dict[int, torch.Tensor], receive: Receive) -> None:
    for slot, rows in kept.items():
        receive(slot, rows)
