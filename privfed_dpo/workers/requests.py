"""What the first process may ask of all: one plain, picklable request per operation of the model.

Every process answers the same request with its own copy of the adapter and its part of the work;
where the base is spread over processes, that is also what keeps their passes in step. No noise and
no key is in a request; pairs are, for processes of one owner on one machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.clipped_sums import SumMethod
from privfed_dpo.dpo.evaluate import PreferenceMetrics
from privfed_dpo.dpo.local_policy import LocalPolicy
from privfed_dpo.dpo.loss import PairLoss
from privfed_dpo.dpo.memory import StepMemory
from privfed_dpo.mechanism.clip import ClippedSum, PairClipper
from privfed_dpo.model.samples import AnswerSample

Found_co = TypeVar("Found_co", covariant=True)


class Request(Protocol[Found_co]):
    """One operation of the model with its arguments."""

    def of(self, policy: LocalPolicy) -> Found_co:
        """Carry it out in this process, which takes its part."""


@dataclass(frozen=True, slots=True)
class Order(Generic[Found_co]):
    """A request with the state it is about, so that no worker can be behind.

    Attributes:
        weights: the adapter, float32 [d].
        micro_batch_pairs: most pairs that go through the model at once.
        method: how clipped gradients are summed.
        request: what to do.
    """

    weights: npt.NDArray[np.float32] = field(repr=False)
    micro_batch_pairs: int
    method: SumMethod
    request: Request[Found_co]

    def carried_out_by(self, policy: LocalPolicy) -> Found_co:
        """Bring a process up to date and have it answer."""
        policy.load(self.weights)
        policy.gradients.micro_batch_pairs = self.micro_batch_pairs
        return self.request.of(replace(policy, method=self.method))


@dataclass(frozen=True, slots=True)
class SumClippedGradients:
    """One client's integer sum over its sampled pairs; secret."""

    pairs: Sequence[TokenizedPair] = field(repr=False)
    reference: npt.NDArray[np.float32] = field(repr=False)
    clipper: PairClipper

    def of(self, policy: LocalPolicy) -> ClippedSum:
        """Add up a part, then everybody's."""
        return policy.clipped_sum(self.pairs, self.reference, self.clipper)


@dataclass(frozen=True, slots=True)
class TakePairGradients:
    """Raw gradients, one row per pair; not dealt out, so every process holds them all."""

    pairs: Sequence[TokenizedPair] = field(repr=False)
    reference: npt.NDArray[np.floating] = field(repr=False)

    def of(self, policy: LocalPolicy) -> tuple[torch.Tensor, ...]:
        """Take them micro-batch by micro-batch."""
        return tuple(policy.pair_gradients(self.pairs, self.reference))


@dataclass(frozen=True, slots=True)
class ScoreReference:
    """Log-probabilities under the base model."""

    pairs: Sequence[TokenizedPair] = field(repr=False)

    def of(self, policy: LocalPolicy) -> npt.NDArray[np.float32]:
        """Score a part, then put everybody's together."""
        return policy.reference_scores(self.pairs)


@dataclass(frozen=True, slots=True)
class MeasurePreferences:
    """Metrics of public pairs under the adapter."""

    pairs: Sequence[TokenizedPair] = field(repr=False)
    reference: npt.NDArray[np.floating] = field(repr=False)
    loss: PairLoss
    with_kl: bool

    def of(self, policy: LocalPolicy) -> tuple[PreferenceMetrics, npt.NDArray[np.float64]]:
        """Measure a part, then put everybody's together."""
        return policy.preferences(self.pairs, self.reference, self.loss, with_kl=self.with_kl)


@dataclass(frozen=True, slots=True)
class AnswerPrompts:
    """Answers to public prompts, without and with the adapter."""

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    prompts: Sequence[str]
    max_tokens: int

    def of(self, policy: LocalPolicy) -> tuple[AnswerSample, ...]:
        """Answer all of them, in every process."""
        return policy.answers(self.tokenizer, self.prompts, max_tokens=self.max_tokens)


@dataclass(frozen=True, slots=True)
class VerifySavedAdapter:
    """Whether an adapter on disk is the one in memory."""

    directory: Path
    pairs: Sequence[TokenizedPair] = field(repr=False)

    def of(self, policy: LocalPolicy) -> float:
        """Load and compare it, in every process."""
        return policy.verify_saved(self.directory, self.pairs)


@dataclass(frozen=True, slots=True)
class MeasureStepMemory:
    """What micro-batches of the longest pairs take in memory."""

    max_length: int

    def of(self, policy: LocalPolicy) -> StepMemory:
        """Run made-up pairs, in every process."""
        return policy.step_memory(self.max_length)
