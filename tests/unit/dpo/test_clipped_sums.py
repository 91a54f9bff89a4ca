from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.utils._python_dispatch import TorchDispatchMode

from privfed_dpo.dpo.clipped_sums import SUM_METHODS, ClippedSums
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.pair_hooks import PairGraph
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.errors import ModelError
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.model.adapters import Adapter, AdapterSpec, ParameterSlot
from tests.support.toy_models import make_pair, shaken, toy_model, toy_pairs

BETA = 0.5
PAIRS = toy_pairs(9, seed=3)
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Norms of these pairs lie between 3 and 60, so some are clipped and some are not.
CLIPPER = PairClipper(max_grad_norm=15.0, sensitivity_steps=1 << 16)


def _gradients(*, form="auto", micro_batch_pairs=4, rank=4, **settings):
    adapter = Adapter.attach(toy_model("llama"), AdapterSpec(rank=rank, target_modules=ALL_LINEAR))
    shaken(adapter, scale=0.05)
    return PairGradients(
        adapter, beta=BETA, form=form, micro_batch_pairs=micro_batch_pairs, **settings
    )


def _reference(gradients, pairs=PAIRS):
    return ReferenceLogprobs(gradients.adapter, fingerprint="toy")(pairs)


def _materialised(gradients, pairs, reference, clipper=CLIPPER):
    total = clipper.empty(gradients.adapter.dimension)
    for rows in gradients(pairs, reference):
        total = total.plus(clipper.clip(rows))
    return total


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("form", ["packed", "two_forward"])
@pytest.mark.parametrize("method", SUM_METHODS)
def test_the_integers_are_those_of_the_materialised_rows(method, form, checkpointing):
    gradients = _gradients(form=form, gradient_checkpointing=checkpointing)
    reference = _reference(gradients)
    norms = torch.cat([rows.norm(dim=1) for rows in gradients(PAIRS, reference)])
    assert norms.min() < CLIPPER.max_grad_norm < norms.max()
    expected = _materialised(gradients, PAIRS, reference)
    found = ClippedSums(gradients, CLIPPER, method=method)(PAIRS, reference)
    assert found.total.dtype == np.int64
    assert np.array_equal(found.total, expected.total)
    assert (found.pairs, found.non_finite) == (9, 0)


@pytest.mark.parametrize("steps", [1, 37, 1 << 30])
@pytest.mark.parametrize("method", SUM_METHODS)
def test_every_grid_gives_the_same_integers(method, steps):
    gradients = _gradients(micro_batch_pairs=9)
    reference = _reference(gradients)
    clipper = PairClipper(max_grad_norm=0.3, sensitivity_steps=steps)
    found = ClippedSums(gradients, clipper, method=method)(PAIRS, reference)
    assert np.array_equal(found.total, _materialised(gradients, PAIRS, reference, clipper).total)


@pytest.mark.parametrize("method", SUM_METHODS)
def test_one_pair_moves_the_sum_by_no_more_than_the_sensitivity(method):
    gradients = _gradients()
    sums = ClippedSums(gradients, CLIPPER, method=method)
    reference = _reference(gradients)
    extreme = make_pair([5] * 3, [11] * 30, [12] * 30)
    without = sums(PAIRS, reference)
    fixed = np.concatenate([reference, [[0.0, -500.0]]]).astype(np.float32)
    moved = sums([*PAIRS, extreme], fixed).total - without.total
    # Micro-batches are other ones, so float32 rounding moves the rest by a few steps.
    alone = sums([extreme], fixed[-1:]).total
    assert 0.9 * CLIPPER.sensitivity_steps < np.linalg.norm(alone) <= CLIPPER.sensitivity_steps
    assert np.linalg.norm(moved - alone) < 1e-3 * CLIPPER.sensitivity_steps


@pytest.mark.parametrize("method", SUM_METHODS)
def test_a_pair_that_is_not_a_number_counts_as_zero(method):
    gradients = _gradients(micro_batch_pairs=9)
    reference = _reference(gradients)
    others = [i for i in range(9) if i != 4]
    good = ClippedSums(gradients, CLIPPER, method=method)(
        [PAIRS[i] for i in others], reference[others]
    )
    reference[4, 1] = np.nan
    found = ClippedSums(gradients, CLIPPER, method=method)(PAIRS, reference)
    assert (found.pairs, found.non_finite) == (9, 1)
    assert np.array_equal(found.total, _materialised(gradients, PAIRS, reference).total)
    # Batches of 8 and 9 rows round differently in float32.
    assert np.abs(found.total - good.total).max() <= 2 * 8


@pytest.mark.parametrize("method", SUM_METHODS)
def test_no_pairs_give_zeros_and_never_reach_the_model(method, monkeypatch):
    gradients = _gradients()
    monkeypatch.setattr(gradients.scorer, "logprobs", lambda _b: pytest.fail("model was called"))
    found = ClippedSums(gradients, CLIPPER, method=method)([], np.zeros((0, 2), dtype=np.float32))
    assert (found.pairs, found.non_finite) == (0, 0)
    assert not found.total.any()
    assert found.total.shape == (gradients.adapter.dimension,)


class _LargestTensor(TorchDispatchMode):
    """Remembers the most elements of any tensor made, by type."""

    def __init__(self):
        super().__init__()
        self.elements = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                known = self.elements.get(tensor.dtype, 0)
                self.elements[tensor.dtype] = max(known, tensor.numel())
        return made


