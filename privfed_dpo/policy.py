"""From a configuration to base model, adapter, and their gradients."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from accounting import Mode
from privfed_dpo.config import Config
from privfed_dpo.data.synthetic import SyntheticTask
from privfed_dpo.dpo.local_policy import LocalPolicy
from privfed_dpo.dpo.memory import StepMemory
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.engine.objective import trained_loss
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.errors import ConfigError, ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.device import device_of, free_bytes, require_room_for_base, total_bytes
from privfed_dpo.model.eligibility import jumps
from privfed_dpo.model.loading import LoadedModel, ModelSpec, empty_model, load_model
from privfed_dpo.model.sharding import sharded_memory
from privfed_dpo.model.tiny import TINY_LLAMA
from privfed_dpo.model.warmup import warm_up

_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


def model_spec(config: Config) -> ModelSpec:
    """Say which base model a configuration wants, and how it is held."""
    model = config.model
    return ModelSpec(
        base=model.base,
        revision=model.revision,
        dtype=model.dtype,
        # Shares of a base move to their device block by block, when it is spread.
        device="cpu" if config.run.shard_base else model.device,
        init_seed=config.run.seed,
        attention=model.attention,
        quantization=model.quantization,
    )


def base_bytes(config: Config, base: torch.nn.Module) -> int:
    """Estimate the memory of the base weights; quantization holds linear layers in fewer bits."""
    width = float(_WIDTHS[config.model.dtype])
    narrow = {"none": width, "8bit": 1.0, "4bit": 0.5}[config.model.quantization]
    weights = sum(parameter.numel() for parameter in base.parameters())
    linear = sum(m.weight.numel() for m in base.modules() if isinstance(m, torch.nn.Linear))
    return int(linear * narrow + (weights - linear) * width)


def process_memory(config: Config) -> dict[str, int]:
    """What one process holds of a base that several share; nothing where they do not.

    A fact of this machine and not of the plan: no peer needs it.

    Returns:
        `process_base_bytes`, between passes, and `process_gathered_bytes`, on top within one.

    Raises:
        ModelError: no configuration under that name, or no decoder blocks.
    """
    if not config.run.shard_base:
        return {}
    memory = sharded_memory(
        empty_model(model_spec(config)), config.run.processes, width=_WIDTHS[config.model.dtype]
    )
    return {
        "process_base_bytes": memory.resting_bytes,
        "process_gathered_bytes": memory.gathered_bytes,
    }


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


def make_policy(config: Config, plan: RunPlan, adapter: Adapter, *, max_length: int) -> LocalPolicy:
    """Build what a run asks its model through, the way the plan says.

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
    gradients = build_gradients(config, adapter, plan.sums.micro_batch_pairs or 1)
    policy = LocalPolicy(adapter, gradients, plan.sums.method)
    settle_micro_batch(gradients, plan, lambda: policy.step_memory(max_length))
    return policy


def settle_micro_batch(
    gradients: PairGradients, plan: RunPlan, measure: Callable[[], StepMemory]
) -> None:
    """Take the micro-batch that fits where the plan leaves it open; else see that a GPU holds it.

    Memory would otherwise run out in the first round, which is then paid for.

    Args:
        gradients: whose micro-batch it is.
        plan: its size, or the memory that it may take.
        measure: what micro-batches of the longest possible pairs take.

    Raises:
        ModelError: not even one pair fits; or, on a GPU, not as many as the plan says; or the
            model is one whose gradients are private only with one pair a pass, and the plan wants
            more.
    """
    _require_one_pair_where_gradients_jump(gradients.adapter, plan)
    free = free_bytes(gradients.adapter.device)
    limits = [room for room in (plan.sums.memory_bytes, free) if room is not None]
    most = max(plan.facts.client_pairs)
    if plan.sums.micro_batch_pairs is None:
        fitting = measure().largest_micro_batch(min(limits)) if limits else most
        gradients.micro_batch_pairs = min(fitting, most)
    elif free is not None:
        wanted = min(plan.sums.micro_batch_pairs, most)
        measure().require(wanted, free)


def _require_one_pair_where_gradients_jump(adapter: Adapter, plan: RunPlan) -> None:
    if plan.mode is Mode.NONE or plan.sums.micro_batch_pairs == 1:
        return
    base = adapter.model.get_base_model()
    reason = jumps(base)
    if reason:
        raise ModelError(
            f"Gradients of {type(base).__name__} jump, since {reason}: with several pairs in one "
            "pass, leaving one of them out could change those of the others by more than noise is "
            "made for.",
            advice="Set dpo.micro_batch_pairs=1.",
        )


def cache_folder(config: Config) -> Path:
    """Where warmed-up models and reference log-probabilities are kept between runs."""
    if config.run.cache_dir is not None:
        return Path(config.run.cache_dir)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "privfed-dpo"


def _require_cache(config: Config) -> None:
    """See that the folder of what is kept between runs can be made and written to.

    Raises:
        ConfigError: it cannot.
    """
    folder = cache_folder(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except (FileExistsError, NotADirectoryError, PermissionError):
        writable = False
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        writable = False
    if not writable:
        raise ConfigError(
            (f"nothing can be written to {folder}, where runs keep what the next one needs too",),
            advice="Set run.cache_dir to a folder that can be written to.",
        )


def _require_room(config: Config) -> None:
    """Refuse a GPU that is too small for the base, before weights are read."""
    device = device_of(config.model.device)
    room = total_bytes(device)
    if room is None:
        return
    base = empty_model(model_spec(config))

    def held(**changes: object) -> int:
        model = config.model.model_copy(update=changes)
        return base_bytes(config.model_copy(update={"model": model}), base)

    shared = process_memory(config)
    needed = sum(shared.values()) if shared else base_bytes(config, base)
    narrow = ("model.dtype=bfloat16", "model.quantization=8bit", "model.quantization=4bit")
    changes = ({"dtype": "bfloat16"}, {"quantization": "8bit"}, {"quantization": "4bit"})
    sizes = [held(**change) for change in changes]
    alternatives = {} if shared else dict(zip(narrow, sizes, strict=True))
    require_room_for_base(device, room, needed, alternatives)


def load_base(config: Config, task: SyntheticTask | None, base_folder: Path | None) -> LoadedModel:
    """Load the base model; that of the embedded task is warmed up, once.

    Args:
        config: which model.
        task: the embedded task, if the data come from it.
        base_folder: where the warmed-up base is kept: read if it is there, written if not.

    Raises:
        ModelError: nothing usable under that name.
        ConfigError: the cache cannot be written to.
    """
    _require_cache(config)
    spec = model_spec(config)
    if task is None or spec.base != TINY_LLAMA:
        _require_room(config)
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
