"""Whole runs over a base that two processes share, and how they end when something is wrong."""

import json
import multiprocessing

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import distributed

from privfed_dpo.audit.run_audit import audit_run
from privfed_dpo.dpo.clipped_sums import SUM_METHODS
from privfed_dpo.dpo.local_policy import LocalPolicy
from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.errors import ModelError
from privfed_dpo.lifecycle import reopen, resume, train
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.policy import build_gradients
from privfed_dpo.verification import verify_run
from privfed_dpo.workers.meeting import open_mesh, refuse_too_few_gpus
from tests.support.entropy import counted_entropy
from tests.support.shared_base import (
    SHARED,
    config_of,
    parts_of,
    shared_policy,
    some_pairs,
    write_home,
)

CLIPPER = PairClipper(max_grad_norm=3.0, sensitivity_steps=1 << 20)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_home(tmp_path_factory.mktemp("sharded"))


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    yield
    assert not multiprocessing.active_children()
    assert not distributed.is_initialized()


def rows_of(folder):
    """Rows without what a clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_a_run_is_that_of_a_whole_base_bit_for_bit(home, tmp_path):
    """Reference, sums, metrics, sample answers and the saved adapter, with activations recomputed
    and the micro-batch measured."""
    adapters, rows, samples = [], [], []
    for name, overrides in {"whole": (), "shared": SHARED}.items():
        folder = tmp_path / name
        config = config_of(
            home,
            f"run.dir={folder}",
            f"run.cache_dir={tmp_path / 'cache' / name}",
            "dpo.gradient_checkpointing=true",
            "dpo.micro_batch_pairs=null",
            "dpo.memory_bytes=20000000",
            "evaluation.sample_prompts=['which of the two']",
            "evaluation.sample_tokens=5",
            *overrides,
        )
        train(config, entropy=counted_entropy("the same"))
        assert verify_run(folder).ok
        adapters.append(load_file(folder / "adapter" / "adapter_model.safetensors"))
        rows.append(rows_of(folder))
        samples.append(json.loads((folder / "summary.json").read_text())["samples"])
    whole, shared = adapters
    assert whole.keys() == shared.keys()
    assert all(np.array_equal(values, shared[name]) for name, values in whole.items())
    assert rows[0] == rows[1]
    assert rows[0][-1]["grad_norm_sq"] > 0
    assert samples[0] == samples[1]
    assert samples[0]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_is_audited(home, tmp_path):
    folder = tmp_path / "run"
    config = config_of(home, f"run.dir={folder}", "evaluation.audit_held_back=2", *SHARED)

    def interrupt(event):
        if isinstance(event, RoundFinished) and event.row.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, observers=[interrupt])
    assert not multiprocessing.active_children()
    resume(folder)
    assert [row["round"] for row in rows_of(folder)] == [0, 1, 2]
    assert verify_run(folder).ok
    (membership,) = audit_run(folder, reopen).membership
    assert membership.members > 0


def test_a_process_that_dies_ends_the_work_with_a_reason(home):
    policy = shared_policy(home)
    pairs = some_pairs(9)
    policy._pool._workers[0].kill()
    policy._pool._workers[0].join()
    with pytest.raises(ModelError, match="shares this client's work stopped") as caught:
        policy.reference_scores(pairs)
    assert "resume" in caught.value.advice
    with pytest.raises(ModelError, match="the others are gone"):
        policy.reference_scores(pairs)


@pytest.mark.slow
def test_a_process_that_fails_says_why(home):
    policy = shared_policy(home)
    policy._pool.send("not an order")
    with pytest.raises(ModelError, match="process 1: 'str' object"):
        policy.reference_scores(some_pairs(2))


@pytest.mark.slow
def test_a_window_that_some_pairs_exceed_is_refused(tmp_path):
    """They would take another layout, with more passes than other processes make."""
    home = write_home(tmp_path, "mistral", sliding_window=24)
    with pytest.raises(ModelError, match="fall out of step") as caught:
        shared_policy(home)
    assert "dpo.form=two_forward" in caught.value.advice


def test_torchs_default_group_must_be_free(tmp_path):
    store = distributed.FileStore(str(tmp_path / "theirs"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(ModelError, match="already belongs to a torch"):
            open_mesh(str(tmp_path / "ours"), 0, 1, on_gpus=False)
    finally:
        distributed.destroy_process_group()


def test_every_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    refuse_too_few_gpus(2)
    with pytest.raises(ModelError, match="3 processes cannot spread a base over 2 GPUs"):
        refuse_too_few_gpus(3)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "gemma2", "mixtral"])
@pytest.mark.parametrize("method", SUM_METHODS)
def test_families_and_ways_of_summing_give_the_integers_of_a_whole_base(tmp_path, family, method):
    home = write_home(tmp_path, family)
    summing = (f"dpo.gradient_sums={method}", "dpo.form=two_forward", "model.dtype=bfloat16")
    overrides = (*summing, "privacy.mode=none")  # where several pairs a pass go with such models
    config, adapter, _ = parts_of(home, *overrides)
    whole = LocalPolicy(adapter, build_gradients(config, adapter, 4), method)
    pairs = some_pairs(11)
    reference = whole.reference_scores(pairs)
    expected = whole.clipped_sum(pairs, reference, CLIPPER)
    policy = shared_policy(home, *overrides)
    try:
        policy.load(adapter.read())
        assert np.array_equal(policy.reference_scores(pairs), reference)
        found = policy.clipped_sum(pairs, reference, CLIPPER)
        assert np.array_equal(found.total, expected.total)
        assert expected.total.any()
    finally:
        policy.close()
