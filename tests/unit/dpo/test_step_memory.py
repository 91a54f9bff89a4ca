import numpy as np
import pytest
import torch

from privfed_dpo.dpo.clipped_sums import ClippedSums
from privfed_dpo.dpo.memory import StepMemory, measure_step_memory, peak_bytes
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.errors import ModelError
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from tests.support.toy_models import make_pair, toy_model

CPU = torch.device("cpu")


def _sums(method="rows", *, rank=4, **settings):
    adapter = Adapter.attach(
        toy_model("llama"), AdapterSpec(rank=rank, target_modules="all-linear")
    )
    gradients = PairGradients(adapter, micro_batch_pairs=5, **settings)
    return ClippedSums(gradients, PairClipper(1.0, 1 << 16), method=method)


def _real_peak(sums, count, prompt, completion):
    sums.gradients.micro_batch_pairs = count
    pairs = [
        make_pair([i] * prompt, [i + 1] * completion, [i + 2] * completion) for i in range(count)
    ]
    return peak_bytes(lambda: sums(pairs, np.zeros((count, 2), dtype=np.float32)), CPU)


def test_peaks_by_hand():
    def run():
        one = torch.zeros(1000)  # 4000 bytes
        two = one + 1  # 8000 held
        view = two.view(10, 100)  # nothing new
        one.add_(1)
        del one
        three = view.double()  # 4000 + 8000 held
        del two, view
        return three[:1].clone()  # 8000 + 8

    assert peak_bytes(run, CPU) == 12_000


def test_what_autograd_holds_counts():
    weight = torch.ones(500, requires_grad=True)

    def run():
        # exp keeps its result for the backward pass, though no name refers to it.
        return weight.exp().exp().exp().sum()

    assert peak_bytes(run, CPU) == 3 * 2000 + 4


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["rows", "two_pass"])
def test_three_pairs_tell_what_twelve_need(method, checkpointing):
    sums = _sums(method, gradient_checkpointing=checkpointing)
    memory = measure_step_memory(sums, prompt_tokens=20, completion_tokens=15)
    assert sums.gradients.micro_batch_pairs == 5
    real = _real_peak(sums, 12, 20, 15)
    assert real <= memory.peak_bytes(12) <= 1.3 * real


def test_longer_pairs_and_kept_activations_need_more():
    kept = measure_step_memory(_sums(), prompt_tokens=40, completion_tokens=40)
    shorter = measure_step_memory(_sums(), prompt_tokens=10, completion_tokens=10)
    recomputed = measure_step_memory(
        _sums(gradient_checkpointing=True), prompt_tokens=40, completion_tokens=40
    )
    assert shorter.pair_bytes < 0.5 * kept.pair_bytes
    assert recomputed.pair_bytes < 0.7 * kept.pair_bytes


def test_large_adapters_need_less_in_two_passes():
    per_pair = {
        method: measure_step_memory(
            _sums(method, rank=64), prompt_tokens=4, completion_tokens=4
        ).pair_bytes
        for method in ("rows", "two_pass")
    }
    assert per_pair["two_pass"] < 0.6 * per_pair["rows"]


def test_the_largest_micro_batch_by_hand():
    memory = StepMemory(fixed_bytes=1000, pair_bytes=100)
    # 1.15 (1000 + 100 n): 1265 for one pair, 2300 for ten.
    assert memory.peak_bytes(1) == 1265
    assert memory.largest_micro_batch(1266) == 1
    assert memory.largest_micro_batch(2301) == 10
    assert memory.largest_micro_batch(2299) == 9
    with pytest.raises(ModelError, match="One pair needs") as caught:
        memory.largest_micro_batch(1264)
    assert "gradient_checkpointing" in caught.value.advice


@pytest.mark.parametrize(("prompt", "completion"), [(0, 5), (5, 0), (100, 29)])
def test_lengths_the_model_does_not_take_are_refused(prompt, completion):
    with pytest.raises(ModelError, match="cannot be scored"):
        measure_step_memory(_sums(), prompt_tokens=prompt, completion_tokens=completion)
