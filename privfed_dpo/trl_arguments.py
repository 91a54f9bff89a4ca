"""Arguments as people know them from TRL and peft, in this project's settings.

What means the same here is carried over. What would train something else is refused, and whatever
else somebody set is named in a warning: nothing is dropped without a word.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from peft import LoraConfig

from privfed_dpo.errors import ConfigError

LOSSES = ("sigmoid", "ipo", "hinge", "robust")
"""Values of TRL's `loss_type` that mean the same loss here."""

_SAME = {
    "beta": "dpo.beta",
    "label_smoothing": "dpo.label_smoothing",
    "max_length": "data.max_length",
    "seed": "run.seed",
    "gradient_checkpointing": "dpo.gradient_checkpointing",
    "activation_checkpointing": "dpo.gradient_checkpointing",
}
_READ = {*_SAME, "loss_type", "model_init_kwargs", "use_cpu", "output_dir"}
# What runs do anyway, and what transformers fills in from other arguments.
_WITHOUT_EFFECT = {"precompute_ref_log_probs", "bf16", "do_eval", "local_rank"}
_OTHER_MEANING = {
    "learning_rate": "federation.learning_rate (a step of the server's optimizer)",
    "max_grad_norm": "privacy.max_grad_norm (the bound on each pair's gradient)",
    "num_train_epochs": "federation.rounds and privacy.sample_rate",
    "max_steps": "federation.rounds",
    "per_device_train_batch_size": "privacy.sample_rate, and dpo.micro_batch_pairs for memory",
    "gradient_accumulation_steps": "privacy.sample_rate",
    "lr_scheduler_type": "federation.learning_rate, which is constant",
    "warmup_steps": "federation.learning_rate, which is constant",
    "optim": "federation.server_optimizer",
    "adam_beta1": "federation.momentum",
    "weight_decay": "nothing: the adapter is not decayed",
    "truncation_mode": "data.max_length: prompts are cut first, on the left",
    "fp16": "model.dtype",
    "trust_remote_code": "nothing: code of a checkpoint is never run",
    "eval_strategy": "evaluation.every",
    "eval_steps": "evaluation.every",
    "report_to": "run.tensorboard",
    "data_seed": "run.seed",
    "fsdp": "run.shard_base",
    "resume_from_checkpoint": "privfed_dpo.resume",
    "push_to_hub": "the method push_to_hub",
    "hub_model_id": "the method push_to_hub",
}
_UNSUPPORTED: Mapping[str, tuple[tuple[object, ...], str]] = {
    "loss_weights": ((None,), "a run has one loss"),
    "ld_alpha": ((None, 1.0), "the tokens of an answer all count alike"),
    "use_weighting": ((False,), "pairs all count alike"),
    "sync_ref_model": ((False,), "every pair is held against one fixed reference"),
    "f_divergence_type": (("reverse_kl",), "the pull to the reference is reverse_kl"),
    "disable_dropout": ((True,), "with dropout, policy and reference would disagree"),
    "neftune_noise_alpha": ((None,), "a pair's gradient has to be a function of the pair"),
    "router_aux_loss_coef": ((None, 0.0), "a loss that balances experts mixes pairs"),
}
"""Arguments that change what is trained: values that do not, and why there are no others."""

_LOADING = {
    "revision": "model.revision",
    "dtype": "model.dtype",
    "torch_dtype": "model.dtype",
    "attn_implementation": "model.attention",
}
_LOADING_ELSEWHERE = {
    "quantization_config": "model.quantization",
    "load_in_8bit": "model.quantization",
    "load_in_4bit": "model.quantization",
    "device_map": "model.device or run.shard_base",
}
_LOADING_WITHOUT_EFFECT = {
    "use_cache": (True, False),
    "low_cpu_mem_usage": (True, False),
    "use_safetensors": (True,),
    "trust_remote_code": (False,),
}

_ADAPTER_READ = {"r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern"}
# Where a configuration comes from; and fan_in_fan_out, which peft settles layer by layer.
_ADAPTER_WITHOUT_EFFECT = {
    "peft_type",
    "peft_version",
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",
}
_ADAPTER_ALLOWED = {"task_type": (None, "CAUSAL_LM")}


def settings_of_arguments(arguments: Any) -> dict[str, Any]:
    """Translate a `trl.DPOConfig`, or an object with some of its attributes.

    Args:
        arguments: e.g. `trl.DPOConfig(output_dir=..., beta=0.1, loss_type="ipo")`. What differs
            from its defaults and is not carried over is named in a warning.

    Returns:
        `section.key` to value.

    Raises:
        ConfigError: an argument that changes the objective or the model in a way that has no
            private form here; names all of them.
    """
    settings: dict[str, Any] = {}
    for name, key in _SAME.items():
        value = getattr(arguments, name, None)
        if value is not None:
            settings[key] = value
    if getattr(arguments, "use_cpu", False):
        settings["model.device"] = "cpu"
    loss = getattr(arguments, "loss_type", None)
    if loss is not None:
        settings["dpo.loss"] = _loss(loss)
    problems = [
        f"{name}={getattr(arguments, name)!r} has no counterpart: {reason}"
        for name, (allowed, reason) in _UNSUPPORTED.items()
        if not _among(getattr(arguments, name, allowed[0]), allowed)
    ]
    if getattr(arguments, "max_length", 0) is None:
        problems.append(
            "max_length=None has no counterpart: memory is set aside for the longest pair, which "
            "must be a public number; give a limit, at most what the model can read"
        )
    loading, unclear = _settings_of_loading(getattr(arguments, "model_init_kwargs", None))
    problems += unclear
    if problems:
        raise ConfigError(tuple(problems), advice="Leave these arguments out, or change them.")
    _warn_of_others(arguments)
    return settings | loading


