"""Preference pairs as tensors: one packed row per pair, or one row per completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.errors import ModelError

Form = Literal["packed", "two_forward"]
MaskKind = Literal["boolean", "additive"]

_PROMPT, _CHOSEN, _REJECTED, _PADDING = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """Rows for one forward pass, with the places where completion tokens are predicted.

    Row b always belongs to pair b. N is the number of completion tokens scored.

    Attributes:
        input_ids: int64 [B, T].
        attention_mask: boolean or float [B, 1, T, T] (packed), or int64 [B, T] (one completion).
        position_ids: int64 [B, T].
        predicting: int64 [N], flat indexes b * T + t of the hidden states that predict.
        targets: int64 [N], the token ids predicted there.
        completions: int64 [N], 2 * b for tokens of chosen, 2 * b + 1 for tokens of rejected.
        columns: int64 [N], index of the token inside its completion.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    predicting: torch.Tensor
    targets: torch.Tensor
    completions: torch.Tensor
    columns: torch.Tensor


@dataclass(frozen=True, slots=True)
class PairBatch:
    """B pairs ready to be scored.

    Attributes:
        form: `packed` has one sequence batch, `two_forward` has two (chosen, rejected).
        sequences: the forward passes; in each, row b is pair b.
        pair_count: B.
        completion_lengths: float32 [B, 2], tokens of chosen and rejected.
    """

    form: Form
    sequences: tuple[SequenceBatch, ...]
    pair_count: int
    completion_lengths: torch.Tensor


def pack_pairs(
    pairs: Sequence[TokenizedPair],
    *,
    pad_id: int,
    device: torch.device | str = "cpu",
    mask: MaskKind = "boolean",
    mask_dtype: torch.dtype = torch.float32,
) -> PairBatch:
    """Lays each pair out as ONE row: prompt, chosen, rejected.

    A token attends to earlier tokens of its own segment and of the prompt, so the completions do
    not see each other, and the rejected one takes up positions where the prompt ended. Row and
    privacy unit are the same thing: what Opacus calls a sample is a pair. The last token of a
    completion predicts nothing and is not fed to the model. Padding sees itself and the prompt,
    never the other way round.

    Args:
        pairs: at least one; prompt and completions not empty.
        pad_id: any id of the vocabulary.
        device: where the tensors go.
        mask: `boolean` (True is visible; sdpa) or `additive` (0 or the smallest number; eager).
        mask_dtype: floating type of an additive mask; the model's.

    Raises:
        ModelError: no pair, or a pair without prompt or completion tokens.
    """
    _check(pairs)
    lengths = [len(p.prompt) + len(p.chosen) + len(p.rejected) - 2 for p in pairs]
    shape = (len(pairs), max(lengths))
    ids = np.full(shape, pad_id, dtype=np.int64)
    segments = np.full(shape, _PADDING, dtype=np.int8)
    positions = np.zeros(shape, dtype=np.int64)
    places: list[npt.NDArray[np.int64]] = []
    for row, pair in enumerate(pairs):
        start, chosen, rejected = len(pair.prompt), len(pair.chosen), len(pair.rejected)
        middle, end = start + chosen - 1, start + chosen + rejected - 2
        ids[row, :end] = (*pair.prompt, *pair.chosen[:-1], *pair.rejected[:-1])
        segments[row, :start] = _PROMPT
        segments[row, start:middle] = _CHOSEN
        segments[row, middle:end] = _REJECTED
        positions[row, :middle] = np.arange(middle)
        positions[row, middle:end] = np.arange(start, start + rejected - 1)
        base = row * shape[1]
        places.append(np.arange(base + start - 1, base + middle))
        # The first rejected token follows the prompt, so the prompt's last position predicts it.
        places.append(np.arange(base + middle - 1, base + end))
        places[-1][0] = base + start - 1
    segment = torch.from_numpy(segments).to(device)
    sequence = SequenceBatch(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=_pair_mask(segment, mask, mask_dtype),
        position_ids=torch.from_numpy(positions).to(device),
        predicting=torch.from_numpy(np.concatenate(places)).to(device),
        **_targets(pairs, (0, 1), device),
    )
    return PairBatch("packed", (sequence,), len(pairs), _completion_lengths(pairs, device))


def split_pairs(
    pairs: Sequence[TokenizedPair], *, pad_id: int, device: torch.device | str = "cpu"
) -> PairBatch:
    """Lays each pair out as two rows in two batches: all chosen, then all rejected.

    For attention kernels and architectures that cannot take a mask of their own. Row b of both
    batches is pair b; padding stands on the right.

    Raises:
        ModelError: no pair, or a pair without prompt or completion tokens.
    """
    _check(pairs)
    sequences = tuple(_completion_rows(pairs, side, pad_id, device) for side in (0, 1))
    return PairBatch("two_forward", sequences, len(pairs), _completion_lengths(pairs, device))


