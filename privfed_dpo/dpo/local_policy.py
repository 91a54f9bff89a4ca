"""The model of one process and all that a run asks of it: alone, or with its share of a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.clipped_sums import ClippedSums, SumMethod
from privfed_dpo.dpo.dealing import ALONE, Deal
from privfed_dpo.dpo.evaluate import PreferenceMetrics, evaluate_preferences
from privfed_dpo.dpo.loss import PairLoss
from privfed_dpo.dpo.memory import StepMemory, measure_step_memory
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.reference import reference_scores
from privfed_dpo.mechanism.clip import ClippedSum, PairClipper
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.samples import AnswerSample, sample_answers
from privfed_dpo.model.saved_adapter import verify_saved_adapter, verify_saved_beside


@dataclass(frozen=True, slots=True)
class LocalPolicy:
    """The model as engine, coordinator and auditor see it; shared by all clients of one process.

    Attributes:
        adapter: the policy.
        gradients: loss, layout and micro-batches.
        method: how clipped gradients are summed.
        deal: which part this process takes of what can be dealt out; results are those of all.
    """

    adapter: Adapter = field(repr=False)
    gradients: PairGradients = field(repr=False)
    method: SumMethod = "rows"
    deal: Deal = ALONE

    def load(self, weights: npt.NDArray[np.float32]) -> None:
        """Put a flat adapter into the model."""
        self.adapter.write(weights)

    def pair_gradients(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.floating]
    ) -> Iterator[torch.Tensor]:
        """Yield raw pair gradients, one row per pair; never dealt out."""
        return self.gradients(pairs, reference)

    def clipped_sum(
        self,
        pairs: Sequence[TokenizedPair],
        reference: npt.NDArray[np.float32],
        clipper: PairClipper,
    ) -> ClippedSum:
        """Sum clipped pair gradients in integers, layer by layer; see `ClippedSums`."""
        sums = ClippedSums(self.gradients, clipper, method=self.method)
        part = sums(pairs, reference, deal=self.deal)
        counted = np.append(part.total, [part.pairs, part.non_finite])
        whole = self.deal.together(counted)
        return ClippedSum(whole[:-2], pairs=int(whole[-2]), non_finite=int(whole[-1]))

    def reference_scores(self, pairs: Sequence[TokenizedPair]) -> npt.NDArray[np.float32]:
        """Score pairs under the base model; see `reference_scores`."""
        return reference_scores(
            self.gradients.scorer,
            pairs,
            micro_batch_pairs=self.gradients.micro_batch_pairs,
            deal=self.deal,
        )

    def preferences(
        self,
        pairs: Sequence[TokenizedPair],
        reference: npt.NDArray[np.floating],
        loss: PairLoss,
        *,
        with_kl: bool = True,
    ) -> tuple[PreferenceMetrics, npt.NDArray[np.float64]]:
        """Measure the loaded adapter on pairs; see `evaluate_preferences`."""
        return evaluate_preferences(
            self.adapter,
            pairs,
            reference,
            beta=loss.beta,
            loss=loss,
            micro_batch_pairs=self.gradients.micro_batch_pairs,
            scorer=self.gradients.scorer,
            with_kl=with_kl,
            deal=self.deal,
        )

    def answers(
        self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *, max_tokens: int
    ) -> tuple[AnswerSample, ...]:
        """Answer public prompts without and with the loaded adapter; see `sample_answers`."""
        return sample_answers(
            self.adapter, tokenizer, prompts, max_tokens=max_tokens, in_step=self.deal.in_step
        )

    def verify_saved(self, directory: Path, pairs: Sequence[TokenizedPair]) -> float:
        """Compare a saved adapter with the one in memory; see `verify_saved_adapter`."""
        if self.deal.in_step:
            return verify_saved_beside(directory, self.adapter, pairs)
        return verify_saved_adapter(directory, self.adapter, pairs)

    def step_memory(self, max_length: int) -> StepMemory:
        """Measure what micro-batches of the longest pairs take; see `measure_step_memory`.

        Args:
            max_length: most tokens of a prompt with one completion.
        """
        # Two long completions make the longest row; the bound changes no size.
        sums = ClippedSums(self.gradients, PairClipper(1.0, 1 << 20), method=self.method)
        return measure_step_memory(sums, prompt_tokens=1, completion_tokens=max_length - 1)

    def close(self) -> None:
        """Nothing to give back: there is no process but this one."""
