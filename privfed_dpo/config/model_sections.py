"""The part of the configuration tree that says what is trained: model, adapter, objective."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privfed_dpo.config.section import NonNegativeInt, PositiveFloat, PositiveInt, Section


class AdapterConfig(Section):
    """The low-rank adapter: the only thing that is trained and released."""

    rank: PositiveInt = Field(8, description="LoRA rank")
    alpha: PositiveFloat | None = Field(
        None, description="LoRA scale numerator; null is twice the rank"
    )
    target_modules: tuple[str, ...] | Literal["auto", "all-linear"] = Field(
        "auto",
        description="module names to adapt; auto is the query and value projections, all-linear "
        "everything but the head",
    )
    freeze_a: bool = Field(
        False, description="train only B (FFA-LoRA); averaging adapters is then exact"
    )
    rslora: bool = Field(
        False, description="scale by alpha / sqrt(rank) instead of alpha / rank (rsLoRA)"
    )
    rank_pattern: dict[str, PositiveInt] = Field(
        {},
        description="module name: rank, where it is another one; the first name that a layer ends "
        "with counts",
    )
    full_weights: bool = Field(
        False,
        description="train the whole weight matrices of the targets instead of factors; for small "
        "models: the noise grows with the root of the number of weights",
    )


class ModelConfig(Section):
    """The language model that is aligned."""

    base: str = Field(
        "tiny-llama", description="hub id, local path, or 'tiny-llama' built from a config"
    )
    revision: str | None = Field(None, description="hub revision")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="type of the frozen base weights"
    )
    quantization: Literal["none", "8bit", "4bit"] = Field(
        "none",
        description="hold the frozen base weights in fewer bits, where bitsandbytes is installed",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto",
        description="attention kernel; auto leaves it to transformers; flash_attention_2 takes no "
        "mask per pair, so rows are not packed",
    )
    device: str = Field("auto", description="auto takes a GPU where there is one, else cpu")
    warmup_steps: NonNegativeInt = Field(
        500, description="embedded task: supervised steps on public text before training"
    )
    warmup_batch: PositiveInt = Field(64, description="embedded task: texts per warm-up step")
    warmup_learning_rate: PositiveFloat = Field(
        3e-3, description="embedded task: learning rate of the warm-up"
    )
    adapter: AdapterConfig = Field(default_factory=AdapterConfig)


class DpoConfig(Section):
    """The preference objective."""

    beta: PositiveFloat = Field(0.1, description="strength of the pull to the reference model")
    loss: Literal["sigmoid", "ipo", "hinge", "robust", "simpo"] = Field(
        "sigmoid", description="loss on the reward margin; simpo needs no reference"
    )
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(
        0.0, description="assumed share of flipped labels (sigmoid and robust losses)"
    )
    target_margin: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        0.0, description="gamma of the simpo loss: margin that chosen should win by"
    )
    reference_free: bool = Field(
        False, description="leave the reference out of the sigmoid, robust and hinge losses"
    )
    micro_batch_pairs: PositiveInt | None = Field(
        32,
        description="pairs in one forward and backward pass: memory, and last bits of gradients. "
        "1 makes each gradient a function of its pair alone; null takes as many as fit into "
        "dpo.memory_bytes, measured on made-up pairs [pairs]",
    )
    memory_bytes: PositiveInt | None = Field(
        None,
        description="memory for one micro-batch beside the model: its size, where "
        "dpo.micro_batch_pairs is null, and one backward pass or two; null sets no limit [bytes]",
    )
    gradient_sums: Literal["auto", "rows", "two_pass"] = Field(
        "auto",
        description="rows keeps the gradients of one micro-batch; two_pass keeps none and takes a "
        "second backward pass; auto takes rows where they fit into memory",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="compute activations again in the backward pass: less memory, a third more "
        "time",
    )
    form: Literal["auto", "packed", "two_forward"] = Field(
        "auto", description="one packed row per pair, or two forward passes; auto decides"
    )
