"""The life of a worker: build what the first process holds, then answer request after request."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

import torch

from privfed_dpo.config import Config
from privfed_dpo.dpo.dealing import Deal
from privfed_dpo.dpo.local_policy import LocalPolicy
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.loading import ModelSpec, load_model
from privfed_dpo.model.sharding import shard_base
from privfed_dpo.policy import adapter_spec, build_gradients, model_spec
from privfed_dpo.workers.meeting import GlooPeers, leave_mesh, open_mesh, refuse_too_few_gpus
from privfed_dpo.workers.pool import READY
from privfed_dpo.workers.requests import Order


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What every worker builds.

    Attributes:
        config: loss, layout and threads; how many processes, and whether they share the base.
        model: the base model, under a name that a new process can load.
        adapter: the adapter's shape.
        fingerprint: of the base model that the first process holds.
    """

    config: Config
    model: ModelSpec
    adapter: AdapterSpec
    fingerprint: str

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
        )

    @property
    def processes(self) -> int:
        """How many processes there are, the first one included."""
        return self.config.run.processes

    @property
    def shards_base(self) -> bool:
        """Whether they share the base model."""
        return self.config.run.shard_base

    @property
    def on_gpus(self) -> bool:
        """Whether every process takes the GPU of its rank."""
        device = self.config.model.device
        return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def work(spec: WorkerSpec, rank: int, folder: Path, pipe: Connection) -> None:
    """Live as worker `rank`; ends when the first process hangs up, or is gone.

    Args:
        spec: what to build.
        rank: from 1.
        folder: where processes meet.
        pipe: to the first process: orders come in; `READY`, or why not, goes out.
    """
    _end_with_parent()
    # Ctrl-C in a terminal reaches every process; the first one decides, and hangs up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if spec.config.run.threads is not None:
            torch.set_num_threads(spec.config.run.threads)
        policy, peers = join(spec, rank, folder, _attach(spec, rank), lambda: pipe.send(READY))
        while True:
            try:
                order: Order[object] = pipe.recv()
            except EOFError:
                return
            order.carried_out_by(policy)
            peers.settle()
    except Exception as error:  # noqa: BLE001 - whatever it is, the first process has to know
        with contextlib.suppress(OSError):
            pipe.send(f"process {rank}: {error}")
    finally:
        leave_mesh(abort=spec.on_gpus)


def join(
    spec: WorkerSpec, rank: int, folder: Path, adapter: Adapter, ready: Callable[[], None]
) -> tuple[LocalPolicy, GlooPeers]:
    """Meet the others; with a shared base, keep a share of it and check the model together.

    Args:
        spec: what all processes agree on.
        rank: this process; 0 is the first one.
        folder: where processes meet.
        adapter: this process's; on a CPU if the base is to be shared.
        ready: called when nothing but meeting is left.

    Returns:
        The policy that takes this process's part, and all processes together.

    Raises:
        ModelError: the model is not one that can be trained per pair, or shared.
    """
    if not spec.shards_base:
        gradients = build_gradients(spec.config, adapter, 1)
        ready()
        peers = GlooPeers(str(folder / "results"), rank, spec.processes)
        return LocalPolicy(adapter, gradients, deal=Deal(rank, spec.processes, peers)), peers
    if spec.on_gpus:
        refuse_too_few_gpus(spec.processes)
    ready()
    peers = GlooPeers(str(folder / "results"), rank, spec.processes)
    mesh = open_mesh(str(folder / "weights"), rank, spec.processes, on_gpus=spec.on_gpus)
    shard_base(adapter, mesh)
    gradients = build_gradients(spec.config, adapter, 1)
    longest = spec.config.data.max_length
    if not gradients.scorer.one_layout_up_to(longest):
        raise ModelError(
            f"Pairs of up to {longest} tokens do not all fit into this model's attention window, "
            "so that they would be laid out in two ways and processes would fall out of step.",
            advice="Set dpo.form=two_forward, or data.max_length to the window.",
        )
    return LocalPolicy(
        adapter, gradients, deal=Deal(rank, spec.processes, peers, in_step=True)
    ), peers


def _attach(spec: WorkerSpec, rank: int) -> Adapter:
    """Load the base this run started with, and put the adapter on it."""
    whole_on_gpu = spec.on_gpus and not spec.shards_base
    device = f"cuda:{rank}" if whole_on_gpu else spec.model.device
    loaded = load_model(replace(spec.model, device=device))
    if loaded.fingerprint != spec.fingerprint:
        raise ModelError(
            f"{spec.model.base!r} is another model here.", advice="Keep it as it was at the start."
        )
    return Adapter.attach(loaded, spec.adapter)


def _end_with_parent() -> None:
    """End with the first process, even while waiting for weights that will never come."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
