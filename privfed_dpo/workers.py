"""Local processes that share one client's gradients: one GPU each, and one exact integer sum.

The first process runs everything: sampling, noise, protocol. The others hold the same base model
and adapter, and know how to do one thing: take their part of the micro-batches and add up clipped
integers. Micro-batches are those of a single process and int64 addition is exact in any order, so
the sum is that of a single process bit for bit, on devices that compute alike. No noise and no key
reaches a worker; pairs do, over pipes between processes of one owner on one machine.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import multiprocessing
from torch.distributed import FileStore, ProcessGroupGloo  # type: ignore[attr-defined]

from privfed_dpo.config import Config
from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.clipped_sums import ClippedSums, SumMethod
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.errors import ModelError
from privfed_dpo.mechanism.clip import ClippedSum, PairClipper
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.loading import ModelSpec, load_model
from privfed_dpo.policy import AdapterGradients, adapter_spec, build_gradients, model_spec

_LONGEST_SUM = timedelta(hours=2)
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What every worker builds.

    Attributes:
        config: loss, layout and threads.
        model: the base model, under a name that a new process can load.
        adapter: the adapter's shape.
        fingerprint: of the base model that the first process holds.
        processes: how many there are, the first one included; >= 2.
    """

    config: Config
    model: ModelSpec
    adapter: AdapterSpec
    fingerprint: str
    processes: int

    @classmethod
    def of_run(cls, config: Config, *, base: str, fingerprint: str) -> WorkerSpec:
        """Describe the workers of a run.

        Args:
            config: the run's configuration.
            base: folder or hub id of the base model.
            fingerprint: of the base model.
        """
        return cls(
            config=config,
            model=replace(model_spec(config), base=base),
            adapter=adapter_spec(config),
            fingerprint=fingerprint,
            processes=config.run.processes,
        )


@dataclass(frozen=True, slots=True)
class _Task:
    """One sum to share; the adapter goes along, so that no worker can be behind."""

    weights: npt.NDArray[np.float32] = field(repr=False)
    pairs: Sequence[TokenizedPair] = field(repr=False)
    reference: npt.NDArray[np.float32] = field(repr=False)
    clipper: PairClipper
    method: SumMethod
    micro_batch_pairs: int


class SharedGradients:
    """Gradients of the first process, whose clipped sums all processes take together.

    Workers start with the first sum that has more than one micro-batch.

    Attributes:
        local: the first process's own gradients.
    """

    def __init__(self, local: AdapterGradients, spec: WorkerSpec) -> None:
        self.local = local
        self._spec = spec
        self._pool: _Pool | None = None

    @property
    def adapter(self) -> Adapter:
        """The policy."""
        return self.local.adapter

    @property
    def gradients(self) -> PairGradients:
        """Policy, loss and scorer of the first process."""
        return self.local.gradients

    def load(self, weights: npt.NDArray[np.float32]) -> None:
        """Put a flat adapter into the model; workers get it with their next part of a sum."""
        self.local.load(weights)

    def pair_gradients(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.float32]
    ) -> Iterator[torch.Tensor]:
        """Yield raw pair gradients, one row per pair, from this process alone."""
        return self.local.pair_gradients(pairs, reference)

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
        micro_batch = self.gradients.micro_batch_pairs
        if len(pairs) <= micro_batch:
            return self.local.clipped_sum(pairs, reference, clipper)
        if self._pool is None:
            self._pool = _Pool(self._spec)
        weights = self.adapter.read()
        task = _Task(weights, pairs, reference, clipper, self.local.method, micro_batch)
        try:
            self._pool.send(task)
            part = _own_part(self.gradients, task, 0, self._spec.processes)
            return _add_parts(part, self._pool.group)
        except (OSError, RuntimeError) as error:
            said = self._pool.last_words()
            self._pool.stop()
            self._pool = None
            raise ModelError(
                f"A process that shares gradients stopped: {said or error}",
                advice="Set run.processes=1, or smaller micro-batches if memory ran out.",
            ) from error

    def close(self) -> None:
        """Stop the workers."""
        if self._pool is not None:
            self._pool.stop()
            self._pool = None


