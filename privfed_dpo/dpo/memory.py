"""How many pairs fit into memory at once: measured on made-up pairs, never on private ones."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from privfed_dpo.data.tokenize import TokenizedPair, pair_key
from privfed_dpo.dpo.clipped_sums import ClippedSums
from privfed_dpo.errors import ModelError
from privfed_dpo.model.pair_batch import longest_position

_PROBE_PAIRS = (1, 3)
_HEADROOM = 1.15
"""Allocators keep more than what is alive, and kernels have scratch space of their own."""


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Peak memory of one micro-batch beyond model and data: fixed + pairs * per pair.

    Attributes:
        fixed_bytes: what does not grow with the micro-batch.
        pair_bytes: what every pair of the measured length adds.
    """

    fixed_bytes: int
    pair_bytes: int

    def peak_bytes(self, pairs: int) -> int:
        """Returns the expected peak of a micro-batch, headroom included."""
        return math.ceil(_HEADROOM * (self.fixed_bytes + pairs * self.pair_bytes))

    def largest_micro_batch(self, budget_bytes: int) -> int:
        """Returns the most pairs whose expected peak stays within the budget.

        Args:
            budget_bytes: memory left beside the model.

        Raises:
            ModelError: not even one pair fits.
        """
        room = budget_bytes / _HEADROOM - self.fixed_bytes
        pairs = int(room // self.pair_bytes)
        if pairs < 1:
            raise ModelError(
                f"One pair needs about {self.peak_bytes(1) / 2**20:.0f} MiB beside the model, "
                f"more than the {budget_bytes / 2**20:.0f} MiB there are.",
                advice="Switch dpo.gradient_checkpointing on, shorten pairs (data.max_length), "
                "take a smaller model, or allow more memory.",
            )
        return pairs

    def require(self, pairs: int, budget_bytes: int) -> None:
        """Refuses a micro-batch that does not fit.

        Args:
            pairs: its size, >= 1.
            budget_bytes: memory left beside the model.

        Raises:
            ModelError: says how many pairs fit.
        """
        fitting = self.largest_micro_batch(budget_bytes)
        if fitting < pairs:
            raise ModelError(
                f"A micro-batch of {pairs} pairs needs about "
                f"{self.peak_bytes(pairs) / 2**20:.0f} MiB beside the model, more than the "
                f"{budget_bytes / 2**20:.0f} MiB there are.",
                advice=f"Set dpo.micro_batch_pairs={fitting}; it changes memory, not what is "
                "summed. Or shorten pairs (data.max_length), or switch "
                "dpo.gradient_checkpointing on.",
            )


def measure_step_memory(
    sums: ClippedSums, *, prompt_tokens: int, completion_tokens: int
) -> StepMemory:
    """Runs small micro-batches of made-up pairs and reads what they held at their peak.

    The result depends on model, adapter, method and the given lengths only: pass public limits,
    so that a micro-batch size chosen from it says nothing about anyone's pairs.

    Args:
        sums: what will be run.
        prompt_tokens: longest prompt, >= 1.
        completion_tokens: longest completion, >= 1.

    Returns:
        The line through the measured peaks.

    Raises:
        ModelError: lengths that the model does not take.
    """
    gradients = sums.gradients
    kept = gradients.micro_batch_pairs
    peaks = []
    try:
        for count in _PROBE_PAIRS:
            pairs = [_made_up(sums, i, prompt_tokens, completion_tokens) for i in range(count)]
            gradients.micro_batch_pairs = count
            reference = np.zeros((count, 2), dtype=np.float32)
            run = functools.partial(sums, pairs, reference)
            peaks.append(peak_bytes(run, gradients.adapter.device))
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"The memory of {gradients.adapter.device} has no room beside the model for a "
            f"micro-batch of size {count}, of pairs of {prompt_tokens + completion_tokens} tokens.",
            advice="Switch dpo.gradient_checkpointing on, shorten pairs (data.max_length), or take "
            "a smaller model.",
        ) from error
    finally:
        gradients.micro_batch_pairs = kept
    few, many = _PROBE_PAIRS
    slope = max(1, (peaks[1] - peaks[0]) // (many - few))
    return StepMemory(fixed_bytes=max(0, peaks[0] - few * slope), pair_bytes=slope)


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Runs something and returns the most bytes its tensors held at one moment.

    On CUDA the allocator is asked (and its peak statistics are reset); elsewhere every tensor's
    storage is followed from its making to its end, which slows the run down but misses nothing
    that Python or autograd holds.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return int(torch.cuda.max_memory_allocated(device) - before)
    live = _LiveBytes()
    with live:
        run()
    return live.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages made while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {_storage_key(t) for t in _tensors((args, kwargs or {}))}
        made = function(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            if _storage_key(tensor) not in given:
                self._follow(tensor.untyped_storage())
        self.peak = max(self.peak, self._now)
        return made

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._now += size
        weakref.finalize(storage, self._forget, size).atexit = False

    def _forget(self, size: int) -> None:
        self._now -= size


def _tensors(tree: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(tree)  # noqa: SLF001 - has no public name
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _storage_key(tensor: torch.Tensor) -> int:
    identity: int = tensor.untyped_storage()._cdata  # noqa: SLF001 - has no public name
    return identity


def _made_up(
    sums: ClippedSums, number: int, prompt_tokens: int, completion_tokens: int
) -> TokenizedPair:
    model = sums.gradients.adapter.model.get_base_model()
    vocabulary = model.get_input_embeddings().num_embeddings
    lengths = (prompt_tokens, completion_tokens, completion_tokens)
    prompt, chosen, rejected = (
        tuple((number + i) % vocabulary for i in range(length)) for length in lengths
    )
    pair = TokenizedPair(prompt, chosen, rejected, key=pair_key(prompt, chosen, rejected))
    limit = sums.gradients.scorer.limit
    if min(lengths) < 1 or (limit is not None and longest_position([pair]) > limit):
        raise ModelError(
            f"Pairs of {prompt_tokens} and {completion_tokens} tokens cannot be scored.",
            advice=f"Use at least 1 token each and at most {limit} together.",
        )
    return pair
