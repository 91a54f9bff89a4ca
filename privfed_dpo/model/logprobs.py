"""Log-probabilities of completions, without ever holding the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from privfed_dpo.errors import ModelError
from privfed_dpo.model.pair_batch import PairBatch, SequenceBatch

Head = Callable[[torch.Tensor], torch.Tensor]

# Most logits held at once: 2^24 float32 values are 64 MiB.
CHUNK_ELEMENTS = 1 << 24


def completion_logprobs(
    model: nn.Module, batch: PairBatch, *, chunk_elements: int = CHUNK_ELEMENTS
) -> torch.Tensor:
    """Sums the log-probabilities of each completion's tokens.

    The head is applied only to the hidden states that predict completion tokens, in chunks, and
    the log-softmax is taken in float32. Under autograd the gradient with respect to those hidden
    states is taken chunk by chunk in the forward pass, so the logits are never kept. Pair b's
    values depend on pair b alone.

    Args:
        model: a causal language model, bare or under a peft LoRA adapter; its head frozen.
        batch: B pairs on the model's device.
        chunk_elements: most logits (tokens x vocabulary) held at once.

    Returns:
        float32 [B, 2]: log pi(chosen | prompt), log pi(rejected | prompt).

    Raises:
        ModelError: the model has no output head, or a trainable one.
    """
    head = frozen_head(model)
    rows = rows_per_chunk(model, chunk_elements)
    parts = [
        token_logprobs(predicting_states(model, sequence), sequence.targets, head, rows)
        for sequence in batch.sequences
    ]
    return sum_by_completion(parts, batch)


def rows_per_chunk(model: nn.Module, chunk_elements: int = CHUNK_ELEMENTS) -> int:
    """Returns how many hidden states may be turned into logits at once, at least 1."""
    return max(1, chunk_elements // int(_causal_model(model).config.vocab_size))


def predicting_states(model: nn.Module, sequence: SequenceBatch) -> torch.Tensor:
    """Runs the decoder and returns the hidden states that predict completion tokens, [N, h].

    Raises:
        ModelError: the model keeps no decoder apart from its head.
    """
    output = decoder_of(_causal_model(model))(
        input_ids=sequence.input_ids,
        attention_mask=sequence.attention_mask,
        position_ids=sequence.position_ids,
        use_cache=False,
    )
    hidden: torch.Tensor = output[0]
    return hidden.reshape(-1, hidden.shape[-1])[sequence.predicting]


def frozen_head(model: nn.Module) -> Head:
    """Returns the map from hidden states [n, h] to logits [n, V], scaling and softcap included.

    Raises:
        ModelError: no head, or trainable weights in it, whose gradient would be lost.
    """
    causal = _causal_model(model)
    head = causal.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{type(causal).__name__} has no output head.", advice="Use a causal language model."
        )
    if any(p.requires_grad for p in head.parameters()):
        raise ModelError(
            "The output head is trainable, but it sees scored tokens and not pairs.",
            advice="Freeze it, and leave it out of the adapter's target_modules.",
        )
    config = causal.config
    factor = float(getattr(config, "logit_scale", None) or 1.0)
    factor /= float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    if factor == 1.0 and softcap is None:
        plain: Head = head
        return plain

    def scaled(hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = head(hidden) * factor
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    return scaled


def token_logprobs(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, chunk_rows: int
) -> torch.Tensor:
    """Scores one token per hidden state.

    Args:
        hidden: float [N, h].
        targets: int64 [N].
        head: frozen map to logits.
        chunk_rows: most hidden states turned into logits at once.

    Returns:
        float32 [N]; differentiable once with respect to `hidden`.
    """
    apply: Callable[..., torch.Tensor] = _TokenLogprobs.apply
    return apply(hidden, targets, head, chunk_rows)


def sum_by_completion(parts: list[torch.Tensor], batch: PairBatch) -> torch.Tensor:
    """Adds token values up per completion, in a fixed order on every device.

    Args:
        parts: float32 [N] per sequence of the batch.
        batch: the batch they belong to.

    Returns:
        float32 [B, 2].
    """
    values = torch.cat(parts)
    completions = torch.cat([s.completions for s in batch.sequences])
    columns = torch.cat([s.columns for s in batch.sequences])
    width = int(batch.completion_lengths.max().item())
    table = values.new_zeros(2 * batch.pair_count, width)
    return table.index_put((completions, columns), values).sum(dim=1).view(-1, 2)


class _TokenLogprobs(torch.autograd.Function):
    """Token i's score depends on hidden state i alone, so one chunked pass gives all gradients."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Head, chunk_rows: int
    ) -> torch.Tensor:
        differentiate: bool = ctx.needs_input_grad[0]
        scores = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if differentiate else None
        for start in range(0, len(targets), chunk_rows):
            rows = slice(start, start + chunk_rows)
            with torch.set_grad_enabled(differentiate):
                states = hidden[rows].detach().requires_grad_(differentiate)
                logits = head(states).float()
                chosen = logits.gather(1, targets[rows, None]).squeeze(1)
                chunk = chosen - logits.logsumexp(dim=1)
                if slopes is not None:
                    (slopes[rows],) = torch.autograd.grad(chunk.sum(), states)
            scores[rows] = chunk.detach()
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return scores

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        scaled = (slopes.float() * upstream[0][:, None]).to(slopes.dtype)
        return scaled, None, None, None


def decoder_of(causal: PreTrainedModel) -> nn.Module:
    """Returns what turns token ids into hidden states: a causal model without its head.

    Raises:
        ModelError: the model keeps no decoder apart from its head.
    """
    decoder = causal.base_model
    if decoder is causal:  # its declared prefix names no attribute (Llama 4 text models)
        decoder = getattr(causal, "model", None)
    if not isinstance(decoder, nn.Module):
        raise ModelError(
            f"{type(causal).__name__} keeps no decoder apart from its output head.",
            advice="Use a causal language model of a usual shape.",
        )
    return decoder


def _causal_model(model: nn.Module) -> PreTrainedModel:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        raise ModelError(
            f"{type(base).__name__} is not a transformers model.",
            advice="Load it through load_model.",
        )
    return base
