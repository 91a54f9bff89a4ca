"""What a pair leaves in the gradients of the others: nothing alone in its pass, little in float32."""

import numpy as np
import pytest
import torch

from privfed_dpo.dpo.clipped_sums import SUM_METHODS, ClippedSums
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.reference import ReferenceLogprobs, reference_scores
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.scorer import PairScorer
from tests.support.toy_models import shaken, toy_model, toy_pairs

STEPS = 1 << 20
CLIPPER = PairClipper(max_grad_norm=1.0, sensitivity_steps=STEPS)
PAIRS = toy_pairs(24, seed=5, longest=20)


def gradients_of(family, *, dtype=torch.float32, micro_batch_pairs, loss="sigmoid"):
    adapter = Adapter.attach(toy_model(family).to(dtype), AdapterSpec(rank=2))
    shaken(adapter, scale=0.05)
    return PairGradients(adapter, beta=0.5, loss=loss, micro_batch_pairs=micro_batch_pairs)


def moved_beyond_its_own_vector(gradients, left_out, method):
    """How far the sum moves when a pair is left out, less that pair's vector; in sensitivities."""
    rest = [pair for place, pair in enumerate(PAIRS) if place != left_out]
    sums = ClippedSums(gradients, CLIPPER, method=method)

    def total(pairs):
        scores = reference_scores(
            gradients.scorer, pairs, micro_batch_pairs=gradients.micro_batch_pairs
        )
        return sums(pairs, scores).total

    whole = total(PAIRS)
    assert whole.any()
    return float(np.linalg.norm(whole - total(rest) - total([PAIRS[left_out]]))) / STEPS


@pytest.mark.parametrize("method", SUM_METHODS)
@pytest.mark.parametrize(
    ("family", "dtype", "loss"),
    [
        ("llama", torch.float32, "sigmoid"),
        ("llama", torch.bfloat16, "sigmoid"),
        ("llama", torch.float32, "hinge"),
        ("mixtral", torch.float32, "sigmoid"),
    ],
    ids=["float32", "bfloat16", "hinge", "experts"],
)
def test_alone_in_its_pass_a_pair_moves_the_sum_by_its_own_vector(family, dtype, loss, method):
    gradients = gradients_of(family, dtype=dtype, micro_batch_pairs=1, loss=loss)
    for left_out in (0, 7, int(np.argmax([len(p.prompt) + len(p.chosen) for p in PAIRS]))):
        assert moved_beyond_its_own_vector(gradients, left_out, method) == 0


def test_beside_others_it_leaves_rounding_in_them_little_in_float32_and_more_in_bfloat16():
    """The assumption of docs/decisions/0039, and why it is not made for coarse types."""
    longest = int(np.argmax([len(p.prompt) + len(p.chosen) + len(p.rejected) for p in PAIRS]))
    fine = gradients_of("llama", micro_batch_pairs=8)
    coarse = gradients_of("llama", dtype=torch.bfloat16, micro_batch_pairs=8)
    little = moved_beyond_its_own_vector(fine, longest, "rows")
    assert 0 < little < 1e-4
    assert moved_beyond_its_own_vector(coarse, longest, "rows") > 100 * little


def test_scores_computed_beside_others_do_not_meet_a_run_of_one_pair_a_pass(tmp_path):
    adapter = gradients_of("llama", micro_batch_pairs=1).adapter

    def scored(micro_batch_pairs):
        return ReferenceLogprobs(
            adapter, fingerprint="f", cache_dir=tmp_path, micro_batch_pairs=micro_batch_pairs
        )

    scored(8)(PAIRS)
    alone = scored(1)
    found = alone(PAIRS)
    assert alone.computed_count == len(PAIRS)
    single = np.concatenate(
        [reference_scores(PairScorer(adapter), [pair], micro_batch_pairs=1) for pair in PAIRS]
    )
    assert np.array_equal(found, single)
    for again in (1, 8):
        reference = scored(again)
        reference(PAIRS)
        assert reference.computed_count == 0
