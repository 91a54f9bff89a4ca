"""Per-pair gradients of the adapter's layers, handed over layer by layer during one backward pass.

Opacus' hooks with three changes, none of which alters the result. The backward side sits in the
autograd graph itself instead of in module backward hooks, so activations live exactly as long as
autograd needs them, recomputed (checkpointed) layers included. The backward pass is asked for
gradients of the lowest layers' outputs, not of the weights, so autograd does not also compute the
sum over pairs, which nobody uses. And the sampler of linear layers multiplies the thin way round.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.grad_sample.gsm_base import OPACUS_PARAM_MONKEYPATCH_ATTRS
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.pair_batch import PairBatch

Receive = Callable[[int, torch.Tensor], None]
"""Takes the number of a slot of the adapter's layout and its gradients, float32 [B, size]."""

GradSampler = Callable[
    [nn.Linear, list[torch.Tensor], torch.Tensor], dict[torch.Tensor, torch.Tensor]
]

_LEAVE_OUT = "Leave this layer out of target_modules."


class PairGraph:
    """The losses of one micro-batch, ready to be differentiated pair by pair.

    Made by `pair_graph`; valid inside it.
    """

    def __init__(self, adapter: Adapter, batch: PairBatch) -> None:
        self._adapter = adapter
        self._pair_count = batch.pair_count
        self._calls = len(batch.sequences)
        self._slots = {id(p): index for index, p in enumerate(adapter.parameters)}
        self._loss: torch.Tensor | None = None
        self._pending: dict[int, list[torch.Tensor]] = {}
        self._received: set[int] = set()
        self._receive: Receive | None = None
        self._lowest: list[torch.Tensor] = []

    def set_losses(self, losses: torch.Tensor) -> None:
        """Takes the losses, float [B], computed while the hooks were on."""
        self._loss = losses.sum()

    def backward(self, receive: Receive, *, keep: bool = False) -> None:
        """Hands over every slot's per-pair gradients once, in the order the pass reaches them.

        Args:
            receive: called with (slot, float32 [B, size]); a slot reached by several forward
                passes (`two_forward`) is handed over when the last of them has been added, so
                only packed rows are passed on at once.
            keep: keep the graph, so that `backward` can be called again.

        Raises:
            ModelError: a layer gave no gradient, or one that is not per pair.
        """
        if self._loss is None:
            raise ModelError("There is no loss yet.", advice="Call set_losses first.")
        self._receive, self._received, self._pending = receive, set(), {}
        try:
            if self._lowest:
                torch.autograd.grad(self._loss, self._lowest, retain_graph=keep, allow_unused=True)
            else:  # somebody made the embeddings' output differentiable
                self._loss.backward(retain_graph=keep)  # type: ignore[no-untyped-call]
        finally:
            self._receive = None
        for index, slot in enumerate(self._adapter.layout):
            if index not in self._received:
                found = len(self._pending.get(index, []))
                raise ModelError(
                    f"{slot.name} has {found} gradients for {self._calls} passes over "
                    f"{self._pair_count} pairs.",
                    advice=_LEAVE_OUT,
                )

    def release(self) -> None:
        """Lets go of the graph, whose nodes refer back to this object."""
        self._loss, self._pending, self._lowest = None, {}, []

    def enter(self, layer: nn.Module, activations: torch.Tensor, output: torch.Tensor) -> None:
        """Notes that a layer was reached, and refuses one whose first dimension is not the pair.

        Raises:
            ModelError: names the layer.
        """
        # [pair, ..., token, width]; two dimensions would be tokens, whatever their number.
        if activations.ndim < 3 or activations.shape[0] != self._pair_count:  # noqa: PLR2004
            raise ModelError(
                f"{self._name(layer)} saw inputs of shape {tuple(activations.shape)} for "
                f"{self._pair_count} pairs: its rows are not pairs, so its gradient cannot be "
                "clipped per pair.",
                advice=_LEAVE_OUT,
            )
        # Below this layer nothing is trained, and every other layer lies above such a one. Those
        # of recomputed blocks come later and belong to no backward pass of ours.
        if self._loss is None and not activations.requires_grad:
            self._lowest.append(output)

    def take(self, parameter: torch.Tensor, rows: torch.Tensor) -> None:
        """Accepts one pass' gradients of one weight, [B, *shape]."""
        index = self._slots[id(parameter)]
        parts = self._pending.setdefault(index, [])
        parts.append(rows.reshape(self._pair_count, -1).float())
        if len(parts) == self._calls and self._receive is not None and index not in self._received:
            self._received.add(index)
            del self._pending[index]
            self._receive(index, parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0))

    def _name(self, layer: nn.Module) -> str:
        own = {id(p) for p in layer.parameters()}
        for slot, parameter in zip(self._adapter.layout, self._adapter.parameters, strict=True):
            if id(parameter) in own:
                return slot.name
        return type(layer).__name__


