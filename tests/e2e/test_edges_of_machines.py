"""Models and machines at the edge: refused before anything is spent, or resumed afterwards."""

import json
import re
import shlex

import pytest
import torch

from privfed_dpo.dpo.local_policy import LocalPolicy
from tests.support import preference_files as files
from tests.support.checkpoints import write_checkpoint
from tests.support.command_line import assert_nothing_spent, caller, own_data, write_inputs


@pytest.fixture
def run(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("machines"))


@pytest.fixture
def train(run, home, tmp_path):
    def with_settings(*overrides):
        return run("train", *own_data(home, *overrides), "--run-dir", tmp_path / "run")

    return with_settings


# Tokenizers


def test_a_model_without_a_padding_token_is_padded_with_its_end(train, home, run, tmp_path):
    settings = json.loads((home / "base" / "tokenizer_config.json").read_text())
    assert not settings.get("pad_token")
    train("dpo.micro_batch_pairs=3").succeeded()
    run("verify", tmp_path / "run").succeeded()


def test_a_model_without_any_token_to_pad_with_is_refused(train, tmp_path):
    texts = files.texts_of(files.preference_rows(users=5, per_user=4))
    base = write_checkpoint(tmp_path / "bare", "llama", texts)
    path = base / "tokenizer_config.json"
    kept = {k: v for k, v in json.loads(path.read_text()).items() if not k.endswith("_token")}
    path.write_text(json.dumps(kept))
    train(f"model.base={base}").refused(
        "has no pad, end or unknown token",
        "Set eos_token in the checkpoint's tokenizer_config.json",
    )
    assert_nothing_spent(tmp_path / "run")


# GPUs


def test_a_gpu_where_there_is_none(train, monkeypatch, tmp_path):
    monkeypatch.setattr("privfed_dpo.model.device.gpu_count", lambda: 0)
    train("model.device=cuda").refused(
        "model.device=cuda: no CUDA device is available", "Set model.device to cpu or auto"
    )
    assert_nothing_spent(tmp_path / "run")


def test_a_gpu_beyond_the_last_one(train, monkeypatch, tmp_path):
    monkeypatch.setattr("privfed_dpo.model.device.gpu_count", lambda: 2)
    train("model.device=cuda:2").refused("this machine has cuda:0 to cuda:1 only")
    assert_nothing_spent(tmp_path / "run")


@pytest.mark.parametrize("device", ["meta", "vulkan"])
def test_a_device_of_another_kind(train, device):
    train(f"model.device={device}").refused(f"{device!r} is not a device", "cpu, cuda, cuda:0")


def test_a_gpu_too_small_for_the_weights_names_settings_that_fit(
    train, home, monkeypatch, tmp_path
):
    monkeypatch.setattr("privfed_dpo.policy.load_model", forbidden)
    weights = base_bytes_of(home)
    monkeypatch.setattr("privfed_dpo.policy.total_bytes", lambda device: weights // 2 + 1)
    refused = train().refused(
        "The weights of the base model take", "They fit with model.dtype=bfloat16"
    )
    assert "big-models.md" in refused.err
    monkeypatch.setattr("privfed_dpo.policy.total_bytes", lambda device: 1000)
    train().refused("Take a smaller model")
    assert_nothing_spent(tmp_path / "run")


def forbidden(*args, **kwargs):
    raise AssertionError("weights must not be read")


def base_bytes_of(home):
    from safetensors import safe_open

    with safe_open(home / "base" / "model.safetensors", "pt") as weights:
        return 4 * sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118


def test_a_gpu_too_small_for_the_micro_batch_says_how_many_pairs_fit(train, monkeypatch, tmp_path):
    """The room is patched; what a step needs is measured, on the CPU."""
    monkeypatch.setattr("privfed_dpo.policy.free_bytes", lambda device: 6 << 20)
    refused = train().refused(
        "A micro-batch of 4 pairs needs about", "more than the 6 MiB there are"
    )
    assert_nothing_spent(tmp_path / "run")
    (fitting,) = re.findall(r"dpo\.micro_batch_pairs=\d+", refused.err)
    assert int(fitting.partition("=")[2]) in (1, 2, 3)
    train(fitting).succeeded()


def test_a_gpu_too_small_for_one_pair(train, monkeypatch, tmp_path):
    monkeypatch.setattr("privfed_dpo.policy.free_bytes", lambda device: 1 << 16)
    train().refused("One pair needs about", "dpo.gradient_checkpointing", "a smaller model")
    assert_nothing_spent(tmp_path / "run")


def test_a_gpu_that_cannot_even_be_measured(train, monkeypatch, tmp_path):
    monkeypatch.setattr("privfed_dpo.policy.free_bytes", lambda device: 1 << 30)
    monkeypatch.setattr("privfed_dpo.dpo.memory.peak_bytes", no_room)
    train().refused(
        "has no room beside the model for a micro-batch of size 1, of pairs of 128 tokens",
        "dpo.gradient_checkpointing",
    )
    assert_nothing_spent(tmp_path / "run")


def no_room(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def test_memory_that_another_program_takes_ends_a_run_that_can_go_on(train, run, tmp_path):
    taken = [no_room, RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()]
    rest, inner = iter(taken), LocalPolicy.clipped_sum

    def first_fails(*arguments):
        for trouble in rest:
            if trouble is no_room:
                no_room()
            raise trouble
        return inner(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LocalPolicy, "clipped_sum", first_fails)
        ended = train()
        for said in ("CUDA out of memory. Tried", "can't allocate memory", "no room for what was"):
            assert ended.code == 1
            assert re.search(f"error: out of memory: .*{said}", ended.err)
            advised = re.search(r"Go on with: privfed-dpo (.+)", ended.err)
            ended = run(*shlex.split(advised.group(1)))
    ended.succeeded()
    run("verify", tmp_path / "run").succeeded()
