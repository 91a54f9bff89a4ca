"""What one client computes in a round: private pairs in, noisy integers out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.engine.control_variates import Correction
from privfed_dpo.engine.lanes import lane_sum
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.mechanism.clip import ClippedSum, PairClipper
from privfed_dpo.mechanism.keystream import StreamIssuer

Steps = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


class GradientSource(Protocol):
    """The model as the engine sees it: flat weights in, one gradient row per pair out."""

    def load(self, weights: npt.NDArray[np.float32]) -> None:
        """Put the flat adapter, shape [d], into the model."""

    def pair_gradients(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.float32]
    ) -> Iterator[torch.Tensor]:
        """Yield raw gradients in micro-batches, shape [b, d], one row per pair, in any order."""

    def clipped_sum(
        self,
        pairs: Sequence[TokenizedPair],
        reference: npt.NDArray[np.float32],
        clipper: PairClipper,
    ) -> ClippedSum:
        """Sum the gradients, each clipped once and truncated, as `PairClipper.clip` does."""


@dataclass(frozen=True, slots=True)
class PrivateShard:
    """The pairs of one client with their cached reference log-probabilities.

    Attributes:
        pairs: the client's own pairs.
        reference: log-probabilities of (chosen, rejected) under the reference, shape [n, 2].
    """

    pairs: tuple[TokenizedPair, ...] = field(repr=False)
    reference: npt.NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Contributor:
    """Computes a client's contribution according to the plan.

    Attributes:
        plan: the numbers of sampler, clip, grid and noise.
        client: the client's number.
        shard: its data.
        source: the model.
        issuer: its secret randomness; every round and step has streams of its own.
        lanes: audit canaries this client hosts and includes.
    """

    plan: RunPlan
    client: int
    shard: PrivateShard
    source: GradientSource
    issuer: StreamIssuer
    lanes: tuple[int, ...] = ()

    def contribute(
        self,
        round_number: int,
        weights: npt.NDArray[np.float32],
        correction: Correction | None = None,
    ) -> Steps:
        """Return the signed integer vector this client puts into the secure sum.

        Args:
            round_number: training round; its streams are used once.
            weights: the adapter to set out from, shape [d].
            correction: control variates of this client's local steps, for SCAFFOLD.

        Returns:
            Shape [plan.vector_length], int64: adapter, change of the control variate if there is
            one, then lanes or drift.

        Raises:
            StreamReused: the round was already computed by this client object.

        Guarantee: in distributed mode the result carries this client's noise share, in local mode
            every step carried the client's full noise. An empty batch gives noise alone. In user
            mode the result is one vector of integer norm at most the plan's sensitivity, whatever
            the client's pairs are, and its noise share; an update that is not finite counts as
            zero, and nobody else learns of it.
        """
        label = f"round-{round_number}"
        if self.plan.sums_gradients:
            self.source.load(weights)
            return self._noisy_gradient_sum(label)
        change, drift = self._local_training(label, weights, correction)
        clipper = self.plan.update_clipper()
        if clipper is not None:
            clipped = clipper.clip(torch.from_numpy(change)[None]).total
            return self._with_noise(clipped, label)
        parts = [change, np.array([drift])]
        if correction is not None:
            moved = correction.change(
                change, local_steps=self.plan.local_steps, rate=self._local_rate
            )
            parts.insert(1, moved)
        vector = np.concatenate(parts)
        steps, _ = self.plan.grid().encode_bounded(vector, self.plan.update_limit)
        return steps

    def _noisy_gradient_sum(self, label: str) -> Steps:
        return self._with_noise(self._gradient_sum(label), label)

    def _gradient_sum(self, label: str) -> Steps:
        """Sample, clip each pair, truncate and sum; all in integers, without noise."""
        clipper = self.plan.clipper()
        if clipper is None:
            raise ValueError("a gradient sum needs a clip bound")
        steps = self._clipped_sum(clipper, label).total
        if self.plan.audit_lanes:
            steps = np.append(steps, self._lane_sum(clipper, label))
        return steps

    def _with_noise(self, steps: Steps, label: str) -> Steps:
        noise = self.plan.share_noise()
        if noise is None:
            return steps
        return steps + noise.draw(steps.size, self.issuer.issue(f"{label}/noise"))

    def _lane_sum(self, clipper: PairClipper, label: str) -> Steps:
        return lane_sum(
            self.lanes,
            self.plan.audit_lanes,
            clipper=clipper,
            sampler=self.plan.sampler(),
            stream=self.issuer.issue(f"{label}/lanes"),
        )

    def _clipped_sum(self, clipper: PairClipper, label: str) -> ClippedSum:
        pairs, reference = self._sample(label)
        if not pairs:
            return clipper.empty(self.plan.facts.dimension)
        return self.source.clipped_sum(pairs, reference, clipper)

    def _sample(self, label: str) -> tuple[list[TokenizedPair], npt.NDArray[np.float32]]:
        stream = self.issuer.issue(f"{label}/sample")
        batch = self.plan.sampler().draw(len(self.shard.pairs), stream)
        return [self.shard.pairs[i] for i in batch], self.shard.reference[batch]

    @property
    def _local_rate(self) -> float:
        return float(str(self.plan.objective["local_learning_rate"]))

    def _local_training(
        self, label: str, start: npt.NDArray[np.float32], correction: Correction | None
    ) -> tuple[Reals, float]:
        """Take local steps; return the change, shape [d], and the mean drift of the iterates.

        In user mode an iterate that no float32 holds ends the steps with a change that is not a
        number, which counts as zero: whether a client's steps explode is private, so it must not
        show in whether the client answers. In other modes its own noise is in them already.
        """
        origin = start.astype(np.float64)
        weights = origin.copy()
        drift = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for step in range(self.plan.local_steps):
                iterate = weights.astype(np.float32)
                if self.plan.update_clipper() is not None and not np.isfinite(iterate).all():
                    return np.full_like(origin, np.nan), math.nan
                self.source.load(iterate)
                gradient = self._mean_gradient(f"{label}/step-{step}")
                if correction is not None:
                    gradient = correction.corrected(gradient)
                gradient = self.plan.drift.pulled_back(gradient, weights - origin)
                weights -= self._local_rate * gradient
                drift += float(((weights - origin) ** 2).sum()) / self.plan.local_steps
        return weights - origin, drift

    def _mean_gradient(self, label: str) -> Reals:
        """One step's gradient over the public divisor q * n_i, noisy in local mode."""
        divisor = self.plan.expected_client_pairs(self.client)
        if self.plan.clipper() is not None:
            in_user_mode = self.plan.update_clipper() is not None
            steps = self._gradient_sum(label) if in_user_mode else self._noisy_gradient_sum(label)
            return steps / (self.plan.gradient_steps_per_unit() * divisor)
        total = np.zeros(self.plan.facts.dimension)
        pairs, reference = self._sample(label)
        for rows in self.source.pair_gradients(pairs, reference) if pairs else ():
            finite = torch.isfinite(rows).all(dim=1, keepdim=True)
            total += torch.where(finite, rows, 0.0).double().sum(dim=0).cpu().numpy()
        return total / divisor