def longest_position(pairs: Sequence[TokenizedPair]) -> int:
    """Returns the longest prompt-and-completion, in tokens; 0 without pairs."""
    return max(
        (len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in pairs),
        default=0,
    )


def length_ordered_batches(
    pairs: Sequence[TokenizedPair], batch_pairs: int
) -> list[npt.NDArray[np.int64]]:
    """Splits pairs into micro-batches of similar length, longest first.

    Only the grouping depends on lengths: every index appears exactly once. The order is a
    function of the pairs alone, so equal sets give equal batches.

    Args:
        pairs: any number of pairs.
        batch_pairs: the most pairs in one batch, >= 1.

    Returns:
        Index arrays, int64.

    Raises:
        ModelError: batch_pairs is less than 1.
    """
    if batch_pairs < 1:
        raise ModelError(
            f"A micro-batch of {batch_pairs} pairs cannot exist.",
            advice="Set the micro-batch to at least 1 pair.",
        )
    tokens = [len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs]
    order = np.array(
        sorted(range(len(pairs)), key=lambda i: (-tokens[i], pairs[i].key)), dtype=np.int64
    )
    return [order[i : i + batch_pairs] for i in range(0, len(order), batch_pairs)]


def _check(pairs: Sequence[TokenizedPair]) -> None:
    if not pairs:
        raise ModelError(
            "A batch without pairs cannot go through the model.",
            advice="Skip the forward pass: the gradient of an empty batch is zero.",
        )
    if any(not (p.prompt and p.chosen and p.rejected) for p in pairs):
        raise ModelError(
            "A pair has an empty prompt or an empty completion.",
            advice="Tokenize with a begin token and an end token, or drop such pairs.",
        )


def _completion_rows(
    pairs: Sequence[TokenizedPair], side: int, pad_id: int, device: torch.device | str
) -> SequenceBatch:
    completions = [p.rejected if side else p.chosen for p in pairs]
    lengths = [len(p.prompt) + len(c) - 1 for p, c in zip(pairs, completions, strict=True)]
    shape = (len(pairs), max(lengths))
    ids = np.full(shape, pad_id, dtype=np.int64)
    visible = np.zeros(shape, dtype=np.int64)
    places = []
    for row, (pair, completion) in enumerate(zip(pairs, completions, strict=True)):
        ids[row, : lengths[row]] = (*pair.prompt, *completion[:-1])
        visible[row, : lengths[row]] = 1
        base = row * shape[1]
        places.append(np.arange(base + len(pair.prompt) - 1, base + lengths[row]))
    positions = np.broadcast_to(np.arange(shape[1]), shape).copy()
    return SequenceBatch(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=torch.from_numpy(visible).to(device),
        position_ids=torch.from_numpy(positions).to(device),
        predicting=torch.from_numpy(np.concatenate(places)).to(device),
        **_targets(pairs, (side,), device),
    )


def _targets(
    pairs: Sequence[TokenizedPair], sides: tuple[int, ...], device: torch.device | str
) -> dict[str, torch.Tensor]:
    targets: list[int] = []
    owners: list[npt.NDArray[np.int64]] = []
    columns: list[npt.NDArray[np.int64]] = []
    for row, pair in enumerate(pairs):
        for side in sides:
            completion = pair.rejected if side else pair.chosen
            targets.extend(completion)
            owners.append(np.full(len(completion), 2 * row + side, dtype=np.int64))
            columns.append(np.arange(len(completion), dtype=np.int64))
    return {
        "targets": torch.tensor(targets, dtype=torch.int64, device=device),
        "completions": torch.from_numpy(np.concatenate(owners)).to(device),
        "columns": torch.from_numpy(np.concatenate(columns)).to(device),
    }


def _pair_mask(segments: torch.Tensor, kind: MaskKind, dtype: torch.dtype) -> torch.Tensor:
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril_()
    own = segments[:, :, None] == segments[:, None, :]
    visible = ((own | (segments == _PROMPT)[:, None, :]) & causal)[:, None]
    if kind == "boolean":
        return visible
    hidden = torch.zeros(visible.shape, dtype=dtype, device=segments.device)
    return hidden.masked_fill_(~visible, torch.finfo(dtype).min)


def _completion_lengths(pairs: Sequence[TokenizedPair], device: torch.device | str) -> torch.Tensor:
    return torch.tensor(
        [(len(p.chosen), len(p.rejected)) for p in pairs], dtype=torch.float32, device=device
    )
