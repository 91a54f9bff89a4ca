"""How a client adds up its pair gradients: a choice of speed and memory, never of result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from privfed_dpo.dpo.clipped_sums import SumMethod

ROW_BYTES = 4
"""One coordinate of one pair's gradient, as autograd gives it."""

_SUM_BYTES = 8
_ROWS_SHARE = 0.5
_DEFAULT_ROWS_BYTES = 4 * 2**30
_WORTHWHILE_PAIRS = 8


@dataclass(frozen=True, slots=True)
class GradientSums:
    """How clipped pair gradients are summed.

    Both methods add up the same integers (`ClippedSums` says up to what), so nothing that is
    promised rests on this choice; it stands in the plan because it decides time and memory.

    Attributes:
        method: `rows` keeps the gradients of one micro-batch, `two_pass` keeps none of them.
        micro_batch_pairs: pairs in one forward and backward pass; None is as many as fit into
            `memory_bytes`, which each client measures for itself on made-up pairs.
        memory_bytes: memory for one micro-batch beside the model; None sets no limit.
        gradient_bytes: what is kept of gradients during a step, the rows of one layer aside.
    """

    method: SumMethod
    micro_batch_pairs: int | None
    memory_bytes: int | None
    gradient_bytes: int


def choose_gradient_sums(
    *,
    dimension: int,
    micro_batch_pairs: int | None,
    memory_bytes: int | None,
    wanted: SumMethod | Literal["auto"] = "auto",
) -> GradientSums:
    """Choose from public facts alone.

    A second backward pass costs up to half of a step's time again, so rows are kept unless they
    would fill more than half of the memory there is (4 GiB where no limit is given). With a
    micro-batch that is yet to be measured the question is whether eight rows fit: below that the
    second pass buys larger micro-batches and wins.

    Args:
        dimension: length d of the flat adapter.
        micro_batch_pairs: see `GradientSums`.
        memory_bytes: see `GradientSums`.
        wanted: a method, or `auto` for this rule.
    """
    pairs = micro_batch_pairs or _WORTHWHILE_PAIRS
    room = _DEFAULT_ROWS_BYTES if memory_bytes is None else int(_ROWS_SHARE * memory_bytes)
    rows_bytes = pairs * dimension * ROW_BYTES
    method: SumMethod = "rows" if rows_bytes <= room else "two_pass"
    if wanted != "auto":
        method = wanted
    kept = rows_bytes if method == "rows" else 0
    return GradientSums(
        method=method,
        micro_batch_pairs=micro_batch_pairs,
        memory_bytes=memory_bytes,
        gradient_bytes=kept + dimension * _SUM_BYTES,
    )
