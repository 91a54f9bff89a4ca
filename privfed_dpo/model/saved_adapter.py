"""Proof that an adapter on disk is the adapter that was trained."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.scorer import PairScorer

_TOLERANCE = 1e-4
_IN_MEMORY = "default"
_BESIDE = "saved"


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
    with _loading(directory):
        loaded = PeftModel.from_pretrained(fresh, str(directory), is_trainable=True)
    _compare_weights(directory, _adapter_weights(adapter.model), _adapter_weights(loaded))
    for name, parameter in loaded.named_parameters():
        parameter.requires_grad_(_is_trained(adapter, name))
    return _refuse_other_scores(directory, _scores(adapter, pairs), _scores(Adapter(loaded), pairs))


def verify_saved_beside(directory: Path, adapter: Adapter, pairs: Sequence[TokenizedPair]) -> float:
    """Like `verify_saved_adapter`, onto the base in memory: for one there is no second place for.

    The file goes through peft's loading too, as a second adapter that is taken off again. With a
    base spread over processes, all of them must call this.

    Args:
        directory: what `Adapter.save` wrote.
        adapter: the adapter that was saved, unchanged since, and unchanged by this.
        pairs: at least one pair to score.

    Returns:
        The largest difference of a log-probability, in nats.

    Raises:
        ModelError: the folder does not load, or does not hold this adapter.
    """
    model = adapter.model
    wanted, before = _adapter_weights(model), _scores(adapter, pairs)
    trainable = [(p, p.requires_grad) for p in model.parameters()]
    try:
        with _loading(directory):
            model.load_adapter(str(directory), _BESIDE, torch_device=str(adapter.device))
        model.set_adapter(_BESIDE)
        loaded = {
            name.replace(f".{_BESIDE}.", f".{_IN_MEMORY}."): values
            for name, values in _adapter_weights(model).items()
            if f".{_BESIDE}." in name
        }
        _compare_weights(directory, wanted, loaded)
        after = _scores(adapter, pairs)
    finally:
        model.set_adapter(_IN_MEMORY)
        if _BESIDE in model.peft_config:
            model.delete_adapter(_BESIDE)
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)
    return _refuse_other_scores(directory, before, after)


@contextlib.contextmanager
def _loading(directory: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing")
            yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"The saved adapter in {directory} does not load: {error}",
            advice="Save it again with Adapter.save.",
        ) from error


def _bare_copy(adapter: Adapter) -> PreTrainedModel:
    base: PreTrainedModel = copy.deepcopy(adapter.model).unload()
    return base


def _adapter_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if "lora_" in name}


def _compare_weights(
    directory: Path, wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> None:
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
def _scores(adapter: Adapter, pairs: Sequence[TokenizedPair]) -> npt.NDArray[np.float32]:
    if not pairs:
        raise ModelError("Nothing to compare.", advice="Pass at least one pair.")
    scorer = PairScorer(adapter, "two_forward")
    found: npt.NDArray[np.float32] = scorer.logprobs(scorer.batch(pairs)).cpu().numpy()
    return found


def _refuse_other_scores(
    directory: Path, before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]
) -> float:
    # Of a diverged adapter both scores are no numbers, or infinite alike.
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    worst = float(np.abs(np.where(same, 0.0, before) - np.where(same, 0.0, after)).max())
    if not worst <= _TOLERANCE:
        raise ModelError(
            f"The adapter in {directory} scores pairs up to {worst:.3g} nats away from the one in "
            "memory.",
            advice="Check that the base model is the one the adapter was trained on.",
        )
    return worst
