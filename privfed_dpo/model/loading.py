"""From a name to a base model that is ready for private training: loaded, dropout-free, hashed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from privfed_dpo.errors import ModelError
from privfed_dpo.model.device import device_of
from privfed_dpo.model.fingerprint import fingerprint_model
from privfed_dpo.model.quantization import Quantization, quantized_loading
from privfed_dpo.model.tiny import SPECIAL_TOKENS, TINY_LLAMA, build_word_tokenizer
from privfed_dpo.model.tiny import tiny_llama_config as _tiny_llama_config

DtypeName = Literal["float32", "bfloat16", "float16"]
AttentionName = Literal["auto", "sdpa", "eager", "flash_attention_2"]

_LOADING_ERRORS = (
    OSError,
    ValueError,
    ImportError,
    KeyError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which base model, and how it is held.

    Attributes:
        base: `tiny-llama` (built in), a folder with a checkpoint, or a hub id.
        revision: commit or tag of a hub id; None is the newest.
        dtype: type of the frozen weights; adapters are float32 whatever it is.
        device: `cpu`, `cuda`, `cuda:1` and so on, or `auto` (cuda where there is one).
        init_seed: seed of the built-in model's random weights; privacy does not rest on it.
        attention: attention kernel; `auto` leaves the choice to transformers.
        quantization: `8bit` or `4bit` (NF4) hold the frozen weights of a checkpoint through
            bitsandbytes, where it is installed; `dtype` is then the type they are computed in.
            Adapters stay float32, and so do pair gradients.
    """

    base: str = TINY_LLAMA
    revision: str | None = None
    dtype: DtypeName = "float32"
    device: str = "cpu"
    init_seed: int = 0
    attention: AttentionName = "auto"
    quantization: Quantization = "none"


@dataclass(slots=True)
class LoadedModel:
    """A base model with its tokenizer.

    Attributes:
        model: a causal language model in eval mode, every dropout 0, every weight frozen.
        tokenizer: has a pad token and a chat template only if the checkpoint came with one.
        fingerprint: hash over configuration, weights and tokenizer; whoever changes weights must
            call `refresh_fingerprint`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str

    def refresh_fingerprint(self) -> str:
        """Hashes model and tokenizer again; call it before an adapter is attached."""
        self.fingerprint = fingerprint_model(self.model, self.tokenizer)
        return self.fingerprint

    def save(self, directory: Path) -> None:
        """Writes model (safetensors) and tokenizer so that `load_model` reads them back.

        Raises:
            ModelError: an adapter was already attached; its layers would be written as base layers.
        """
        if any("lora_" in name for name, _ in self.model.named_parameters()):
            raise ModelError(
                "An adapter is attached to this base model.",
                advice="Save the base model before Adapter.attach.",
            )
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def load_model(spec: ModelSpec, *, vocabulary: Sequence[str] | None = None) -> LoadedModel:
    """Loads a base model for private training.

    Weights come from safetensors files only (a pickle could run code), remote code is never run.
    Every dropout of the configuration and of the modules is set to 0, since policy and reference
    must agree at the start and a pair's gradient must be a function of the pair. A missing pad
    token becomes the end (or unknown) token; padding is masked, so its value does not matter.

    Args:
        spec: what to load.
        vocabulary: words of the built-in model's tokenizer; only for it.

    Returns:
        The model in eval mode on `spec.device`, weights frozen, with tokenizer and fingerprint.

    Raises:
        ModelError: nothing usable under that name; says what to do.
    """
    device = device_of(spec.device)
    if spec.base == TINY_LLAMA:
        model, tokenizer = _make_tiny(spec, vocabulary)
    else:
        model, tokenizer = _load_checkpoint(spec)
    _check_vocabulary(model, tokenizer)
    remove_dropout(model)
    model.requires_grad_(False)
    model.eval()
    if spec.quantization == "none":  # quantized weights were put in place while loading
        model.to(device)
    return LoadedModel(model, tokenizer, fingerprint_model(model, tokenizer))


def empty_model(spec: ModelSpec, *, vocabulary_size: int | None = None) -> PreTrainedModel:
    """Builds the model's modules on the meta device: shapes without memory or weights.

    Attach an adapter to it to learn the adapter's dimension before anything is downloaded but
    the configuration.

    Args:
        spec: which model.
        vocabulary_size: token ids of the built-in model, special ones included; the adapter's
            dimension does not depend on it.

    Raises:
        ModelError: no configuration under that name.
    """
    if spec.base == TINY_LLAMA:
        config: PretrainedConfig = _tiny_llama_config(vocabulary_size or len(SPECIAL_TOKENS) + 1)
    else:
        with _loading(spec):
            config = AutoConfig.from_pretrained(spec.base, revision=spec.revision)
    with _loading(spec), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            _without_dropout(config), **_kernel(spec)
        )
    return model.eval()


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Loads the tokenizer that a checkpoint brings, as it is.

    Args:
        spec: which checkpoint; not the built-in model.

    Raises:
        ModelError: nothing usable under that name.
    """
    with _loading(spec):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            spec.base, revision=spec.revision
        )
    return tokenizer


