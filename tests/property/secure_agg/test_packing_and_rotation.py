"""Packed sums are exact sums; a rotation keeps norms and spreads spikes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_agg import InvalidParams, LocalProtocolError
from secure_agg.packing import FieldLayout, choose_layout
from secure_agg.rotation import Rotation, choose_block_bits


@st.composite
def packed_sums(draw):
    low = draw(st.integers(-(2**20), 2**20))
    high = low + draw(st.integers(0, 2**22))
    clients = draw(st.integers(1, 9))
    dimension = draw(st.integers(1, 50))
    layout = choose_layout(dimension=dimension, low=low, high=high, clients=clients)
    contributors = draw(st.integers(1, clients))
    values = [
        np.array(
            draw(st.lists(st.integers(low, high), min_size=dimension, max_size=dimension)),
            dtype=np.int64,
        )
        for _ in range(contributors)
    ]
    return layout, values


@settings(max_examples=100, deadline=None)
@given(packed_sums())
def test_the_unpacked_sum_of_packed_vectors_is_the_sum_of_the_vectors(case):
    layout, values = case
    total = np.zeros(layout.words, dtype=layout.pack(values[0]).dtype)
    for vector in values:
        total += layout.pack(vector)
    np.testing.assert_array_equal(layout.unpack_sum(total, len(values)), np.sum(values, axis=0))


@pytest.mark.parametrize("extreme", ["low", "high"])
@pytest.mark.parametrize(("low", "high", "clients"), [(0, 655, 100), (-7, 20964, 100), (-1, 0, 3)])
def test_headroom_holds_at_the_extremes(low, high, clients, extreme):
    """Everyone sends the largest (smallest) value in every coordinate: still nothing spills."""
    layout = choose_layout(dimension=11, low=low, high=high, clients=clients)
    value = low if extreme == "low" else high
    packed = layout.pack(np.full(11, value, dtype=np.int64))
    total = np.zeros_like(packed)
    for _ in range(clients):
        total += packed
    np.testing.assert_array_equal(layout.unpack_sum(total, clients), np.full(11, clients * value))


@pytest.mark.parametrize(
    ("levels", "clients", "bytes_per_coordinate"),
    [
        (656, 100, 2.0),
        (20_972, 100, 8 / 3),
        (1 << 22, 1000, 4.0),
        (1 << 22, 10, 4.0),
        (2, 7, 0.375),
    ],
)
def test_the_densest_word_is_chosen(levels, clients, bytes_per_coordinate):
    """By hand: 100 clients with 656 levels reach 65500 < 2**16, with 20972 levels 2097100 < 2**21
    (three fields in 64 bits); 22-bit levels of 1000 clients need 32 bits; 7 bits go 5 times into
    16 bits but 21 times into 64, 8/21; a 3-bit field 5 times into 16 (0.4) and 21 into 64 (0.381).
    """
    layout = choose_layout(dimension=10**6, low=0, high=levels - 1, clients=clients)
    assert layout.bytes_per_coordinate == pytest.approx(bytes_per_coordinate, rel=0.02)


def test_one_level_more_needs_another_word():
    tight = choose_layout(dimension=8, low=0, high=655, clients=100)
    assert (tight.field_bits, tight.modulus_bits) == (16, 16)
    wider = choose_layout(dimension=8, low=0, high=656, clients=100)
    assert wider.field_bits == 17


@pytest.mark.parametrize(
    "layout",
    [
        (4, 0, 1000, 100, 16, 16),
        (4, 0, 64, 4, 8, 16),  # four times 64 is exactly 2**8: one too many
        (4, 0, 1, 3, 0, 16),
        (4, 0, 1, 3, 17, 16),
        (4, 5, 4, 3, 8, 16),
        (0, 0, 1, 3, 8, 16),
        (4, 0, 1, 3, 8, 24),
        (4, 2**62, 2**62, 4, 8, 16),
    ],
)
def test_layouts_that_could_wrap_are_refused(layout):
    with pytest.raises(InvalidParams):
        FieldLayout(*layout)


def test_a_range_too_wide_for_any_word_is_refused():
    with pytest.raises(InvalidParams, match="need 65 bits"):
        choose_layout(dimension=4, low=0, high=2**63, clients=2)
    with pytest.raises(InvalidParams, match="more than a word of 16"):
        choose_layout(dimension=4, low=0, high=2**16, clients=2, modulus_bits=16)


def test_values_out_of_range_are_refused_and_never_clipped():
    layout = choose_layout(dimension=2, low=-1, high=1, clients=3)
    for values in ([0, 2], [-2, 0]):
        with pytest.raises(LocalProtocolError, match="outside"):
            layout.pack(np.array(values))
    with pytest.raises(LocalProtocolError):
        layout.pack(np.array([0.0, 1.0]))
    with pytest.raises(LocalProtocolError):
        layout.pack(np.array([0, 1, 0]))
    packed = layout.pack(np.array([0, 1]))
    with pytest.raises(LocalProtocolError):
        layout.unpack_sum(packed, 4)
    with pytest.raises(LocalProtocolError):
        layout.unpack_sum(packed.astype(np.uint32), 1)


def hadamard_by_definition(bits):
    """H[i, j] = (-1)^popcount(i & j) / sqrt(2^bits)."""
    size = 1 << bits
    return np.array(
        [[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)]
    ) / math.sqrt(size)


@pytest.mark.parametrize("bits", [0, 1, 3, 6, 7, 9])
def test_the_rotation_is_the_hadamard_matrix_after_random_signs(bits):
    rotation = Rotation(1 << bits, bits, b"seed")
    rows = np.eye(1 << bits, dtype=np.float32)
    signs = 1 - 2 * rotation._signs().astype(np.int64)
    images = np.array([rotation.rotate(row) for row in rows])
    np.testing.assert_allclose(images, signs[:, None] * hadamard_by_definition(bits), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 11), st.binary(max_size=8), st.integers(0, 2**32))
def test_rotation_keeps_norms_sums_and_can_be_undone(dimension, bits, seed, number):
    rotation = Rotation(dimension, bits, seed)
    one, two = np.random.default_rng(number).normal(size=(2, dimension)).astype(np.float32)
    rotated = rotation.rotate(one)
    assert rotated.shape == (rotation.rotated_dimension,)
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(one), rel=1e-4)
    summed = rotation.restore(rotated + rotation.rotate(two))
    np.testing.assert_allclose(summed, one + two, atol=1e-3)


def test_a_spike_is_spread_below_the_stated_bound():
    rotation = Rotation(1 << 14, 14, b"seed")
    spikes = np.zeros(1 << 14, dtype=np.float32)
    spikes[[3, 4000, 9000]] = (10.0, -7.0, 1.0)
    norm = float(np.linalg.norm(spikes))
    bound = rotation.coordinate_bound(norm, failure_probability=1e-9)
    assert np.abs(rotation.rotate(spikes)).max() <= bound < norm / 10


def test_the_bound_is_neither_wrong_nor_idle():
    """At failure probability 1/2 a spiky-enough vector comes within a factor 2 of the bound."""
    generator = np.random.default_rng(0)
    rotation = Rotation(1 << 12, 12, b"s")
    values = generator.normal(size=1 << 12).astype(np.float32)
    norm = float(np.linalg.norm(values))
    bound = rotation.coordinate_bound(norm, failure_probability=0.5)
    largest = np.abs(rotation.rotate(values)).max()
    assert bound / 2 < largest < bound * 1.2


def test_blocks_pad_little():
    assert choose_block_bits(1 << 20) == 20
    for dimension in (1, 3, 1000, 10**6, 12_345_678):
        bits = choose_block_bits(dimension)
        padded = Rotation(dimension, bits, b"").rotated_dimension
        assert dimension <= padded <= dimension * 1.02


def test_wrong_shapes_and_sizes_are_refused():
    rotation = Rotation(8, 3, b"")
    with pytest.raises(LocalProtocolError):
        rotation.rotate(np.zeros(8))
    with pytest.raises(LocalProtocolError):
        rotation.restore(np.zeros(7, dtype=np.float32))
    with pytest.raises(InvalidParams):
        Rotation(0, 3, b"")
    with pytest.raises(InvalidParams):
        Rotation(8, 25, b"")