class _Pool:
    """The workers as the first process sees them."""

    def __init__(self, spec: WorkerSpec) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="privfed-dpo-")
        meeting = str(Path(self._folder.name) / "meeting")
        self._pipes: list[Connection] = []
        self._workers: list[SpawnProcess] = []
        for rank in range(1, spec.processes):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(spec, rank, meeting, theirs), daemon=True)
            worker.start()
            theirs.close()
            self._pipes.append(ours)
            self._workers.append(worker)
        for pipe in self._pipes:
            self._await_ready(pipe)
        self.group = _join(meeting, 0, spec.processes)

    def send(self, task: _Task) -> None:
        """Give everybody the same task."""
        for pipe in self._pipes:
            pipe.send(task)

    def last_words(self) -> str:
        """What workers said before they stopped."""
        words = []
        for pipe in self._pipes:
            with contextlib.suppress(EOFError, OSError):
                while pipe.poll(timeout=1.0):
                    words.append(str(pipe.recv()))
        return "; ".join(words)

    def stop(self) -> None:
        """Hang up, wait a little, then insist."""
        for pipe in self._pipes:
            pipe.close()
        for worker in self._workers:
            worker.join(timeout=_PATIENCE_SECONDS)
            if worker.is_alive():
                worker.terminate()
        self._folder.cleanup()

    def _await_ready(self, pipe: Connection) -> None:
        try:
            said = str(pipe.recv())
        except EOFError:
            said = "it said nothing"
        if said != _READY:
            self.stop()
            raise ModelError(
                f"A process that should share gradients did not start: {said}",
                advice="Set run.processes to at most the number of GPUs, or to 1.",
            )


_READY = "ready"


def _work(spec: WorkerSpec, rank: int, meeting: str, pipe: Connection) -> None:
    """A worker's life: build the policy, then one part of a sum after another."""
    try:
        gradients = _build(spec, rank)
        pipe.send(_READY)
        group = _join(meeting, rank, spec.processes)
        while True:
            try:
                task: _Task = pipe.recv()
            except EOFError:
                return
            gradients.adapter.write(task.weights)
            _add_parts(_own_part(gradients, task, rank, spec.processes), group)
    except Exception as error:  # noqa: BLE001 - whatever it is, the first process has to know
        with contextlib.suppress(OSError):
            pipe.send(f"process {rank}: {error}")


def _build(spec: WorkerSpec, rank: int) -> PairGradients:
    if spec.config.run.threads is not None:
        torch.set_num_threads(spec.config.run.threads)
    on_gpus = spec.model.device.startswith("cuda") or (
        spec.model.device == "auto" and torch.cuda.is_available()
    )
    device = f"cuda:{rank}" if on_gpus else spec.model.device
    loaded = load_model(replace(spec.model, device=device))
    if loaded.fingerprint != spec.fingerprint:
        raise ModelError(
            f"{spec.model.base!r} is another model here.", advice="Keep it as it was at the start."
        )
    return build_gradients(spec.config, Adapter.attach(loaded, spec.adapter), 1)


def _join(meeting: str, rank: int, processes: int) -> ProcessGroupGloo:
    """A group of its own: torch's default group may belong to somebody else in this process."""
    return ProcessGroupGloo(FileStore(meeting, processes), rank, processes, _LONGEST_SUM)


def _own_part(gradients: PairGradients, task: _Task, rank: int, processes: int) -> ClippedSum:
    gradients.micro_batch_pairs = task.micro_batch_pairs
    sums = ClippedSums(gradients, task.clipper, method=task.method)
    return sums(task.pairs, task.reference, rank=rank, processes=processes)


def _add_parts(part: ClippedSum, group: ProcessGroupGloo) -> ClippedSum:
    """Add up everybody's integers; int64 addition is exact, whatever its order."""
    whole = torch.from_numpy(np.append(part.total, [part.pairs, part.non_finite]))
    group.allreduce([whole]).wait()  # type: ignore[attr-defined]  # missing in torch's stubs
    *_, pairs, non_finite = whole[-2:].tolist()
    return ClippedSum(whole[:-2].numpy(), pairs=pairs, non_finite=non_finite)