def remove_dropout(model: torch.nn.Module) -> None:
    """Sets every dropout rate to 0, in dropout modules and in modules that hold a bare rate."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):  # noqa: SLF001 - common parent
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if _is_dropout_rate(name, value):
                setattr(module, name, 0.0)
    config = getattr(model, "config", None)
    if isinstance(config, PretrainedConfig):
        _without_dropout(config)


def _make_tiny(
    spec: ModelSpec, vocabulary: Sequence[str] | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if spec.quantization != "none":
        raise ModelError(
            f"The built-in model {TINY_LLAMA!r} is too small to be held in {spec.quantization}.",
            advice="Set quantization to none.",
        )
    if vocabulary is None:
        raise ModelError(
            f"The built-in model {TINY_LLAMA!r} has no vocabulary of its own.",
            advice="Use it with the embedded task, or set model.base to a checkpoint.",
        )
    tokenizer = build_word_tokenizer(vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(spec.init_seed)
        model = AutoModelForCausalLM.from_config(
            _tiny_llama_config(len(tokenizer)), dtype=_dtype_of(spec), **_kernel(spec)
        )
    return model, tokenizer


def _load_checkpoint(spec: ModelSpec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    device = device_of(spec.device)
    held = quantized_loading(spec.quantization, dtype=_dtype_of(spec), device=device)
    with _loading(spec):
        config = AutoConfig.from_pretrained(spec.base, revision=spec.revision)
        model, report = AutoModelForCausalLM.from_pretrained(
            spec.base,
            revision=spec.revision,
            config=_without_dropout(config),
            dtype=_dtype_of(spec),
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **_kernel(spec),
            **held,
        )
        tokenizer = AutoTokenizer.from_pretrained(spec.base, revision=spec.revision)
    _refuse_random_weights(spec, report)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(
            f"The tokenizer of {spec.base!r} has no pad, end or unknown token.",
            advice="Set eos_token in the checkpoint's tokenizer_config.json.",
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _refuse_random_weights(spec: ModelSpec, report: Mapping[str, Any]) -> None:
    """Where checkpoint and config disagree, transformers goes on with random weights."""
    missing = sorted(report["missing_keys"])
    misshapen = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    for names, fault in ((missing, "lacks"), (misshapen, "holds in another shape")):
        if names:
            raise ModelError(
                f"The checkpoint {spec.base!r} {fault} {len(names)} of the weights its config.json "
                f"asks for, {names[0]} for instance; they would be random.",
                advice="Get the whole checkpoint, or the config.json that belongs to it.",
            )


@contextlib.contextmanager
def _loading(spec: ModelSpec) -> Iterator[None]:
    try:
        yield
    except _LOADING_ERRORS as error:
        where = "folder" if Path(spec.base).exists() else "name"
        raise ModelError(
            f"No causal language model could be loaded from the {where} {spec.base!r}: "
            f"{_reason(error, spec)}",
            advice=(
                f"model.base is {TINY_LLAMA!r}, a folder with config.json, *.safetensors and "
                "tokenizer files, or a hub id that this machine can reach."
            ),
        ) from error


def _reason(error: Exception, spec: ModelSpec) -> str:
    """The first line of what a library said, or something plainer where it is known."""
    if spec.base.startswith(("/", "./", "../", "~")) and not Path(spec.base).exists():
        return "there is no such folder"
    if isinstance(error, SafetensorError):
        return f"a weights file is damaged ({error})"
    cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
    said = str(cause or error).strip()
    return said.splitlines()[0] if said else repr(error)


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"The tokenizer knows {len(tokenizer)} tokens, the model only {rows}.",
            advice="Use the tokenizer that the checkpoint was trained with.",
        )


def _without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    for name, value in list(vars(config).items()):
        if _is_dropout_rate(name, value):
            setattr(config, name, 0.0)
    return config


def _is_dropout_rate(name: str, value: object) -> bool:
    spelled = "drop" in name or name.endswith("_pdrop")
    return spelled and isinstance(value, float) and value != 0.0


def _dtype_of(spec: ModelSpec) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return dtype


def _kernel(spec: ModelSpec) -> dict[str, Any]:
    return {} if spec.attention == "auto" else {"attn_implementation": spec.attention}
