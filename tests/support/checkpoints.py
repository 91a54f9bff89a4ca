"""Tiny checkpoints of several families, written as a hub download would lie on the disk."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from tests.support.tokenizers import CHATML, byte_pair_tokenizer
from tests.support.toy_models import FAMILIES

__all__ = ["CHATML", "write_checkpoint"]


def write_checkpoint(folder, family, texts, *, chat_template=None, seed=0, **extra):
    """Writes model and tokenizer into `folder` and returns it.

    `family` is a key of `FAMILIES`; `extra` goes to the model's configuration. Weights are random
    and large enough that every pair has a gradient of its own.
    """
    tokenizer = byte_pair_tokenizer(texts, chat_template=chat_template)
    config = FAMILIES[family](**extra)
    # Like released checkpoints: more rows than tokens, since a family may add tokens of its own.
    config.vocab_size = (len(tokenizer) // 64 + 1) * 64
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
