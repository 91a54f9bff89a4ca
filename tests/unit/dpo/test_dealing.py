"""Micro-batches dealt out: each counts once, and those who must keep step make as many passes."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.dpo.clipped_sums import ClippedSums
from privfed_dpo.dpo.dealing import ALONE, Deal
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from tests.support.toy_models import shaken, toy_model, toy_pairs

CLIPPER = PairClipper(max_grad_norm=3.0, sensitivity_steps=1 << 20)
PAIRS = toy_pairs(5, seed=4)
REFERENCE = np.zeros((len(PAIRS), 2), dtype=np.float32)


def peers(most=0):
    return SimpleNamespace(added=lambda values: values, most=lambda count: max(count, most))


@given(batches=st.integers(0, 20), processes=st.integers(1, 6), in_step=st.booleans())
def test_every_micro_batch_counts_once(batches, processes, in_step):
    dealt = [np.array([i]) for i in range(batches)]
    turns = [
        list(Deal(rank, processes, peers(), in_step=in_step).turns(dealt))
        for rank in range(processes)
    ]
    counted = sorted(int(batch[0]) for mine in turns for batch, counts in mine if counts)
    assert counted == list(range(batches))
    assert max(map(len, turns)) == -(-batches // processes)
    if in_step:
        assert len(set(map(len, turns))) == 1, "everybody makes as many passes"
    else:
        assert all(counts for mine in turns for _, counts in mine)


def test_alone_everything_is_ones_own():
    values = np.arange(3.0)
    assert ALONE.together(values) is values
    assert ALONE.passes(7) == 7
    assert [counts for _, counts in ALONE.turns([np.array([0]), np.array([1])])] == [True, True]


@pytest.fixture(scope="module")
def gradients():
    adapter = Adapter.attach(toy_model("llama"), AdapterSpec(rank=2))
    return PairGradients(shaken(adapter, scale=0.05), beta=0.5, micro_batch_pairs=2)


def test_parts_of_all_processes_add_up_whether_in_step_or_not(gradients):
    sums = ClippedSums(gradients, CLIPPER)
    whole = sums(PAIRS, REFERENCE)
    assert whole.total.any()
    for in_step in (False, True):
        deals = [Deal(rank, 2, peers(), in_step=in_step) for rank in range(2)]
        first, second = (sums(PAIRS, REFERENCE, deal=deal) for deal in deals)
        assert np.array_equal(first.plus(second).total, whole.total)
        assert (first.pairs, second.pairs) in {(4, 1), (3, 2), (2, 3)}
        assert first.pairs + second.pairs == len(PAIRS)


def test_a_pair_in_doubt_keeps_all_processes_in_step(gradients, monkeypatch):
    """One process alone has pairs to shorten one by one; the others pass through as often."""
    sums = ClippedSums(gradients, CLIPPER)
    whole = sums(PAIRS, REFERENCE)
    monkeypatch.setattr(sums, "_sum", lambda _replay, _count: None)
    assert np.array_equal(sums(PAIRS, REFERENCE).total, whole.total)
    passes = []
    taken = PairGradients.graph
    monkeypatch.setattr(PairGradients, "graph", lambda *given: passes.append(1) or taken(*given))
    first = sums(PAIRS, REFERENCE, deal=Deal(0, 2, peers(most=4), in_step=True))
    made = len(passes)
    second = sums(PAIRS, REFERENCE, deal=Deal(1, 2, peers(most=4), in_step=True))
    assert made == len(passes) - made == 2 + 4, "two micro-batches, then four single pairs"
    assert np.array_equal(first.plus(second).total, whole.total)
