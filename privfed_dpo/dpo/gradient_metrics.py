"""Convergence and heterogeneity, from unclipped gradients on fixed pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.errors import ModelError

Group = tuple[Sequence[TokenizedPair], npt.NDArray[np.floating]]
PairRows = Callable[[Sequence[TokenizedPair], npt.NDArray[np.floating]], Iterator[torch.Tensor]]
"""What gives one gradient per pair, float32 [b, d] at a time, as `PairGradients` does."""


@dataclass(frozen=True, slots=True)
class GradientMetrics:
    """Gradients of the objective L = (1/N) sum_i L_i, without clipping and without noise.

    Attributes:
        grad_norm_sq: ||(1/N) sum_i g_i||^2, g_i the mean pair gradient of group i.
        heterogeneity: (1/N) sum_i ||g_i - (1/N) sum_j g_j||^2.
        clip_fraction: share of all pairs whose gradient norm exceeds the clip norm.
    """

    grad_norm_sq: float
    heterogeneity: float
    clip_fraction: float


def gradient_metrics(
    pair_gradients: PairRows, groups: Mapping[str, Group], max_grad_norm: float
) -> GradientMetrics:
    """Measures stationarity, heterogeneity and clipping at the current adapter.

    The figures carry no noise: pass public or held-out pairs, or pay for them.

    Args:
        pair_gradients: policy and loss.
        groups: client name to (pairs, float [n, 2] reference); every group counts the same,
            whatever its size. Empty groups are left out.
        max_grad_norm: the clip norm, > 0.

    Returns:
        The metrics; accumulated in float64. Not finite if a gradient is not.

    Raises:
        ModelError: no pairs at all, or shapes do not fit.
    """
    means: list[npt.NDArray[np.float64]] = []
    clipped = total = 0
    for pairs, reference in groups.values():
        if not pairs:
            continue
        gathered = np.zeros((), dtype=np.float64)
        for rows in pair_gradients(pairs, reference):
            values = rows.double()
            gathered = gathered + values.sum(dim=0).cpu().numpy()
            # Written so that a norm that is not a number counts as clipped.
            clipped += int((~(values.norm(dim=1) <= max_grad_norm)).sum().item())
        total += len(pairs)
        means.append(gathered / len(pairs))
    if not means:
        raise ModelError(
            "Gradient metrics need at least one pair.", advice="Pass held-out pairs per client."
        )
    stacked = np.stack(means)
    centre = stacked.mean(axis=0)
    return GradientMetrics(
        grad_norm_sq=float(centre @ centre),
        heterogeneity=float(((stacked - centre) ** 2).sum(axis=1).mean()),
        clip_fraction=clipped / total,
    )
