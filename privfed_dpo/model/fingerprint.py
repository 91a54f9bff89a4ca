"""What tells base models apart: a hash of configuration, weights and tokenizer."""

from __future__ import annotations

import hashlib
import json

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Keys that say where a configuration came from or how it is run, not what it computes.
_VOLATILE_CONFIG_KEYS = frozenset(
    {"_name_or_path", "transformers_version", "use_cache", "architectures", "pad_token_id"}
)


def fingerprint_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hashes everything that decides a base model's log-probabilities.

    Two models with one fingerprint have equal configurations, bit-identical weights of equal
    dtype and equal tokenizers (chat template included). The name of the folder they came from
    does not matter. Reads all weights once.

    Args:
        model: a base model, before an adapter is attached to it.
        tokenizer: its tokenizer.

    Returns:
        A SHA-256 digest, 64 hexadecimal characters.
    """
    digest = hashlib.sha256(b"privfed-dpo base model v1\0")
    config = {
        key: value
        for key, value in model.config.to_dict().items()
        if key not in _VOLATILE_CONFIG_KEYS
    }
    _absorb(digest, json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        _absorb(digest, f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        raw = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        _absorb(digest, memoryview(raw.numpy()))
    _absorb(digest, _describe_tokenizer(tokenizer))
    return digest.hexdigest()


def tokenizer_difference(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str:
    """Names what makes two tokenizers turn a text into different ids.

    Padding and truncation are left aside: nothing here rests on how a tokenizer does either.

    Args:
        one: a tokenizer.
        other: another.

    Returns:
        What differs, or an empty string if nothing does.
    """
    aspects = {
        "vocabulary": [kind.get_vocab() for kind in (one, other)],
        "chat template": [kind.chat_template for kind in (one, other)],
        "first and last token": [(kind.bos_token, kind.eos_token) for kind in (one, other)],
        "rules": [_splitting_rules(kind) for kind in (one, other)],
    }
    return next((name for name, (left, right) in aspects.items() if left != right), "")


def _splitting_rules(tokenizer: PreTrainedTokenizerBase) -> object:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer).__name__
    rules: dict[str, object] = json.loads(backend.to_str())
    return {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}


def _absorb(digest: hashlib._Hash, part: bytes | memoryview) -> None:
    digest.update(len(part).to_bytes(8, "big"))
    digest.update(part)


def _describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bytes:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    described = {
        "rules": rules,
        "special": {key: str(value) for key, value in tokenizer.special_tokens_map.items()},
        "template": tokenizer.chat_template,
    }
    return json.dumps(described, sort_keys=True, default=str).encode()
