"""Chooses how a model's pairs are laid out, and proves on the spot that the layout is exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from privfed_dpo.data.tokenize import TokenizedPair, pair_key
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.eligibility import attention_window, position_limit
from privfed_dpo.model.logprobs import completion_logprobs
from privfed_dpo.model.pair_batch import (
    Form,
    PairBatch,
    longest_position,
    pack_pairs,
    split_pairs,
)

RequestedForm = Literal["packed", "two_forward", "auto"]

_MASKABLE_KERNELS = {"sdpa": "boolean", "eager": "additive"}
# Agreement of two exact layouts, relative to the log-probability, by type of the base weights.
_AGREEMENT = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 3e-2, torch.float16: 1e-2}
_ISOLATION_SHARE = 0.01


class PairScorer:
    """Turns pairs into batches in the best exact form and scores them under one adapter.

    On construction a few made-up pairs go through the base model to establish that (1) the scores
    are the model's own log-softmax values, (2) a pair's score does not depend on its batch, and
    (3) packed rows equal separate rows and their completions do not see each other. If (3) fails,
    `auto` falls back to `two_forward`; if (1) or (2) fails nothing can be private. The adapter is
    off meanwhile, so the decision is the same at every point of a run.

    Attributes:
        adapter: the model under its adapter.
        form: `packed` or `two_forward`, as decided.
        limit: the most tokens of prompt plus completion, or None.
    """

    def __init__(self, adapter: Adapter, form: RequestedForm = "auto") -> None:
        """Decides the form.

        Args:
            adapter: model and adapter, on their final device.
            form: `auto`, or the one form to use.

        Raises:
            ModelError: the requested form, or any form, is not exact for this model.
        """
        base = adapter.model.get_base_model()
        self.adapter = adapter
        self.limit = position_limit(base)
        self._window = attention_window(base)
        self._dtype: torch.dtype = base.dtype
        self._kernel = str(getattr(base.config, "_attn_implementation", "eager"))
        self._requested = form
        self.form: Form = "two_forward"
        with adapter.disabled():
            self._refuse_inexact_scores(base)
            reason = "" if form == "two_forward" else self._why_not_packed()
        if form == "two_forward":
            return
        if reason and form == "packed":
            raise ModelError(
                f"Packed rows are not exact for {type(base).__name__}: {reason}.",
                advice="Use the form auto or two_forward.",
            )
        if not reason:
            self.form = "packed"

    def batch(self, pairs: Sequence[TokenizedPair]) -> PairBatch:
        """Lays pairs out as tensors on the model's device.

        Raises:
            ModelError: no pair, a pair longer than the model's positions, or, where `packed` was
                demanded, one longer than its sliding attention window.
        """
        longest = longest_position(pairs)
        if self.limit is not None and longest > self.limit:
            raise ModelError(
                f"A pair has {longest} tokens, the model scores at most {self.limit}.",
                advice=f"Truncate pairs to {self.limit} tokens.",
            )
        if self.form == "packed" and self._window is not None and longest > self._window:
            if self._requested == "packed":
                raise ModelError(
                    f"A pair has {longest} tokens, more than the attention window of "
                    f"{self._window}, which packed rows do not reproduce.",
                    advice="Use the form auto or two_forward.",
                )
            return self._lay_out(pairs, "two_forward")
        return self._lay_out(pairs, self.form)

    def one_layout_up_to(self, tokens: int) -> bool:
        """Whether all pairs of up to so many tokens (prompt and completion) are laid out alike."""
        return self.form != "packed" or self._window is None or tokens <= self._window

    def logprobs(self, batch: PairBatch) -> torch.Tensor:
        """Scores a batch under the policy, float32 [B, 2]; differentiable where enabled."""
        return completion_logprobs(self.adapter.model, batch)

    def made_up_pairs(self) -> list[TokenizedPair]:
        """Three pairs of different lengths over the whole vocabulary, always the same."""
        rows = self.adapter.model.get_base_model().get_input_embeddings().num_embeddings
        generator = np.random.Generator(np.random.PCG64(20170612))
        room = min(self.limit or 64, self._window or 64, 64)
        lengths = ((room // 4, room // 4, room // 8), (2, room // 3, 2), (room // 2, 1, room // 3))
        return [
            _pair(*(generator.integers(0, rows, size=max(1, n)).tolist() for n in triple))
            for triple in lengths
        ]

    def tolerance(self) -> float:
        """How far two exact computations may lie apart, relative to their size."""
        return _AGREEMENT.get(self._dtype, _AGREEMENT[torch.bfloat16])

    def _lay_out(self, pairs: Sequence[TokenizedPair], form: Form) -> PairBatch:
        device, pad_id = self.adapter.device, self.adapter.pad_id
        if form == "two_forward":
            return split_pairs(pairs, pad_id=pad_id, device=device)
        mask = _MASKABLE_KERNELS.get(self._kernel, "boolean")
        return pack_pairs(
            pairs,
            pad_id=pad_id,
            device=device,
            mask="boolean" if mask == "boolean" else "additive",
            mask_dtype=self._dtype,
        )

    @torch.no_grad()
    def _refuse_inexact_scores(self, base: PreTrainedModel) -> None:
        pairs = self.made_up_pairs()
        together = self.logprobs(self._lay_out(pairs, "two_forward"))
        alone = torch.cat([self.logprobs(self._lay_out([p], "two_forward")) for p in pairs])
        if not bool(torch.isfinite(alone).all()):
            raise ModelError(
                f"The scores of {type(base).__name__} are not finite.",
                advice="Check the checkpoint for NaN, or use a wider dtype.",
            )
        if not self._agree(together, alone):
            raise ModelError(
                f"The scores of {type(base).__name__} depend on the other pairs of a batch.",
                advice="Use a model without layers that mix the rows of a batch.",
            )
        pair = pairs[0]
        row = torch.tensor([[*pair.prompt, *pair.chosen]], device=self.adapter.device)
        logits = self.adapter.model(input_ids=row, use_cache=False).logits[0, :-1].float()
        own = logits.log_softmax(dim=1).gather(1, row[0, 1:, None])[len(pair.prompt) - 1 :].sum()
        if not self._agree(alone[0, :1], own[None]):
            raise ModelError(
                f"{type(base).__name__} changes its logits after the output head in a way this "
                "software does not know.",
                advice="Use a model of a family listed in the documentation, or report it.",
            )

    @torch.no_grad()
    def _why_not_packed(self) -> str:
        if self._kernel not in _MASKABLE_KERNELS:
            return f"the attention kernel {self._kernel} takes no mask per pair"
        pairs = self.made_up_pairs()
        try:
            packed = self.logprobs(self._lay_out(pairs, "packed"))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            return f"the model does not take a mask per pair ({type(error).__name__})"
        apart = self.logprobs(self._lay_out(pairs, "two_forward"))
        if not self._agree(packed, apart):
            return "scores differ from those of separate rows"
        swapped = [_with_other_chosen(pair) for pair in pairs]
        other = self.logprobs(self._lay_out(swapped, "packed"))
        effect = (other[:, 0] - packed[:, 0]).abs().max()
        leak = (other[:, 1] - packed[:, 1]).abs().max()
        if leak > _ISOLATION_SHARE * effect and not self._agree(other[:, 1], packed[:, 1]):
            return "the rejected completion sees the chosen one"
        return ""

    def _agree(self, left: torch.Tensor, right: torch.Tensor) -> bool:
        tolerance = self.tolerance()
        return bool(torch.allclose(left, right, rtol=tolerance, atol=tolerance))


def _with_other_chosen(pair: TokenizedPair) -> TokenizedPair:
    return _pair(list(pair.prompt), list(reversed(pair.chosen)), list(pair.rejected))


def _pair(prompt: list[int], chosen: list[int], rejected: list[int]) -> TokenizedPair:
    ids = tuple(prompt), tuple(chosen), tuple(rejected)
    return TokenizedPair(*ids, key=pair_key(*ids))
