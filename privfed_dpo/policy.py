"""From a configuration to the policy: base model, adapter, and their gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.config import Config
from privfed_dpo.data.synthetic import SyntheticTask
from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.clipped_sums import ClippedSums, SumMethod
from privfed_dpo.dpo.memory import measure_step_memory
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.engine.objective import trained_loss
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.mechanism.clip import ClippedSum, PairClipper
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.loading import LoadedModel, ModelSpec, load_model
from privfed_dpo.model.tiny import TINY_LLAMA
from privfed_dpo.model.warmup import warm_up


@dataclass(frozen=True, slots=True)
class AdapterGradients:
    """The model as the engine sees it; shared by all clients of one process.

    Attributes:
        adapter: the policy.
        gradients: loss, layout and micro-batches.
        method: how clipped gradients are summed.
    """

    adapter: Adapter = field(repr=False)
    gradients: PairGradients = field(repr=False)
    method: SumMethod = "rows"

    def load(self, weights: npt.NDArray[np.float32]) -> None:
        """Put a flat adapter into the model."""
        self.adapter.write(weights)

    def pair_gradients(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.float32]
    ) -> Iterator[torch.Tensor]:
        """Yield raw pair gradients, one row per pair."""
        return self.gradients(pairs, reference)

    def clipped_sum(
        self,
        pairs: Sequence[TokenizedPair],
        reference: npt.NDArray[np.float32],
        clipper: PairClipper,
    ) -> ClippedSum:
        """Sum clipped pair gradients in integers, layer by layer; see `ClippedSums`."""
        return ClippedSums(self.gradients, clipper, method=self.method)(pairs, reference)

    def close(self) -> None:
        """Nothing to give back: there is no process but this one."""


def model_spec(config: Config) -> ModelSpec:
    """Say which base model a configuration wants, and how it is held."""
    model = config.model
    return ModelSpec(
        base=model.base,
        revision=model.revision,
        dtype=model.dtype,
        device=model.device,
        init_seed=config.run.seed,
        attention=model.attention,
        quantization=model.quantization,
    )


def base_bytes(config: Config, base: torch.nn.Module) -> int:
    """Estimate the memory of the base weights; quantization holds linear layers in fewer bits."""
    width = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}[config.model.dtype]
    narrow = {"none": width, "8bit": 1.0, "4bit": 0.5}[config.model.quantization]
    weights = sum(parameter.numel() for parameter in base.parameters())
    linear = sum(m.weight.numel() for m in base.modules() if isinstance(m, torch.nn.Linear))
    return int(linear * narrow + (weights - linear) * width)


def adapter_spec(config: Config) -> AdapterSpec:
    """Say which adapter a configuration wants."""
    adapter = config.model.adapter
    return AdapterSpec(
        rank=adapter.rank,
        alpha=2.0 * adapter.rank if adapter.alpha is None else adapter.alpha,
        target_modules=adapter.target_modules,
        freeze_a=adapter.freeze_a,
        rslora=adapter.rslora,
        rank_pattern=tuple(adapter.rank_pattern.items()),
        full_weights=adapter.full_weights,
        init_seed=config.run.seed,
    )


def build_gradients(config: Config, adapter: Adapter, micro_batch_pairs: int) -> PairGradients:
    """Build the gradients of a policy with the loss and layout that a configuration wants."""
    return PairGradients(
        adapter,
        loss=trained_loss(config),
        form=config.dpo.form,
        micro_batch_pairs=micro_batch_pairs,
        gradient_checkpointing=config.dpo.gradient_checkpointing,
    )


def make_gradients(
    config: Config, plan: RunPlan, adapter: Adapter, *, max_length: int
) -> AdapterGradients:
    """Build what the engine takes gradients from, the way the plan says.

    Where the plan leaves the micro-batch open, it becomes the largest whose longest possible pairs
    fit into the plan's memory: a function of public limits and of this machine, not of anybody's
    pairs.

    Args:
        config: for loss and layout.
        plan: for the way of summing.
        adapter: the policy.
        max_length: most tokens of a prompt with one completion.

    Raises:
        ModelError: no exact form for this model, or not even one pair fits into memory.
    """
    sums = plan.sums
    gradients = build_gradients(config, adapter, sums.micro_batch_pairs or 1)
    if sums.micro_batch_pairs is None and sums.memory_bytes is not None:
        clipper = plan.clipper() or PairClipper(1.0, 1 << 20)
        memory = measure_step_memory(
            ClippedSums(gradients, clipper, method=sums.method),
            prompt_tokens=1,  # two long completions make the longest row
            completion_tokens=max_length - 1,
        )
        fitting = memory.largest_micro_batch(sums.memory_bytes)
        gradients.micro_batch_pairs = min(fitting, max(plan.facts.client_pairs))
    return AdapterGradients(adapter, gradients, sums.method)


def cache_folder(config: Config) -> Path:
    """Where warmed-up models and reference log-probabilities are kept between runs."""
    if config.run.cache_dir is not None:
        return Path(config.run.cache_dir)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "privfed-dpo"


def load_base(config: Config, task: SyntheticTask | None, base_folder: Path | None) -> LoadedModel:
    """Load the base model; that of the embedded task is warmed up, once.

    Args:
        config: which model.
        task: the embedded task, if the data come from it.
        base_folder: where the warmed-up base is kept: read if it is there, written if not.

    Raises:
        ModelError: nothing usable under that name.
    """
    spec = model_spec(config)
    if task is None or spec.base != TINY_LLAMA:
        return load_model(spec)
    if base_folder is not None and (base_folder / "config.json").is_file():
        return load_model(replace(spec, base=str(base_folder)))
    loaded = load_model(spec, vocabulary=task.vocabulary)
    texts = [loaded.tokenizer(text)["input_ids"] for text in task.warmup_texts]
    end = loaded.tokenizer.eos_token_id
    warm_up(
        loaded,
        [[*ids, end] for ids in texts],
        steps=config.model.warmup_steps,
        batch=config.model.warmup_batch,
        learning_rate=config.model.warmup_learning_rate,
        seed=config.run.seed,
        cache_dir=cache_folder(config) / "warmup",
    )
    if base_folder is not None:
        loaded.save(base_folder)
    return loaded
