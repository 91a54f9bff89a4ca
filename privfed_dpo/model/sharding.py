"""A frozen base spread over processes: torch's FSDP on the decoder blocks, the adapter left whole.

What stands outside the decoder blocks (embeddings, last norm, head) and the adapter stay whole in
every process. The head is applied in chunks whose number depends on a batch, and the adapter's
gradients are taken by hooks on plain weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.logprobs import decoder_of

_GATHERED_BLOCKS = 3
"""Blocks in memory at once: the one that computes, the next one, and the buffer it arrives in."""


def shard_base(adapter: Adapter, mesh: DeviceMesh) -> None:
    """Leaves this process its share of every decoder block's weights; the rest is gathered in use.

    Call it in all processes of the mesh, on bases of equal weights in CPU memory. Afterwards every
    pass through the model is a collective: all processes must make as many passes, in one order,
    forward and backward. Weights are gathered unchanged, so a pass computes what it computed.

    Args:
        adapter: base and adapter; the base moves to the mesh's device block by block, so that a
            GPU never holds more than its shares and one block.
        mesh: one dimension; a CPU mesh, or a CUDA one whose device is the current one.

    Raises:
        ModelError: the model has no decoder blocks, or trains something else than an adapter.
    """
    base = adapter.model.get_base_model()
    own = {p for name, p in adapter.model.named_parameters() if "lora_" in name}
    for block in decoder_blocks(base):
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=own)
    # A root without weights of its own: the blocks then share streams, and fetch ahead.
    decoder = decoder_of(base)
    fully_shard(
        decoder, mesh=mesh, reshard_after_forward=True, ignored_params=set(decoder.parameters())
    )
    adapter.model.to(_local_device(mesh))


def decoder_blocks(model: PreTrainedModel) -> tuple[nn.Module, ...]:
    """Returns the outermost blocks of a decoder, in their order.

    Raises:
        ModelError: there are none.
    """
    blocks: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in decoder_of(model).modules():
        if isinstance(module, GradientCheckpointingLayer) and module not in inside:
            blocks.append(module)
            inside.update(module.modules())
    if not blocks:
        raise ModelError(
            f"{type(model).__name__} has no decoder blocks that its weights could be shared by.",
            advice="Set run.shard_base to false, or use a causal language model of a usual shape.",
        )
    return tuple(blocks)


@dataclass(frozen=True, slots=True)
class ShardedMemory:
    """What one process holds of a base model, in bytes.

    Attributes:
        resting_bytes: its shares of the blocks, and all that stands outside them.
        gathered_bytes: blocks that are whole for a moment during a pass, on top.
    """

    resting_bytes: int
    gathered_bytes: int


def sharded_memory(model: PreTrainedModel, processes: int, *, width: int) -> ShardedMemory:
    """Computes what one process holds; rows are dealt out, so shares may differ by a row.

    Args:
        model: without an adapter; may lie on the meta device.
        processes: how many share it.
        width: bytes of a weight.

    Raises:
        ModelError: the model has no decoder blocks.
    """
    blocks = decoder_blocks(model)
    inside = {p for block in blocks for p in block.parameters()}
    outside = sum(p.numel() for p in model.parameters() if p not in inside)
    shares = sum(-(-len(p) // processes) * p[0].numel() if p.ndim else 1 for p in inside)
    largest = max(sum(p.numel() for p in block.parameters()) for block in blocks)
    gathered = min(_GATHERED_BLOCKS, len(blocks) + 1) * largest
    return ShardedMemory(resting_bytes=width * (outside + shares), gathered_bytes=width * gathered)


def _local_device(mesh: DeviceMesh) -> torch.device:
    if mesh.device_type == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(mesh.device_type)