def settings_of_adapter(adapter: LoraConfig) -> dict[str, Any]:
    """Translate peft's `LoraConfig`.

    Args:
        adapter: as it is given to peft or TRL.

    Returns:
        `section.key` to value.

    Raises:
        ConfigError: not LoRA, or a field that is not translated and differs from a fresh
            `LoraConfig`; names all of them.
    """
    kind = getattr(adapter, "peft_type", None)
    if not isinstance(adapter, LoraConfig) or getattr(kind, "value", kind) != "LORA":
        raise ConfigError(
            (f"peft_config is of type {type(adapter).__name__}, and only LoRA is trained here",),
            advice="Give a peft.LoraConfig.",
        )
    fresh = LoraConfig()
    skipped = _ADAPTER_READ | _ADAPTER_WITHOUT_EFFECT
    problems = []
    for field in fields(adapter):
        value, usual = getattr(adapter, field.name), getattr(fresh, field.name, _default(field))
        allowed = _ADAPTER_ALLOWED.get(field.name, (usual,))
        empty = not usual and isinstance(value, list | dict | set) and not value
        if field.name not in skipped and not empty and not _among(value, allowed):
            problems.append(
                f"LoraConfig({field.name}={value!r}) has no private form here; use {allowed[-1]!r}"
            )
    targets = adapter.target_modules
    if isinstance(targets, str) and re.search(r"[^\w.-]", targets):
        problems.append(
            f"LoraConfig(target_modules={targets!r}) is a pattern; list the names of the modules"
        )
    if problems:
        raise ConfigError(tuple(problems), advice="Train plain LoRA factors, without dropout.")
    if targets is None:
        wanted: Any = "auto"
    elif isinstance(targets, str):
        wanted = targets if targets == "all-linear" else [targets]
    else:
        wanted = sorted(targets)
    return {
        "model.adapter.rank": adapter.r,
        "model.adapter.alpha": float(adapter.lora_alpha),
        "model.adapter.target_modules": wanted,
        "model.adapter.rslora": bool(adapter.use_rslora),
        "model.adapter.rank_pattern": dict(adapter.rank_pattern or {}),
    }


def _loss(given: Any) -> str:
    names = [given] if isinstance(given, str) else list(given)
    if len(names) != 1 or names[0] not in LOSSES:
        raise ConfigError(
            (f"loss_type={given!r} is not one of {', '.join(LOSSES)}",),
            advice="One loss per run; dpo.loss lists those that are private here.",
        )
    return str(names[0])


def _settings_of_loading(given: Any) -> tuple[dict[str, Any], list[str]]:
    """Translate `model_init_kwargs`; also return one sentence for each that has no counterpart."""
    if given is None:
        return {}, []
    if not isinstance(given, Mapping):
        return {}, [f"model_init_kwargs={given!r} is not a mapping"]
    settings: dict[str, Any] = {}
    problems = []
    for name, value in given.items():
        if value is None or _among(value, _LOADING_WITHOUT_EFFECT.get(name, ())):
            continue
        if name in _LOADING:
            settings[_LOADING[name]] = str(value).removeprefix("torch.")
        else:
            instead = _LOADING_ELSEWHERE.get(name)
            hint = f"; see {instead}" if instead else ""
            problems.append(f"model_init_kwargs has {name!r}, which is not carried over{hint}")
    return settings, problems


def _warn_of_others(arguments: Any) -> None:
    """Name the arguments somebody set that are not carried over, never their values."""
    skipped = _READ | _WITHOUT_EFFECT | set(_UNSUPPORTED)
    changed = [name for name in _set_by_somebody(arguments) if name not in skipped]
    known = [f"{name} (see {_OTHER_MEANING[name]})" for name in changed if name in _OTHER_MEANING]
    unknown = [name for name in changed if name not in _OTHER_MEANING]
    said = []
    if known:
        said.append("not carried over, because it means something else here: " + "; ".join(known))
    if unknown:
        said.append("not carried over, because nothing here takes it: " + ", ".join(unknown))
    if said:
        warnings.warn("\n".join(said), stacklevel=4)


def _set_by_somebody(arguments: Any) -> list[str]:
    """Names of the arguments that differ from their defaults; all, where there are none."""
    if not is_dataclass(arguments):
        own = getattr(arguments, "__dict__", {})
        return [name for name, value in own.items() if value is not None and name[:1] != "_"]
    usual = {field.name: _default(field) for field in fields(arguments)} | _as_made(arguments)
    return [name for name, value in usual.items() if not _among(getattr(arguments, name), (value,))]


def _as_made(arguments: Any) -> dict[str, Any]:
    """Defaults as the class leaves them, which fills some in; empty where that cannot be seen."""
    kind = type(arguments)
    names = [field.name for field in fields(kind)]
    # Without these a machine without a GPU may refuse the defaults.
    given = {
        name: getattr(arguments, name)
        for name in ("output_dir", "use_cpu", "bf16")
        if name in names
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fresh = kind(**given)
    except (TypeError, ValueError, ImportError, RuntimeError):
        return {}
    return {name: getattr(fresh, name) for name in names}


def _among(value: Any, allowed: tuple[object, ...]) -> bool:
    """Whether a value, or what a member of an enumeration stands for, is one of these."""
    plain = getattr(value, "value", value)
    for usual in allowed:
        try:
            if value is usual or bool(value == usual) or bool(plain == usual):
                return True
        except (TypeError, ValueError):
            continue
    return False


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else None
