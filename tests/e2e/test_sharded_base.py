"""Base weights sharded over two processes (FSDP2, gloo): our taps still give exact integer sums."""

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from privfed_dpo.dpo.clipped_sums import SUM_METHODS, ClippedSums
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from tests.support.toy_models import shaken, toy_model, toy_pairs

PROCESSES = 2
CLIPPER = PairClipper(max_grad_norm=3.0, sensitivity_steps=1 << 20)
# Four micro-batches: every process must run as many, since each gathers weights from the others.
PAIRS = toy_pairs(16, seed=3)


def _gradients():
    spec = AdapterSpec(rank=2, target_modules="all-linear")
    adapter = shaken(Adapter.attach(toy_model("llama"), spec), scale=0.05)
    return PairGradients(adapter, beta=0.5, micro_batch_pairs=4)


def _reference(gradients):
    return ReferenceLogprobs(gradients.adapter, fingerprint="toy")(PAIRS)


def _shard(model):
    """Shards every decoder block but its adapter."""
    own = {p for name, p in model.named_parameters() if "lora_" in name}
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for block in model.get_base_model().model.layers:
        fully_shard(block, mesh=mesh, ignored_params=own)
    return sum(isinstance(p, DTensor) for p in model.parameters())


def _take_part(rank, folder):
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=PROCESSES)
    gradients = _gradients()
    reference = _reference(gradients)
    found = {"sharded": np.array(_shard(gradients.adapter.model))}
    for method in SUM_METHODS:
        sums = ClippedSums(gradients, CLIPPER, method=method)
        part = sums(PAIRS, reference, rank=rank, processes=PROCESSES)
        whole = torch.from_numpy(part.total)
        distributed.all_reduce(whole)
        found[method] = whole.numpy()
    if rank == 0:
        np.savez(folder / "found.npz", **found)
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_a_sharded_base_gives_the_integers_of_a_whole_one(tmp_path):
    gradients = _gradients()
    reference = _reference(gradients)
    multiprocessing.spawn(_take_part, args=(tmp_path,), nprocs=PROCESSES)
    with np.load(tmp_path / "found.npz") as found:
        assert found["sharded"] >= 2 * 7, "all linear layers of both blocks"
        for method in SUM_METHODS:
            alone = ClippedSums(gradients, CLIPPER, method=method)(PAIRS, reference)
            assert alone.total.any()
            assert np.array_equal(found[method], alone.total)