def linear_rows(
    layer: nn.Linear, activations: list[torch.Tensor], backprops: torch.Tensor
) -> dict[torch.Tensor, torch.Tensor]:
    """Opacus' grad sampler of a linear layer, as a product of matrices per pair.

    Args:
        layer: no bias, or a frozen one.
        activations: its input, [B, ..., T, in], in a list.
        backprops: gradient of its output, [B, ..., T, out].

    Returns:
        The weight's gradient for each pair, [B, out, in].
    """
    left, right = backprops.flatten(1, -2), activations[0].flatten(1, -2)
    right = right.to(left.dtype)
    # Measured on CPU: half the time where the first factor's last dimension is the small one.
    if layer.out_features > layer.in_features:
        return {layer.weight: torch.bmm(right.mT, left).mT}
    return {layer.weight: torch.bmm(left.mT, right)}


class PairHooks(GradSampleHooks):  # type: ignore[misc]  # Opacus is untyped
    """Opacus' hooks on the adapter's linear layers, feeding a `PairGraph`."""

    GRAD_SAMPLERS: ClassVar[dict[type[nn.Module], GradSampler]] = {nn.Linear: linear_rows}

    def __init__(self, layers: Sequence[nn.Linear], graph: PairGraph) -> None:
        self._graph = graph
        super().__init__(nn.ModuleList(layers), batch_first=True, loss_reduction="sum")

    def add_hooks(self, **_settings: object) -> None:
        """Attaches the forward side; the backward side follows with every forward pass."""
        self.autograd_grad_sample_hooks = [
            layer.register_forward_hook(self._tap) for layer in self._module
        ]
        self.enable_hooks()

    def cleanup(self) -> None:
        """Takes off the hooks and everything Opacus wrote onto the weights."""
        self.disable_hooks()
        for handle in self.autograd_grad_sample_hooks:
            handle.remove()
        for layer in self._module:
            for name in OPACUS_PARAM_MONKEYPATCH_ATTRS:
                vars(layer.weight).pop(name, None)

    @classmethod
    def validate(cls, module: nn.Module, *, strict: bool = False) -> list[Any]:
        """Finds nothing: `refuse_if_not_per_pair` is stricter and has seen these layers.

        Opacus' own check and clean-up walk all weights several times, in every micro-batch.
        """
        del module, strict
        return []

    def _tap(
        self, layer: nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        if not (self.hooks_enabled and torch.is_grad_enabled()):
            return None
        self._graph.enter(layer, inputs[0], output)
        sample = self.GRAD_SAMPLERS[nn.Linear]

        def differentiate(activations: torch.Tensor, upstream: torch.Tensor) -> None:
            for parameter, rows in sample(layer, [activations], upstream).items():
                self._graph.take(parameter, rows)

        apply: Callable[..., torch.Tensor] = _Tap.apply
        return apply(output, inputs[0].detach(), differentiate)


class _Tap(torch.autograd.Function):
    """Passes a layer's output and its gradient through unchanged, and looks at both."""

    @staticmethod
    def forward(
        ctx: Any, output: torch.Tensor, activations: torch.Tensor, look: Callable[..., None]
    ) -> torch.Tensor:
        ctx.save_for_backward(activations)
        ctx.look = look
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (activations,) = ctx.saved_tensors
        ctx.look(activations, upstream[0])
        return upstream[0], None, None


@contextlib.contextmanager
def pair_graph(adapter: Adapter, batch: PairBatch) -> Iterator[PairGraph]:
    """Hooks the adapter's layers for one micro-batch, and leaves no trace of it.

    Args:
        adapter: the policy.
        batch: what is about to be scored; row b of every forward pass is pair b.

    Returns:
        The graph: score the batch, give it the losses, then call its `backward`.
    """
    graph = PairGraph(adapter, batch)
    hooks = PairHooks(adapter.linear_layers, graph)
    try:
        yield graph
    finally:
        graph.release()
        hooks.cleanup()
        for parameter in adapter.parameters:
            parameter.grad = None


@contextlib.contextmanager
def recomputed_activations(model: nn.Module) -> Iterator[None]:
    """Within it, decoder layers keep only their inputs and recompute the rest for the backward.

    The blocks alone are told that they are in training, which is what switches transformers'
    checkpointing on; everything inside them stays in eval mode.

    Raises:
        ModelError: the model has no blocks that can be recomputed.
    """
    blocks = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not blocks:
        raise ModelError(
            "This model has no blocks whose activations can be recomputed.",
            advice="Switch gradient_checkpointing off, or use smaller micro-batches.",
        )
    before = [(block, dict(vars(block))) for block in blocks]
    try:
        for block in blocks:
            block.gradient_checkpointing = block.training = True
            block._gradient_checkpointing_func = _recompute  # noqa: SLF001 - as transformers does
        yield
    finally:
        for block, attributes in before:
            vars(block).clear()
            vars(block).update(attributes)


def _recompute(function: Callable[..., Any], *args: Any) -> Any:
    # Nothing is drawn at random inside a block, so no generator state has to be kept.
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