def test_no_method_makes_wide_rows_of_all_weights_and_two_passes_make_none_at_all():
    gradients = _gradients(rank=32, micro_batch_pairs=9)
    reference = _reference(gradients)
    everything = 9 * gradients.adapter.dimension
    largest = {}
    for method in SUM_METHODS:
        sums = ClippedSums(gradients, CLIPPER, method=method)
        with _LargestTensor() as seen:
            sums(PAIRS, reference)
        largest[method] = seen.elements
    with _LargestTensor() as seen:
        _materialised(gradients, PAIRS, reference)
    # The control: rows and their copies are found by this measure.
    assert seen.elements[torch.float32] == seen.elements[torch.float64] == everything
    slot = 9 * max(s.stop - s.start for s in gradients.adapter.layout)
    for elements in largest.values():
        assert elements[torch.float64] == max(slot, gradients.adapter.dimension)
    assert largest["two_pass"][torch.float32] < everything / 4


@pytest.mark.parametrize("factor", [1.5, np.inf, np.nan, 1e30])
@pytest.mark.parametrize("method", SUM_METHODS)
def test_the_bound_holds_where_a_second_look_differs_from_the_first(method, factor, monkeypatch):
    # As on devices whose kernels add in a different order every time, only worse.
    gradients = _gradients(micro_batch_pairs=1)
    reference = _reference(gradients)
    sums = ClippedSums(gradients, CLIPPER, method=method)
    expected = _materialised(gradients, PAIRS[:1], reference[:1])
    looks = []

    def disturbed(rows):
        looks.append(rows)
        return rows * factor if len(looks) > len(gradients.adapter.layout) else rows

    original = ClippedSums._sum

    def with_other_second_look(self, replay, count):
        return original(
            self, lambda receive: replay(lambda i, rows: receive(i, disturbed(rows))), count
        )

    monkeypatch.setattr(ClippedSums, "_sum", with_other_second_look)
    found = sums(PAIRS[:1], reference[:1])
    assert len(looks) == 2 * len(gradients.adapter.layout)
    assert (found.total**2).sum() <= CLIPPER.sensitivity_steps**2
    assert np.array_equal(found.total, expected.total)


def test_two_passes_walk_the_graph_twice_and_rows_once(monkeypatch):
    walks = []
    original = PairGraph.backward

    def counted(self, receive, *, keep=False):
        walks.append(keep)
        original(self, receive, keep=keep)

    gradients = _gradients(micro_batch_pairs=9)
    reference = _reference(gradients)
    monkeypatch.setattr(PairGraph, "backward", counted)
    for method in SUM_METHODS:
        ClippedSums(gradients, CLIPPER, method=method)(PAIRS, reference)
    assert walks == [False, True, True]


def test_what_has_no_meaning_is_refused():
    gradients = _gradients()
    with pytest.raises(ModelError, match="not a way to sum"):
        ClippedSums(gradients, CLIPPER, method="ghost")
    with pytest.raises(ModelError, match="reference log-probabilities"):
        ClippedSums(gradients, CLIPPER)(PAIRS, np.zeros((3, 2)))


def _on_slots(rows, clipper):
    """The sum over rows that come in two slots, without any model."""
    count, size = rows.shape
    cut = size // 2
    layout = (ParameterSlot("a", (cut,), 0, cut), ParameterSlot("b", (size - cut,), cut, size))
    adapter = SimpleNamespace(layout=layout, dimension=size, device=torch.device("cpu"))
    sums = ClippedSums(SimpleNamespace(adapter=adapter), clipper)

    def replay(receive):
        for index, slot in enumerate(layout):
            receive(index, rows[:, slot.start : slot.stop])

    return sums._sum(replay, count)


ANY_FLOAT = st.floats(width=32, allow_nan=True, allow_infinity=True)
ORDINARY = st.floats(-4, 4, width=32)


@settings(max_examples=300, deadline=None)
@given(
    rows=arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=ORDINARY)
    | arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=ANY_FLOAT),
    norm=st.floats(1e-3, 1e3),
    steps=st.integers(1, 1 << 30),
)
def test_any_rows_become_the_clippers_integers_or_are_left_to_it(rows, norm, steps):
    clipper = PairClipper(norm, steps)
    found = _on_slots(torch.from_numpy(rows), clipper)
    expected, bad = clipper.integer_rows(torch.from_numpy(rows))
    if found is None:
        # Only a row that reaches the bound, as far as float64 can tell, is left to the clipper.
        assert ((np.abs(expected) + 1.0) ** 2).sum(axis=1).max() >= steps**2 * (1 - 1e-9)
        return
    assert found.non_finite == bad
    # Norms are added up in another order, so a value on a grid point may fall to either side.
    assert np.abs(found.total - expected.sum(axis=0)).max() <= len(rows)
    if len(rows) == 1:
        assert sum(int(step) ** 2 for step in found.total) <= steps**2


def test_a_row_of_exactly_the_bound_is_left_to_the_clipper():
    # 3, 4 and 5: the integers have the length of the bound itself, and rounding room beyond it.
    row = torch.tensor([[3.0, 4.0]])
    assert _on_slots(row, PairClipper(5.0, 5)) is None
    assert _on_slots(row, PairClipper(5.0, 6)).total.tolist() == [3, 4]
    assert PairClipper(5.0, 5).clip(row).total.tolist() == [3, 4]
