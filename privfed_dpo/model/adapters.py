"""LoRA adapters as one flat float32 vector."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from privfed_dpo.durable import sync_files
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapter_spec import (
    AdapterSpec,
    lora_config,
    resolve_targets,
    start_full_weights,
)
from privfed_dpo.model.eligibility import float_adapter_weights, refuse_if_not_per_pair
from privfed_dpo.model.loading import LoadedModel, remove_dropout

__all__ = ["Adapter", "AdapterSpec", "Float32Vector", "ParameterSlot", "resolve_targets"]

Float32Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ParameterSlot:
    """Where one trainable tensor lies in the flat vector: [start, stop) reshaped to `shape`."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Adapter:
    """A base model with one adapter, whose trainable weights read and write as one vector.

    Attributes:
        model: the peft model; the base inside was changed in place and stays frozen.
        layout: where each trainable tensor lies in the vector, in the model's parameter order.
        parameters: the trainable tensors, in the order of `layout`.
        linear_layers: the modules that own them.
        pad_id: a token id to fill rows with.
    """

    def __init__(self, model: PeftModel) -> None:
        """Takes a peft model that passes `refuse_if_not_per_pair`.

        Args:
            model: LoRA on linear layers; put into eval mode, dropout set to 0, trainable weights
                turned into float32.

        Raises:
            ModelError: part of it cannot be trained per pair.
        """
        remove_dropout(model)
        refuse_if_not_per_pair(model)
        float_adapter_weights(model)
        model.eval()
        self.model = model
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.parameters: tuple[nn.Parameter, ...] = tuple(p for _, p in named)
        self.layout = _lay_out(named)
        own = {id(p) for p in self.parameters}
        self.linear_layers: tuple[nn.Linear, ...] = tuple(
            module
            for module in model.modules()
            if isinstance(module, nn.Linear) and id(module.weight) in own
        )
        pad_id = getattr(model.config, "pad_token_id", None)
        rows = model.get_base_model().get_input_embeddings().num_embeddings
        self.pad_id: int = pad_id if pad_id is not None and 0 <= pad_id < rows else 0

    @classmethod
    def attach(cls, base: LoadedModel | PreTrainedModel, spec: AdapterSpec) -> Adapter:
        """Adds a fresh adapter to a base model; the policy then equals the reference exactly.

        Args:
            base: a loaded model, or a bare one (also one on the meta device, for its dimension).
            spec: rank, targets and start.

        Raises:
            ModelError: bad rank or alpha, no such layers, or a target that cannot be private.
        """
        model = base.model if isinstance(base, LoadedModel) else base
        if hasattr(model, "peft_config"):
            raise ModelError(
                "This base model already carries an adapter.",
                advice="Load the base model again, or reuse the adapter it has.",
            )
        config = lora_config(model, spec)
        model.requires_grad_(False)
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(fan_in_fan_out|gradient_checkpointing)")
            torch.manual_seed(spec.init_seed)
            try:
                adapted = get_peft_model(model, config)
            except (ValueError, TypeError) as error:
                raise ModelError(
                    f"LoRA cannot be attached: {error}",
                    advice="Choose target_modules among the model's linear layers, or auto.",
                ) from error
        if spec.full_weights:
            start_full_weights(adapted)
        if spec.freeze_a:
            for name, parameter in adapted.named_parameters():
                if ".lora_A." in name:
                    parameter.requires_grad_(False)
        return cls(adapted)

    @property
    def dimension(self) -> int:
        """Number of trainable weights, d."""
        return self.layout[-1].stop

    @property
    def device(self) -> torch.device:
        """Where the adapter's weights live."""
        return self.parameters[0].device

    def read(self) -> Float32Vector:
        """Returns a copy of the trainable weights, float32 [d], bit for bit."""
        with torch.no_grad():
            flat = torch.cat([p.reshape(-1) for p in self.parameters])
        vector: Float32Vector = flat.cpu().numpy()
        return vector

    def write(self, vector: npt.NDArray[np.floating]) -> None:
        """Sets the trainable weights; float32 values arrive bit for bit, others are rounded.

        Args:
            vector: float [d], finite.

        Raises:
            ModelError: wrong shape, or not finite (nothing was written).
        """
        if vector.shape != (self.dimension,):
            raise ModelError(
                f"The adapter holds a vector of {self.dimension} weights, not {vector.shape}.",
                advice="Use the adapter settings that the vector was made with.",
            )
        if not np.isfinite(vector).all():
            raise ModelError(
                "The adapter vector is not finite.",
                advice="Lower the learning rate; the last good vector is still in place.",
            )
        # A copy: torch must neither alias nor write into the caller's (perhaps read-only) array.
        flat = torch.from_numpy(np.array(vector, dtype=np.float32)).to(self.device)
        with torch.no_grad():
            for slot, parameter in zip(self.layout, self.parameters, strict=True):
                parameter.copy_(flat[slot.start : slot.stop].view(slot.shape))

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it the model is the reference: the base alone."""
        # peft's context makes every LoRA factor trainable on the way out, frozen ones included.
        trainable = [(p, p.requires_grad) for p in self.model.parameters()]
        try:
            with self.model.disable_adapter():
                yield
        finally:
            for parameter, flag in trainable:
                parameter.requires_grad_(flag)

    def save(self, directory: Path) -> None:
        """Writes the adapter in peft's format (`adapter_config.json`, safetensors), synced.

        Check what was written with `verify_saved_adapter`.

        Raises:
            OSError: it could not be written.
        """
        self.model.save_pretrained(directory, safe_serialization=True)
        sync_files(directory)


def _lay_out(named: list[tuple[str, nn.Parameter]]) -> tuple[ParameterSlot, ...]:
    slots: list[ParameterSlot] = []
    start = 0
    for name, parameter in named:
        stop = start + parameter.numel()
        slots.append(ParameterSlot(name, tuple(parameter.shape), start, stop))
        start = stop
    return tuple(slots)
