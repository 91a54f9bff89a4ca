"""The policy of a client with several local processes: one GPU each, and one exact integer sum.

The first process runs everything: sampling, noise, protocol. The others hold the same base model,
or their share of it, and the adapter; they answer requests. Micro-batches are those of a single
process and int64 addition is exact in any order, so a sum is that of a single process bit for bit,
on devices that compute alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from privfed_dpo.config import Config
from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.dealing import Deal
from privfed_dpo.dpo.evaluate import PreferenceMetrics
from privfed_dpo.dpo.local_policy import LocalPolicy
from privfed_dpo.dpo.loss import PairLoss
from privfed_dpo.dpo.memory import StepMemory
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.errors import ModelError
from privfed_dpo.mechanism.clip import ClippedSum, PairClipper
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.pair_batch import length_ordered_batches
from privfed_dpo.model.samples import AnswerSample
from privfed_dpo.model.tiny import TINY_LLAMA
from privfed_dpo.policy import make_policy, settle_micro_batch
from privfed_dpo.workers.life import WorkerSpec, join, work
from privfed_dpo.workers.meeting import GlooPeers, leave_mesh
from privfed_dpo.workers.pool import Pool
from privfed_dpo.workers.requests import (
    AnswerPrompts,
    MeasurePreferences,
    MeasureStepMemory,
    Order,
    Request,
    ScoreReference,
    SumClippedGradients,
    TakePairGradients,
    VerifySavedAdapter,
)

_Found = TypeVar("_Found")


class SharedPolicy:
    """What `LocalPolicy` is for one process, for several; `close` ends them.

    With whole bases, workers start with the first request of more than one micro-batch, and what
    cannot be dealt out is done by this process alone. With a shared base they are there from the
    beginning and take part in everything.

    Attributes:
        local: this process's policy; with a shared base it cannot be used alone.
    """

    def __init__(self, local: LocalPolicy, spec: WorkerSpec) -> None:
        """Takes a policy over a whole base, which workers will hold too.

        Args:
            local: this process's policy.
            spec: what workers build.
        """
        self.local = local
        self._spec = spec
        self._pool: Pool | None = None
        self._peers: GlooPeers | None = None
        self._closing = False

    @classmethod
    def over_shared_base(
        cls, adapter: Adapter, spec: WorkerSpec, plan: RunPlan, *, max_length: int
    ) -> SharedPolicy:
        """Start the workers, and share the base among all processes.

        Args:
            adapter: this process's, on a whole base in CPU memory; keeps its share of it.
            spec: what workers build; says that the base is shared.
            plan: for the way of summing.
            max_length: most tokens of a prompt with one completion.

        Raises:
            ModelError: a worker cannot start, or the model cannot be shared.
        """
        pool = Pool(work, spec, spec.processes)
        try:
            local, peers = join(spec, 0, pool.folder, adapter, lambda: None)
        except BaseException as error:
            said = pool.last_words() if isinstance(error, OSError | RuntimeError) else ""
            leave_mesh(abort=spec.on_gpus)
            pool.stop()
            if isinstance(error, OSError | RuntimeError):
                raise _stopped(said or str(error)) from error
            raise
        shared = cls(replace(local, method=plan.sums.method), spec)
        shared._pool, shared._peers = pool, peers
        shared._watch(pool)
        local.gradients.micro_batch_pairs = plan.sums.micro_batch_pairs or 1
        settle_micro_batch(local.gradients, plan, lambda: shared.step_memory(max_length))
        return shared

    @property
    def adapter(self) -> Adapter:
        """The policy's adapter, whole in every process."""
        return self.local.adapter

    @property
    def gradients(self) -> PairGradients:
        """Loss, layout and scorer of this process."""
        return self.local.gradients

    def load(self, weights: npt.NDArray[np.float32]) -> None:
        """Put a flat adapter into the model; workers get it with their next request."""
        self.local.load(weights)

    def clipped_sum(
        self,
        pairs: Sequence[TokenizedPair],
        reference: npt.NDArray[np.float32],
        clipper: PairClipper,
    ) -> ClippedSum:
        """Sum clipped pair gradients in all processes; the same integers as in one.

        Raises:
            ModelError: a worker cannot start or stopped; says what it said last.
        """
        return self._dealt(SumClippedGradients(pairs, reference, clipper), len(pairs))

    def reference_scores(self, pairs: Sequence[TokenizedPair]) -> npt.NDArray[np.float32]:
        """Score pairs under the base model; raises as `clipped_sum` does."""
        return self._dealt(ScoreReference(pairs), len(pairs))

    def preferences(
        self,
        pairs: Sequence[TokenizedPair],
        reference: npt.NDArray[np.floating],
        loss: PairLoss,
        *,
        with_kl: bool = True,
    ) -> tuple[PreferenceMetrics, npt.NDArray[np.float64]]:
        """Measure the loaded adapter on pairs; raises as `clipped_sum` does."""
        return self._dealt(MeasurePreferences(pairs, reference, loss, with_kl), len(pairs))

    def pair_gradients(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.floating]
    ) -> Iterator[torch.Tensor]:
        """Yield raw pair gradients, one row per pair; raises as `clipped_sum` does."""
        for chosen in length_ordered_batches(pairs, self.gradients.micro_batch_pairs):
            # Whole requests, so that whoever stops listening leaves nobody waiting.
            batch = [pairs[i] for i in chosen]
            yield from self._by_this_process(TakePairGradients(batch, reference[chosen]))

    def answers(
        self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *, max_tokens: int
    ) -> tuple[AnswerSample, ...]:
        """Answer public prompts; raises as `clipped_sum` does."""
        return self._by_this_process(AnswerPrompts(tokenizer, prompts, max_tokens))

    def verify_saved(self, directory: Path, pairs: Sequence[TokenizedPair]) -> float:
        """Compare a saved adapter with the one in memory; raises as `clipped_sum` does."""
        return self._by_this_process(VerifySavedAdapter(directory, pairs))

    def step_memory(self, max_length: int) -> StepMemory:
        """Measure what micro-batches of the longest pairs take; raises as `clipped_sum` does."""
        return self._by_this_process(MeasureStepMemory(max_length))

    def close(self) -> None:
        """Stop the workers."""
        self._closing = True
        pool, self._pool, self._peers = self._pool, None, None
        if pool is None:
            return
        if self._spec.shards_base:
            leave_mesh(abort=self._spec.on_gpus)
        pool.stop()

    def _dealt(self, request: Request[_Found], pairs: int) -> _Found:
        """Have all processes take their parts, if there are parts to take."""
        if not self._spec.shards_base and pairs <= self.gradients.micro_batch_pairs:
            return request.of(self.local)
        return self._asked_of_all(request)

    def _by_this_process(self, request: Request[_Found]) -> _Found:
        """Do it here, and in all processes if weights have to be gathered from them."""
        if not self._spec.shards_base:
            return request.of(self.local)
        return self._asked_of_all(request)

    def _asked_of_all(self, request: Request[_Found]) -> _Found:
        pool, peers = self._running()
        micro_batch, method = self.gradients.micro_batch_pairs, self.local.method
        order = Order(self.adapter.read(), micro_batch, method, request)
        part = self.local
        if not self._spec.shards_base:
            part = replace(part, deal=Deal(0, self._spec.processes, peers))
        try:
            pool.send(order)
            found = order.carried_out_by(part)
            peers.settle()
        except (OSError, RuntimeError) as error:
            said = pool.last_words()
            self.close()
            raise _stopped(said or str(error)) from error
        except BaseException:
            self.close()
            raise
        return found

    def _running(self) -> tuple[Pool, GlooPeers]:
        if self._pool is None or self._peers is None:
            if self._spec.shards_base:
                raise _stopped("the others are gone")
            self._pool = Pool(work, self._spec, self._spec.processes)
            self._peers = GlooPeers(str(self._pool.folder / "results"), 0, self._spec.processes)
        return self._pool, self._peers

    def _watch(self, pool: Pool) -> None:
        """Where GPUs wait for weights, they would wait on for those of a process that is gone."""
        if self._spec.on_gpus:
            pool.when_one_is_gone(lambda: None if self._closing else leave_mesh(abort=True))


