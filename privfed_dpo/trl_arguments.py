"""Arguments as people know them from TRL and peft, in this project's settings.

Only what means the same here is carried over. What means something else here (a step size for
another optimizer, a clip bound on a batch instead of a pair) is named, not guessed.
"""

from __future__ import annotations

import warnings
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
}
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
    "weight_decay": "nothing: the adapter is not decayed",
}
_UNSUPPORTED = {
    "loss_weights": None,
    "ld_alpha": None,
    "sync_ref_model": False,
    "f_divergence_type": "reverse_kl",
}
_PLAIN_LORA = {
    "lora_dropout": 0.0,
    "bias": "none",
    "modules_to_save": None,
    "use_dora": False,
    "layers_to_transform": None,
    "target_parameters": None,
}


def settings_of_arguments(arguments: Any) -> dict[str, Any]:
    """Translate a `trl.DPOConfig`, or an object with some of its attributes.

    Args:
        arguments: e.g. `trl.DPOConfig(output_dir=..., beta=0.1, loss_type="ipo")`.

    Returns:
        `section.key` to value.

    Raises:
        ConfigError: an argument that changes the objective in a way that has no private form here.
    """
    settings: dict[str, Any] = {}
    for name, key in _SAME.items():
        value = getattr(arguments, name, None)
        if value is not None:
            settings[key] = value
    loss = getattr(arguments, "loss_type", None)
    if loss is not None:
        settings["dpo.loss"] = _loss(loss)
    problems = [
        f"{name}={getattr(arguments, name)!r} has no counterpart: every pair needs a gradient of "
        "its own against one fixed reference"
        for name, usual in _UNSUPPORTED.items()
        if getattr(arguments, name, usual) not in (usual, str(usual), getattr(usual, "value", 0))
    ]
    if problems:
        raise ConfigError(tuple(problems), advice="Leave these arguments out.")
    _warn_of_other_meanings(arguments)
    return settings


def settings_of_adapter(adapter: LoraConfig) -> dict[str, Any]:
    """Translate peft's `LoraConfig`.

    Args:
        adapter: as it is given to peft or TRL.

    Returns:
        `section.key` to value.

    Raises:
        ConfigError: something in it has no per-pair gradient, or would make results random.
    """
    problems = [
        f"LoraConfig({name}={getattr(adapter, name)!r}) has no private form; use {usual!r}"
        for name, usual in _PLAIN_LORA.items()
        if getattr(adapter, name, usual) not in (usual, None)
    ]
    if adapter.alpha_pattern:
        problems.append("LoraConfig(alpha_pattern=...) is not supported; use one alpha")
    if problems:
        raise ConfigError(tuple(problems), advice="Train plain LoRA factors, without dropout.")
    targets = adapter.target_modules
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


def _warn_of_other_meanings(arguments: Any) -> None:
    """Name the arguments somebody set that are not carried over."""
    if not is_dataclass(arguments):
        return
    usual = {field.name: _default(field) for field in fields(arguments)}
    changed = [
        f"{name} (see {key})"
        for name, key in _OTHER_MEANING.items()
        if name in usual and getattr(arguments, name) != usual[name]
    ]
    if changed:
        warnings.warn(
            "not carried over, because it means something else here: " + "; ".join(changed),
            stacklevel=4,
        )


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else None
