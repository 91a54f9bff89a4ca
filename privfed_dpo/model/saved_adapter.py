"""Proof that an adapter on disk is the adapter that was trained."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.scorer import PairScorer

_TOLERANCE = 1e-4


def verify_saved_adapter(
    directory: Path,
    adapter: Adapter,
    pairs: Sequence[TokenizedPair],
    *,
    base: PreTrainedModel | None = None,
) -> float:
    """Loads a saved adapter as a user would and compares it with the one in memory.

    An adapter file whose keys carry a wrapper's prefix loads without any error and changes
    nothing. So the file goes through `PeftModel.from_pretrained` onto a fresh base, and then
    every trained weight must come back bit for bit and every log-probability must agree.

    Args:
        directory: what `Adapter.save` wrote.
        adapter: the adapter that was saved, unchanged since.
        pairs: at least one pair to score.
        base: a fresh base model, which is changed; None copies the one in memory, which takes as
            much memory again.

    Returns:
        The largest difference of a log-probability, in nats.

    Raises:
        ModelError: the folder does not load, or does not hold this adapter.
    """
    fresh = _bare_copy(adapter) if base is None else base
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing")
            loaded = PeftModel.from_pretrained(fresh, str(directory), is_trainable=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"The saved adapter in {directory} does not load: {error}",
            advice="Save it again with Adapter.save.",
        ) from error
    _compare_weights(directory, adapter, loaded)
    for name, parameter in loaded.named_parameters():
        parameter.requires_grad_(_is_trained(adapter, name))
    reloaded = Adapter(loaded)
    worst = _largest_difference(adapter, reloaded, pairs)
    if not worst <= _TOLERANCE:
        raise ModelError(
            f"The adapter in {directory} scores pairs up to {worst:.3g} nats away from the one in "
            "memory.",
            advice="Check that the base model is the one the adapter was trained on.",
        )
    return worst


def _bare_copy(adapter: Adapter) -> PreTrainedModel:
    base: PreTrainedModel = copy.deepcopy(adapter.model).unload()
    return base


def _compare_weights(directory: Path, adapter: Adapter, loaded: PeftModel) -> None:
    found = {name: p.detach() for name, p in loaded.named_parameters() if "lora_" in name}
    wanted = {name: p.detach() for name, p in adapter.model.named_parameters() if "lora_" in name}
    differing = sorted(
        name
        for name, value in wanted.items()
        if name not in found or not torch.equal(found[name].to(value), value)
    )
    if differing or set(found) - set(wanted):
        raise ModelError(
            f"The adapter in {directory} is not the one in memory: {len(differing)} of "
            f"{len(wanted)} tensors differ, for instance {differing[:1]}.",
            advice="Save the peft model itself, not a module that wraps it.",
        )


def _is_trained(adapter: Adapter, name: str) -> bool:
    return any(slot.name == name for slot in adapter.layout)


@torch.no_grad()
def _largest_difference(
    adapter: Adapter, reloaded: Adapter, pairs: Sequence[TokenizedPair]
) -> float:
    if not pairs:
        raise ModelError("Nothing to compare.", advice="Pass at least one pair.")
    before, after = PairScorer(adapter, "two_forward"), PairScorer(reloaded, "two_forward")
    left, right = before.logprobs(before.batch(pairs)), after.logprobs(after.batch(pairs))
    return float(np.abs((left - right).cpu().numpy()).max())
