"""Per-pair clipping straight onto the integer grid.

Each pair's gradient is scaled to length at most max_grad_norm and truncated toward zero to the
grid. Truncation can only shorten it, so the integer vector of one pair has an L2 norm of at most
`sensitivity_steps`, exactly: the norm is checked in 64-bit integers, not trusted to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

MAX_SENSITIVITY_STEPS = 1 << 30
"""Squares of a clipped integer vector then add up to less than 2^60: exact in int64."""

_SHRINK = 1.0 - 2.0**-40


@dataclass(frozen=True, slots=True)
class ClippedSum:
    """The integer sum of clipped pair gradients of one client, before noise. Secret.

    Attributes:
        total: sum over pairs, shape [d], dtype int64, in grid steps.
        pairs: how many pairs went in. Private: it never leaves the client.
        non_finite: how many of them had a NaN or infinite gradient and count as zero. Private.
    """

    total: npt.NDArray[np.int64]
    pairs: int
    non_finite: int

    def __repr__(self) -> str:
        return f"ClippedSum(<secret>, dimension={self.total.size})"

    def plus(self, other: ClippedSum) -> ClippedSum:
        """Add two partial sums exactly: micro-batches give the same total as one batch."""
        return ClippedSum(
            total=self.total + other.total,
            pairs=self.pairs + other.pairs,
            non_finite=self.non_finite + other.non_finite,
        )


@dataclass(frozen=True, slots=True)
class PairClipper:
    """Clips pair gradients to `max_grad_norm` and puts them on a grid.

    Attributes:
        max_grad_norm: L2 bound C on one pair's gradient, in gradient units, > 0.
        sensitivity_steps: the same bound in grid steps (C times steps per unit), an integer.
    """

    max_grad_norm: float
    sensitivity_steps: int

    def __post_init__(self) -> None:
        if not (self.max_grad_norm > 0.0 and np.isfinite(self.max_grad_norm)):
            raise ValueError(f"max_grad_norm must be positive, not {self.max_grad_norm}")
        if not 1 <= self.sensitivity_steps <= MAX_SENSITIVITY_STEPS:
            raise ValueError(
                f"sensitivity_steps must be in [1, 2^30], not {self.sensitivity_steps}"
            )
        if not math.isfinite(self.sensitivity_steps / self.max_grad_norm):
            # Zero rows would be scaled by infinity, to NaN, and to -2^63 as integers.
            raise ValueError(
                f"max_grad_norm {self.max_grad_norm} is too small for a grid of "
                f"{self.sensitivity_steps} steps; raise it"
            )

    def empty(self, dimension: int) -> ClippedSum:
        """The sum over no pairs at all: what an empty Poisson batch contributes before noise."""
        return ClippedSum(np.zeros(dimension, dtype=np.int64), pairs=0, non_finite=0)

    def clip(self, gradients: torch.Tensor) -> ClippedSum:
        """Clip, truncate and sum the pair gradients of one micro-batch.

        Args:
            gradients: shape [pairs, d], one row per preference pair, any float dtype. A row
                with a NaN or infinity becomes a zero row, so that one bad pair harms nobody.

        Returns:
            Their exact integer sum.

        Raises:
            ValueError: not a matrix.

        Guarantee: changing one row changes `total` by a vector of L2 norm at most
            2 * sensitivity_steps, and replacing it by nothing (zero-out adjacency) by at most
            sensitivity_steps. The caller ensures one row per pair.
        """
        steps, non_finite = self.integer_rows(gradients)
        return ClippedSum(steps.sum(axis=0), pairs=steps.shape[0], non_finite=non_finite)

    def clip_all(self, batches: Iterable[torch.Tensor], dimension: int) -> ClippedSum:
        """Clip and sum micro-batch after micro-batch; see `clip`."""
        total = self.empty(dimension)
        for rows in batches:
            total = total.plus(self.clip(rows))
        return total

    def integer_rows(self, gradients: torch.Tensor) -> tuple[npt.NDArray[np.int64], int]:
        """Return the clipped rows on the grid, shape [pairs, d] int64, and the bad-row count."""
        if gradients.ndim != 2:  # noqa: PLR2004
            raise ValueError(f"expected [pairs, d] gradients, got shape {tuple(gradients.shape)}")
        rows = gradients.detach().to(device="cpu", dtype=torch.float64).numpy()
        bad = ~np.isfinite(rows).all(axis=1)
        rows = np.where(bad[:, None], 0.0, rows)
        # The largest entry is taken out first, so that squares cannot overflow float64.
        peak = np.abs(rows).max(axis=1, initial=0.0)
        unit = rows / np.where(peak > 0.0, peak, 1.0)[:, None]
        norms = peak * np.sqrt(np.einsum("ij,ij->i", unit, unit))
        factor = self.sensitivity_steps / np.maximum(norms, self.max_grad_norm)
        steps = _truncate(rows, factor)
        limit = self.sensitivity_steps**2
        while bool((over := np.einsum("ij,ij->i", steps, steps) > limit).any()):
            factor[over] *= _SHRINK
            steps[over] = _truncate(rows[over], factor[over])
        return steps, int(bad.sum())


def _truncate(
    rows: npt.NDArray[np.float64], factor: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Scale each row and cut off its fraction, toward zero."""
    return np.trunc(rows * factor[:, None]).astype(np.int64)
