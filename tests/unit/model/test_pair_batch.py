import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.errors import ModelError
from privfed_dpo.model.pair_batch import (
    length_ordered_batches,
    longest_position,
    pack_pairs,
    split_pairs,
)
from tests.support.toy_models import make_pair, toy_pairs

TWO = [make_pair([10, 11], [20, 21, 22], [30, 31]), make_pair([12], [23], [32, 33])]


def test_a_packed_row_by_hand():
    sequence = pack_pairs(TWO, pad_id=0).sequences[0]
    # The last token of each completion predicts nothing, so it is not fed.
    assert sequence.input_ids.tolist() == [[10, 11, 20, 21, 30], [12, 32, 0, 0, 0]]
    # The rejected part takes up positions where the prompt ended.
    assert sequence.position_ids.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    assert sequence.targets.tolist() == [20, 21, 22, 30, 31, 23, 32, 33]
    # Both first tokens are predicted by the last prompt position (1 in row 0, 5 + 0 in row 1).
    assert sequence.predicting.tolist() == [1, 2, 3, 1, 4, 5, 5, 6]
    assert sequence.completions.tolist() == [0, 0, 0, 1, 1, 2, 3, 3]
    assert sequence.columns.tolist() == [0, 1, 2, 0, 1, 0, 0, 1]


def test_the_packed_mask_by_hand():
    mask = pack_pairs(TWO, pad_id=0).sequences[0].attention_mask
    assert mask.shape == (2, 1, 5, 5)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],  # rejected: the prompt and itself, not chosen
    ]
    assert mask[1, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],  # padding sees itself, or softmax would divide zero by zero
        [1, 0, 1, 1, 0],
        [1, 0, 1, 1, 1],
    ]


def test_the_additive_mask_hides_what_the_boolean_one_hides():
    visible = pack_pairs(TWO, pad_id=0).sequences[0].attention_mask
    added = pack_pairs(TWO, pad_id=0, mask="additive", mask_dtype=torch.bfloat16)
    values = added.sequences[0].attention_mask
    assert values.dtype == torch.bfloat16
    assert torch.equal(values == 0, visible)
    assert (values[~visible] == torch.finfo(torch.bfloat16).min).all()


def test_separate_rows_by_hand():
    chosen, rejected = split_pairs(TWO, pad_id=9).sequences
    assert chosen.input_ids.tolist() == [[10, 11, 20, 21], [12, 9, 9, 9]]
    assert chosen.attention_mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert rejected.input_ids.tolist() == [[10, 11, 30], [12, 32, 9]]
    assert chosen.predicting.tolist() == [1, 2, 3, 4]
    assert rejected.predicting.tolist() == [1, 2, 3, 4]
    assert chosen.completions.tolist() == [0, 0, 0, 2]
    assert rejected.completions.tolist() == [1, 1, 3, 3]


def test_completion_lengths_count_every_scored_token():
    for batch in (pack_pairs(TWO, pad_id=0), split_pairs(TWO, pad_id=0)):
        assert batch.completion_lengths.tolist() == [[3, 2], [1, 2]]
        assert sum(len(s.targets) for s in batch.sequences) == 8


@pytest.mark.parametrize("lay_out", [pack_pairs, split_pairs])
@pytest.mark.parametrize(
    "pairs",
    [[], [make_pair([], [1], [2])], [make_pair([1], [], [2])], [make_pair([1], [2], [])]],
)
def test_nothing_to_score_is_refused(lay_out, pairs):
    with pytest.raises(ModelError):
        lay_out(pairs, pad_id=0)


def test_the_longest_position_counts_one_completion():
    assert longest_position(TWO) == 5
    assert longest_position([]) == 0


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 40), size=st.integers(1, 12), seed=st.integers(0, 1000))
def test_micro_batches_hold_every_pair_once_whatever_the_order(count, size, seed):
    pairs = toy_pairs(count, seed=seed)
    batches = length_ordered_batches(pairs, size)
    assert sorted(i for batch in batches for i in batch) == list(range(count))
    assert all(1 <= len(batch) <= size for batch in batches)
    order = np.random.default_rng(seed).permutation(count)
    shuffled = length_ordered_batches([pairs[i] for i in order], size)
    assert [[pairs[order[i]].key for i in b] for b in shuffled] == [
        [pairs[i].key for i in b] for b in batches
    ]


def test_an_empty_micro_batch_is_refused():
    with pytest.raises(ModelError, match="0 pairs"):
        length_ordered_batches(toy_pairs(3), 0)
