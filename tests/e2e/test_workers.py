"""Gradients shared by several processes: the same integers as in one, or a clear end."""

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from privfed_dpo.config import parse_config
from privfed_dpo.dpo.local_policy import LocalPolicy
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.errors import ModelError
from privfed_dpo.lifecycle import train
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.loading import load_model
from privfed_dpo.policy import adapter_spec, build_gradients, model_spec
from privfed_dpo.verification import verify_run
from privfed_dpo.workers import life
from privfed_dpo.workers.life import WorkerSpec
from privfed_dpo.workers.pool import Pool
from privfed_dpo.workers.shared import SharedPolicy
from tests.support.checkpoints import write_checkpoint
from tests.support.entropy import counted_entropy
from tests.support.lame_workers import cannot_start
from tests.support.tiny_run import tiny_config
from tests.support.toy_models import shaken, toy_pairs

# Norms of these pairs lie on both sides of the bound.
CLIPPER = PairClipper(max_grad_norm=3.0, sensitivity_steps=1 << 20)
PAIRS = [p for p in toy_pairs(40, seed=2) if p.chosen != p.rejected][:23]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Gradients of two processes over a checkpoint, with the reference of the pairs."""
    folder = tmp_path_factory.mktemp("workers") / "base"
    write_checkpoint(folder, "llama", ["a b c d"] * 4)
    config = parse_config(
        "run: {processes: 2, threads: 1}\n"
        f"model: {{base: {folder}, device: cpu, adapter: {{rank: 2, target_modules: all-linear}}}}\n"
        "data: {train: none.jsonl}\n"
        "privacy: {noise_multiplier: 1.0}"
    )
    loaded = load_model(model_spec(config))
    vocabulary = loaded.model.get_input_embeddings().num_embeddings
    pairs = [p for p in PAIRS if max((*p.prompt, *p.chosen, *p.rejected)) < vocabulary]
    adapter = shaken(Adapter.attach(loaded, adapter_spec(config)), scale=0.05)
    local = LocalPolicy(adapter, build_gradients(config, adapter, 4))
    spec = WorkerSpec.of_run(config, base=str(folder), fingerprint=loaded.fingerprint)
    gradients = SharedPolicy(local, spec)
    yield gradients, pairs, ReferenceLogprobs(adapter, fingerprint="toy")(pairs)
    gradients.close()


def test_two_processes_add_up_to_the_sum_of_one_bit_for_bit(shared):
    gradients, pairs, reference = shared
    assert len(pairs) > 8, "more micro-batches than processes"
    for step in range(2):
        gradients.load(gradients.adapter.read() * (1 + step))
        alone = gradients.local.clipped_sum(pairs, reference, CLIPPER)
        together = gradients.clipped_sum(pairs, reference, CLIPPER)
        assert together.total.dtype == np.int64
        assert np.array_equal(together.total, alone.total)
        assert together.total.any()
        assert (together.pairs, together.non_finite) == (len(pairs), 0)


def test_pairs_that_are_not_numbers_are_counted_over_all_processes(shared):
    gradients, pairs, reference = shared
    broken = reference.copy()
    broken[::3] = np.nan
    alone = gradients.local.clipped_sum(pairs, broken, CLIPPER)
    together = gradients.clipped_sum(pairs, broken, CLIPPER)
    assert together.non_finite == alone.non_finite == len(broken[::3])
    assert np.array_equal(together.total, alone.total)


def test_one_micro_batch_needs_no_second_process(shared):
    gradients, pairs, reference = shared
    idle = SharedPolicy(gradients.local, gradients._spec)
    found = idle.clipped_sum(pairs[:4], reference[:4], CLIPPER)
    assert found.pairs == 4
    assert idle._pool is None
    idle.close()


def test_a_worker_that_dies_is_reported_and_replaced(shared):
    gradients, pairs, reference = shared
    gradients.clipped_sum(pairs, reference, CLIPPER)
    gradients._pool._workers[0].kill()
    gradients._pool._workers[0].join()
    with pytest.raises(ModelError, match="shares this client's work stopped"):
        gradients.clipped_sum(pairs, reference, CLIPPER)
    alone = gradients.local.clipped_sum(pairs, reference, CLIPPER)
    assert np.array_equal(gradients.clipped_sum(pairs, reference, CLIPPER).total, alone.total)


def test_reference_and_metrics_are_dealt_out_and_put_together_unchanged(shared):
    policy, pairs, reference = shared
    assert np.array_equal(policy.reference_scores(pairs), policy.local.reference_scores(pairs))
    loss = policy.gradients.loss
    metrics, margins = policy.preferences(pairs, reference, loss)
    alone, expected = policy.local.preferences(pairs, reference, loss)
    assert metrics == alone
    assert np.array_equal(margins, expected)


def test_a_worker_with_another_model_never_starts(shared):
    policy, _, _ = shared
    other = replace(policy._spec, fingerprint="0" * 64)
    with pytest.raises(ModelError, match="is another model here"):
        life._attach(other, 1)


def test_a_worker_that_cannot_start_is_reported_with_its_reason():
    before = set(multiprocessing.active_children())
    with pytest.raises(ModelError, match="did not start: process 1: out of memory"):
        Pool(cannot_start, None, 3)
    assert set(multiprocessing.active_children()) <= before, "nobody is left behind"


@pytest.mark.slow
def test_a_whole_run_in_two_processes_trains_the_same_adapter(tmp_path):
    adapters = []
    for processes in (1, 2):
        folder = tmp_path / f"run-{processes}"
        keys = ("federation.rounds=2", "dpo.micro_batch_pairs=1", f"run.processes={processes}")
        train(tiny_config(folder, *keys), entropy=counted_entropy("the same"))
        assert verify_run(folder).ok
        adapters.append(load_file(folder / "adapter" / "adapter_model.safetensors"))
    assert adapters[0].keys() == adapters[1].keys()
    for name, values in adapters[0].items():
        assert np.array_equal(values, adapters[1][name])