def _stopped(said: str) -> ModelError:
    return ModelError(
        f"A process that shares this client's work stopped: {said}",
        advice="Take smaller micro-batches if memory ran out, then `privfed-dpo resume` the run.",
    )


def open_policy(
    config: Config, plan: RunPlan, adapter: Adapter, *, max_length: int, base_folder: Path | None
) -> LocalPolicy | SharedPolicy:
    """Build what a run asks its model through: in this process, or in as many as it wants.

    Args:
        config: how many processes, and whether they share the base.
        plan: for the way of summing, and the fingerprint of the base.
        adapter: the policy of this process.
        max_length: most tokens of a prompt with one completion.
        base_folder: where workers find the embedded task's own base.

    Returns:
        A policy to be closed.

    Raises:
        ModelError: the model cannot be trained per pair or shared, or a worker cannot start.
    """
    if config.run.processes == 1:
        return make_policy(config, plan, adapter, max_length=max_length)
    built_in = config.model.base == TINY_LLAMA
    base = str(base_folder) if built_in and base_folder else config.model.base
    spec = WorkerSpec.of_run(config, base=base, fingerprint=plan.facts.model_fingerprint)
    if config.run.shard_base:
        return SharedPolicy.over_shared_base(adapter, spec, plan, max_length=max_length)
    return SharedPolicy(make_policy(config, plan, adapter, max_length=max_length), spec)
