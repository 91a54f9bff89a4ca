"""Small models of several families, and preference pairs of uneven lengths."""

from __future__ import annotations

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from privfed_dpo.data.tokenize import TokenizedPair, pair_key

VOCABULARY_SIZE = 97

_SHAPE = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    # Large weights, so that a wrong mask or position moves scores far beyond rounding.
    "initializer_range": 0.2,
    "pad_token_id": 0,
}

FAMILIES = {
    "llama": lambda **extra: LlamaConfig(**{**_SHAPE, **extra}),
    "llama-tied": lambda **extra: LlamaConfig(**{**_SHAPE, "tie_word_embeddings": True, **extra}),
    "qwen2": lambda **extra: Qwen2Config(**{**_SHAPE, "tie_word_embeddings": True, **extra}),
    "qwen3": lambda **extra: Qwen3Config(**{**_SHAPE, "head_dim": 8, **extra}),
    "mistral": lambda **extra: MistralConfig(**{**_SHAPE, "sliding_window": None, **extra}),
    # Tokens choose two of four experts.
    "mixtral": lambda **extra: MixtralConfig(
        **{**_SHAPE, "sliding_window": None, "num_local_experts": 4, **extra}
    ),
    "gemma": lambda **extra: GemmaConfig(**{**_SHAPE, "head_dim": 8, **extra}),
    "gemma2": lambda **extra: Gemma2Config(
        **{**_SHAPE, "head_dim": 8, "sliding_window": 24, "query_pre_attn_scalar": 8, **extra}
    ),
    # Local and global layers in turn, with rotations of their own.
    "gemma3": lambda **extra: Gemma3TextConfig(
        **{
            **_SHAPE,
            "head_dim": 8,
            "sliding_window": 24,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            **extra,
        }
    ),
    "phi": lambda **extra: PhiConfig(**{**_SHAPE, **extra}),
    # One fused projection for query, key and value, another for gate and up.
    "phi3": lambda **extra: Phi3Config(**{**_SHAPE, "sliding_window": None, **extra}),
    "gpt2": lambda **extra: GPT2Config(
        vocab_size=VOCABULARY_SIZE,
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        **extra,
    ),
}


def toy_model(family: str = "llama", *, seed: int = 0, **extra) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(FAMILIES[family](**extra))
    return model.eval()


def make_pair(prompt, chosen, rejected) -> TokenizedPair:
    ids = tuple(prompt), tuple(chosen), tuple(rejected)
    return TokenizedPair(*ids, key=pair_key(*ids))


def toy_pairs(count: int, *, seed: int = 0, longest: int = 12) -> list[TokenizedPair]:
    """Pairs whose prompts and completions all have different lengths, 1 token included."""
    generator = np.random.default_rng(seed)
    return [
        make_pair(
            *(
                generator.integers(0, VOCABULARY_SIZE, size=generator.integers(1, longest)).tolist()
                for _ in range(3)
            )
        )
        for _ in range(count)
    ]


def shaken(adapter, *, seed: int = 0, scale: float = 0.1):
    """Moves an adapter away from its start, so that policy and reference differ."""
    generator = np.random.default_rng(seed)
    vector = adapter.read() + scale * generator.standard_normal(adapter.dimension)
    adapter.write(vector.astype(np.float32))
    return adapter
