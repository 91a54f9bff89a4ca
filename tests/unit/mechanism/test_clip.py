import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.mechanism.clip import PairClipper


def test_hand_derived_clip_and_truncation():
    """C = 1 is 10 steps. (3, 4) has norm 5, so it scales by 10/5 to (6, 8).

    (0.35, -0.19) has norm 0.398 < 1, is not clipped, and truncates (3.5, -1.9) to (3, -1).
    """
    clipper = PairClipper(max_grad_norm=1.0, sensitivity_steps=10)
    rows, bad = clipper.integer_rows(torch.tensor([[3.0, 4.0], [0.35, -0.19]]))
    assert rows.tolist() == [[6, 8], [3, -1]]
    assert bad == 0
    assert clipper.clip(torch.tensor([[3.0, 4.0], [0.35, -0.19]])).total.tolist() == [9, 7]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    dimension=st.integers(1, 300),
    log_scale=st.floats(-30, 30),
    bound=st.floats(1e-3, 1e3),
    steps=st.integers(1, 2**30),
)
def test_integer_norm_of_a_pair_never_exceeds_the_bound(seed, dimension, log_scale, bound, steps):
    rng = np.random.default_rng(seed)
    gradients = torch.from_numpy(rng.normal(size=(3, dimension)) * 10.0**log_scale)
    rows, _ = PairClipper(max_grad_norm=bound, sensitivity_steps=steps).integer_rows(gradients)
    for row in rows:
        assert sum(int(v) ** 2 for v in row) <= steps**2


def test_clipping_keeps_nearly_the_whole_allowed_norm():
    clipper = PairClipper(max_grad_norm=0.1, sensitivity_steps=2**20)
    gradients = torch.randn(4, 2000, generator=torch.Generator().manual_seed(0)) * 50
    rows, _ = clipper.integer_rows(gradients)
    norms = np.sqrt((rows.astype(float) ** 2).sum(axis=1))
    assert (norms > 0.9999 * 2**20).all()


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_non_finite_pair_becomes_zero_and_is_counted(poison):
    clipper = PairClipper(max_grad_norm=1.0, sensitivity_steps=1000)
    good = torch.tensor([[0.5, 0.25, 0.0]])
    mixed = torch.tensor([[0.5, 0.25, 0.0], [1.0, poison, 2.0]])
    clipped = clipper.clip(mixed)
    assert clipped.non_finite == 1
    assert np.array_equal(clipped.total, clipper.clip(good).total)


def test_huge_and_tiny_gradients_keep_their_direction():
    clipper = PairClipper(max_grad_norm=1.0, sensitivity_steps=1000)
    huge = clipper.clip(torch.tensor([[1e200, -1e200]], dtype=torch.float64))
    assert huge.total.tolist() == [707, -707]
    tiny = clipper.clip(torch.tensor([[1e-300, 0.0]], dtype=torch.float64))
    assert tiny.total.tolist() == [0, 0]


def test_micro_batches_add_up_to_the_same_integer_sum():
    clipper = PairClipper(max_grad_norm=0.3, sensitivity_steps=2**18)
    gradients = torch.randn(17, 64, generator=torch.Generator().manual_seed(3))
    whole = clipper.clip(gradients)
    parts = clipper.empty(64)
    for start in range(0, 17, 5):
        parts = parts.plus(clipper.clip(gradients[start : start + 5]))
    assert np.array_equal(whole.total, parts.total)
    assert whole.pairs == parts.pairs == 17


def test_rows_that_are_not_a_matrix_are_refused():
    with pytest.raises(ValueError, match="pairs"):
        PairClipper(max_grad_norm=1.0, sensitivity_steps=8).clip(torch.zeros(3))


def test_the_repr_shows_no_gradient():
    text = repr(PairClipper(max_grad_norm=1.0, sensitivity_steps=8).clip(torch.ones(1, 3)))
    assert "secret" in text
    assert "[" not in text


def test_a_bound_that_would_scale_by_infinity_is_refused():
    """2^30 / 1e-300 is infinite: zero rows became NaN, and -2^63 as integers."""
    with pytest.raises(ValueError, match="too small for a grid"):
        PairClipper(1e-300, 1 << 30)
    least = PairClipper(1e-290, 1 << 30)
    rows = torch.tensor([[0.0, 0.0], [float("nan"), 1.0]])
    assert not least.clip(rows).total.any()
