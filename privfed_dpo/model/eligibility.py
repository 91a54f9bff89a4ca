"""What can be trained per pair, and what is refused by name before anything runs."""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import nn
from transformers import PretrainedConfig

from privfed_dpo.errors import ModelError

_SHARES_STATISTICS = (nn.modules.batchnorm._BatchNorm,)  # noqa: SLF001 - the common parent
# These change the rotation of EVERY row when one row is long.
_LENGTH_DEPENDENT_ROTATIONS = frozenset({"dynamic", "longrope"})
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "ffn_act")
_KINKED = frozenset({"relu", "relu6", "leaky_relu"})


def refuse_if_not_per_pair(model: PeftModel) -> None:
    """Checks that every trainable weight has a gradient of its own for each pair.

    Passing it means: trainable weights live only in plain linear layers of a LoRA adapter that
    see one row per pair, no layer draws dropout masks, and no layer mixes rows. It looks at
    modules and configuration; that rows really are pairs is checked again on every batch by
    `PairGradients`.

    Args:
        model: a peft model.

    Raises:
        ModelError: names the part that cannot be private and what to use in its place.
    """
    _refuse_configurations(model)
    _refuse_auxiliary_loss(model)
    _refuse_modules(model)
    _refuse_trainable_outside_linear(model)
    _refuse_trainable_head(model)


def position_limit(model: nn.Module) -> int | None:
    """Returns the most tokens of prompt plus completion whose scores depend on the pair alone.

    The configuration's number of positions, or the length up to which its rotary embedding does
    not adapt to the longest row of a batch. None where the configuration names no limit.
    """
    config = getattr(model, "config", None)
    limit = getattr(config, "max_position_embeddings", None)
    rotation = getattr(config, "rope_parameters", None) or {}
    if isinstance(rotation, dict) and rotation.get("rope_type") in _LENGTH_DEPENDENT_ROTATIONS:
        limit = rotation.get("original_max_position_embeddings") or limit
    return int(limit) if limit else None


def attention_window(model: nn.Module) -> int | None:
    """Returns the size of the smallest sliding attention window in tokens; None without one."""
    config = getattr(model, "config", None)
    window = getattr(config, "sliding_window", None)
    if not window or getattr(config, "use_sliding_window", True) is False:
        return None
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    return int(window)


def jumps(model: nn.Module) -> str:
    """Says what makes a pair's gradient jump where its inputs change by a rounding error.

    With several pairs in one pass, rounding depends on the others. Where nothing jumps, that moves
    a gradient as little as the rounding itself; where something does, by any amount.

    Returns:
        Words for a person; empty if activations and routing of the model are continuous. Looks at
        the configuration alone.
    """
    config = getattr(model, "config", None)
    if isinstance(config, PretrainedConfig):
        config = config.get_text_config()
    if any((getattr(config, name, None) or 0) > 1 for name in _EXPERTS):
        return "a token goes to one expert or another"
    for name in _ACTIVATIONS:
        if str(getattr(config, name, "")) in _KINKED:
            return f"its activation {getattr(config, name)} has a kink"
    return ""


def _refuse_configurations(model: PeftModel) -> None:
    for config in model.peft_config.values():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if kind != "LORA":
            raise ModelError(
                f"Adapters of type {kind} have no per-pair gradient here.",
                advice="Use LoRA (freeze_a for FFA-LoRA).",
            )
        if config.use_dora:
            raise ModelError(
                "DoRA (use_dora) normalises whole weight columns and has no per-pair gradient.",
                advice="Use LoRA without use_dora.",
            )
        if config.modules_to_save:
            raise ModelError(
                f"modules_to_save={list(config.modules_to_save)} trains whole modules, whose rows "
                "are tokens and not pairs.",
                advice="Leave modules_to_save empty and adapt linear layers only.",
            )
        if config.bias != "none":
            raise ModelError(
                f"bias={config.bias!r} trains bias vectors outside the adapter.",
                advice="Set bias to none.",
            )


def _refuse_auxiliary_loss(model: PeftModel) -> None:
    """Experts themselves are welcome: tokens are routed one by one, and none is dropped."""
    if getattr(model.get_base_model().config, "output_router_logits", False):
        raise ModelError(
            "output_router_logits asks for an auxiliary loss that balances experts over all tokens "
            "of a batch, so that pairs share a gradient.",
            advice="Set output_router_logits to false in the checkpoint's config.json.",
        )


def _refuse_modules(model: PeftModel) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _SHARES_STATISTICS):
            raise ModelError(
                f"{name} is a batch norm: its output mixes the pairs of a batch.",
                advice="Use a model with layer norm or RMS norm.",
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:  # noqa: SLF001
            raise ModelError(
                f"{name} draws dropout masks (p={module.p}), so policy and reference disagree.",
                advice="Load the model through load_model, which sets every dropout to 0.",
            )


def _refuse_trainable_outside_linear(model: PeftModel) -> None:
    trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ModelError(
            "The adapter has no trainable weight.",
            advice="Check target_modules and that gradients are not switched off.",
        )
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) in trainable]
        if not own:
            continue
        if "lora_embedding" in name or isinstance(module, nn.ParameterDict | nn.Embedding):
            raise ModelError(
                f"{name} is LoRA on an embedding, which has no per-pair gradient.",
                advice="Target linear layers, for instance the attention projections.",
            )
        if type(module) is not nn.Linear or ".lora_" not in name:
            raise ModelError(
                f"{name} ({type(module).__name__}) is trainable but not a linear layer of the "
                "adapter, so its gradient cannot be told apart per pair.",
                advice="Freeze it, or reach it through LoRA.",
            )


def _refuse_trainable_head(model: PeftModel) -> None:
    head = model.get_base_model().get_output_embeddings()
    if head is not None and any(p.requires_grad for p in head.parameters()):
        raise ModelError(
            "The output head is trainable, but it sees scored tokens and not pairs.",
            advice="Leave the head (lm_head, embed_out) out of target_modules.",
        )


def float_adapter_weights(model: PeftModel) -> None:
    """Turns trainable weights into float32, whatever type the frozen weights have."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
