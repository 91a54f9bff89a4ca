"""Shape of an adapter: which layers it goes to, and with which rank."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from peft import LoraConfig
from torch import nn

from privfed_dpo.errors import ModelError

ALL_LINEAR = "all-linear"
AUTO = "auto"

# Names of attention projections, most usual first; the first group found in a model is used.
_ATTENTION_PROJECTIONS: tuple[tuple[str, ...], ...] = (
    ("q_proj", "v_proj"),  # Llama, Qwen, Mistral, Mixtral, Gemma, Phi, OPT, GPT-J, StableLM
    ("q_proj", "kv_b_proj"),  # DeepSeek, without and with a low-rank query
    ("q_b_proj", "kv_b_proj"),
    ("qkv_proj",),  # Phi-3, CodeGen
    ("query_key_value",),  # GPT-NeoX, Bloom, Falcon
    ("c_attn",),  # GPT-2, GPT-BigCode (Conv1D: its LoRA factors are plain linear layers)
    ("Wqkv",),  # MPT
    ("att_proj",),  # OLMo
)


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """Shape and start of a LoRA adapter (Hu et al., 2022).

    Attributes:
        rank: inner dimension of every factor pair.
        alpha: the update is scaled by alpha / rank (alpha / sqrt(rank) with rslora).
        target_modules: names of linear layers, `auto` (the attention projections: query and value
            where they are separate, else the fused one), or `all-linear` (all but the head).
        freeze_a: train only the B factors (FFA-LoRA: Sun et al., 2024), so that the mean of
            adapters is the mean of updates and noise enters once.
        rslora: rank-stabilised scaling (Kalajdzievski, 2023).
        rank_pattern: (name ending, rank) of layers whose rank is another one; the first match
            counts.
        full_weights: train whole weight matrices of the targets: the A factors are identities
            that stay fixed, so B is the change of the weights itself, with scale 1. Exact, but
            for small models: every layer is held twice and the noise grows with the root of the
            number of weights. `auto` then means `all-linear`; biases, norms, embeddings and the
            head stay frozen; rank, alpha, rslora and rank_pattern say nothing.
        init_seed: seed of the random A factors; public, equal on all clients.
    """

    rank: int = 8
    alpha: float = 16.0
    target_modules: tuple[str, ...] | str = AUTO
    freeze_a: bool = False
    rslora: bool = False
    rank_pattern: tuple[tuple[str, int], ...] = ()
    full_weights: bool = False
    init_seed: int = 0


def lora_config(model: nn.Module, spec: AdapterSpec) -> LoraConfig:
    """Turns a spec into peft's configuration for one model.

    Args:
        model: the base model.
        spec: what is wanted.

    Raises:
        ModelError: a rank or alpha without effect, or a layer the model does not have.
    """
    _check_numbers(spec)
    wanted = spec.target_modules
    if spec.full_weights and wanted == AUTO:
        wanted = ALL_LINEAR
    targets = resolve_targets(model, wanted)
    layers = _widths(model, targets)
    rank, alpha = spec.rank, spec.alpha
    ranks, alphas = _chosen_ranks(layers, spec), {}
    if spec.full_weights:
        ranks = layers
        alphas = {name: float(width) for name, width in layers.items()}
        rank, alpha = max(layers.values()), float(max(layers.values()))
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(targets),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        lora_dropout=0.0,
        bias="none",
        use_rslora=spec.rslora and not spec.full_weights,
        task_type="CAUSAL_LM",
    )


def start_full_weights(model: nn.Module) -> None:
    """Sets every A factor to the identity, freezes it, and says what that costs."""
    weights = 0
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            with torch.no_grad():
                parameter.copy_(torch.eye(*parameter.shape, device=parameter.device))
            parameter.requires_grad_(False)
        elif ".lora_B." in name:
            weights += parameter.numel()
    warnings.warn(
        f"Full fine-tuning trains {weights} weights: the noise of every round has a norm of about "
        f"{weights**0.5:.0f} noise standard deviations, while a pair's gradient keeps its bound. "
        "An adapter of low rank usually learns more under the same budget.",
        stacklevel=2,
    )


def resolve_targets(model: nn.Module, targets: tuple[str, ...] | str) -> tuple[str, ...]:
    """Names the layers an adapter goes to.

    Args:
        model: a base model.
        targets: module names, `auto`, or `all-linear`.

    Returns:
        Module name endings that exist in the model.

    Raises:
        ModelError: no such layer; lists the names there are.
    """
    head = _head(model)
    endings: set[str] = set()
    for name, module in model.named_modules():
        if _is_linear(module):
            endings.add(name.rpartition(".")[2])
    if targets == AUTO:
        for group in _ATTENTION_PROJECTIONS:
            if endings.issuperset(group):
                return group
        raise ModelError(
            "No attention projections of a known name in this model.",
            advice=f"Set target_modules to some of: {', '.join(sorted(endings))}.",
        )
    if targets == ALL_LINEAR:
        inner = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if _is_linear(module) and module is not head
        }
        return tuple(sorted(inner))
    wanted = (targets,) if isinstance(targets, str) else targets
    missing = [name for name in wanted if name.rpartition(".")[2] not in endings]
    if missing or not wanted:
        raise ModelError(
            f"The model has no linear layers named {missing or wanted}.",
            advice=f"Linear layers of this model: {', '.join(sorted(endings))}.",
        )
    return wanted


def _check_numbers(spec: AdapterSpec) -> None:
    ranks = (spec.rank, *(rank for _, rank in spec.rank_pattern))
    if min(ranks) < 1 or not spec.alpha > 0:
        raise ModelError(
            f"LoRA with rank {min(ranks)} and alpha {spec.alpha} has no effect.",
            advice="Set every rank >= 1 and alpha > 0.",
        )
    if spec.full_weights and (spec.freeze_a or spec.rslora or spec.rank_pattern):
        raise ModelError(
            "full_weights has no factors to freeze, scale or choose ranks for.",
            advice="Leave freeze_a, rslora and rank_pattern out, or train an adapter.",
        )


def _chosen_ranks(layers: dict[str, int], spec: AdapterSpec) -> dict[str, int]:
    """Ranks by full layer name, so that nothing depends on how peft reads a pattern."""
    ranks: dict[str, int] = {}
    for ending, rank in spec.rank_pattern:
        matching = [name for name in layers if f".{name}".endswith(f".{ending}")]
        if not matching:
            raise ModelError(
                f"rank_pattern names {ending!r}, which the adapter does not go to.",
                advice=f"It goes to: {', '.join(sorted(layers))[:400]}.",
            )
        for name in matching:
            ranks.setdefault(name, rank)
    return {name: rank for name, rank in ranks.items() if rank != spec.rank}


def _widths(model: nn.Module, targets: tuple[str, ...]) -> dict[str, int]:
    """Input width of every targeted layer by its full name."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        if _is_linear(module) and any(f".{name}".endswith(f".{t}") for t in targets):
            # Conv1D keeps its weight transposed and has no in_features.
            found[name] = int(getattr(module, "in_features", 0) or module.weight.shape[0])
    return found


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _head(model: nn.Module) -> nn.Module | None:
    get = getattr(model, "get_output_embeddings", None)
    return None if get is None else get()
