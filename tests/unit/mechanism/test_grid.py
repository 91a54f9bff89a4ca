import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privfed_dpo.mechanism.grid import Grid, fits


@pytest.mark.parametrize("bits", [32, 64])
@given(data=st.data())
def test_ring_round_trip_is_exact_inside_the_range(bits, data):
    grid = Grid(steps_per_unit=4.0, bits=bits)
    reach = 2 ** (bits - 1)
    steps = data.draw(
        hnp.arrays(np.int64, st.integers(0, 20), elements=st.integers(-reach, reach - 1))
    )
    assert np.array_equal(grid.from_ring(grid.to_ring(steps)), steps)


@given(
    hnp.arrays(np.int64, (6, 5), elements=st.integers(-(2**27), 2**27)),
)
def test_a_sum_in_the_ring_lifts_to_the_integer_sum(vectors):
    grid = Grid(steps_per_unit=1.0, bits=32)
    ring = np.zeros(5, dtype=grid.dtype)
    for vector in vectors:
        ring = ring + grid.to_ring(vector)
    assert np.array_equal(grid.from_ring(ring), vectors.sum(axis=0))


def test_headroom_is_refused_where_a_sum_could_wrap():
    # 2^31 = 2147483648; signal 2^30 leaves 2^30 - 1 for 12 sigma: sigma < 89478485.25.
    assert fits(32, largest_signal_steps=2**30, noise_stddev_steps=89_478_485.0)
    assert not fits(32, largest_signal_steps=2**30, noise_stddev_steps=89_478_486.0)


def test_a_bounded_vector_is_held_and_counted():
    grid = Grid(steps_per_unit=10.0, bits=64)
    steps, held = grid.encode_bounded(np.array([0.26, -3.0, 0.0]), limit=1.0)
    assert steps.tolist() == [3, -10, 0]
    assert held == 1
    assert grid.to_units(steps).tolist() == [0.3, -1.0, 0.0]
    with pytest.raises(ValueError, match="NaN"):
        grid.encode_bounded(np.array([np.nan]), limit=1.0)


@pytest.mark.parametrize(("steps", "bits"), [(0.0, 32), (1.0, 16), (float("inf"), 64)])
def test_impossible_grids_are_refused(steps, bits):
    with pytest.raises(ValueError):
        Grid(steps_per_unit=steps, bits=bits)
