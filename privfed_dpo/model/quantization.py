"""Frozen weights held in 8 or 4 bits, in the one way that keeps pairs apart."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

from privfed_dpo.errors import ModelError

Quantization = Literal["none", "8bit", "4bit"]


def quantized_loading(
    kind: Quantization, *, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Returns what `from_pretrained` has to be told; nothing for `none`.

    In 8 bits every row of activations is quantized by itself. The usual threshold of LLM.int8
    (Dettmers et al., 2022) picks out columns by looking at all rows at once, so that one pair's
    outlier would change the gradients of the others, and no clipping of rows could bound that.

    Args:
        kind: `none`, `8bit`, or `4bit` (NF4: Dettmers et al., 2023).
        dtype: type that 4-bit weights are computed in.
        device: where the weights go.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    if kind == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"Weights in {kind} need bitsandbytes, which is not installed.",
            advice="Install it (pip install bitsandbytes), or set quantization to none.",
        )
    config = BitsAndBytesConfig(
        load_in_8bit=kind == "8bit",
        load_in_4bit=kind == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_threshold=0.0,
    )
    return {"quantization_config": config, "device_map": {"": device}}
