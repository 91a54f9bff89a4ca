"""Masks are the AES-256-CTR stream, they cancel, and threads change nothing."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from secure_agg import LocalProtocolError
from secure_agg.keys import AgreementKey
from secure_agg.mask import CHUNK_BYTES, apply_masks, pair_mask_seed, self_mask_seed
from tests.support.secagg_rounds import entropy_from

SEEDS = [bytes([i]) * 32 for i in range(5)]


def stream_by_hand(seed: bytes, length: int) -> bytes:
    """Counter mode spelled out: encrypt 0, 1, 2, ... as 16-byte big-endian blocks."""
    counters = b"".join(i.to_bytes(16, "big") for i in range(-(-length // 16)))
    return Cipher(AES(seed), ECB()).encryptor().update(counters)[:length]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 1000])
def test_the_mask_is_the_counter_mode_stream_in_little_endian_words(dtype, length):
    vector = np.zeros(length, dtype=dtype)
    apply_masks(vector, add=[SEEDS[1]])
    expected = np.frombuffer(stream_by_hand(SEEDS[1], vector.nbytes), dtype=vector.dtype)
    np.testing.assert_array_equal(vector, expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_masks_across_chunks_match_the_stream(dtype):
    length = 2 * CHUNK_BYTES // np.dtype(dtype).itemsize + 5
    vector = np.full(length, 3, dtype=dtype)
    apply_masks(vector, subtract=[SEEDS[2]])
    stream = np.frombuffer(stream_by_hand(SEEDS[2], vector.nbytes), dtype=dtype)
    np.testing.assert_array_equal(vector, np.full(length, 3, dtype=dtype) - stream)


def test_adding_and_subtracting_the_same_masks_changes_nothing():
    vector = np.arange(100_003, dtype=np.uint32)
    masked = vector.copy()
    apply_masks(masked, add=SEEDS[:3], subtract=SEEDS[3:])
    assert np.count_nonzero(masked == vector) < 5
    apply_masks(masked, add=SEEDS[3:], subtract=SEEDS[:3])
    np.testing.assert_array_equal(masked, vector)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_give_the_same_bytes(threads):
    length = 5 * CHUNK_BYTES // 4 + 17
    one, many = np.zeros(length, np.uint32), np.zeros(length, np.uint32)
    apply_masks(one, add=SEEDS[:2], subtract=SEEDS[2:])
    apply_masks(many, add=SEEDS[:2], subtract=SEEDS[2:], threads=threads)
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("shift", [0, 1, 3, 4])
def test_words_off_their_boundaries_are_masked_alike(shift):
    """As inside a message, where the header decides where the words begin."""
    size = 4 * (CHUNK_BYTES // 4 + 5)
    raw = bytearray(shift + size)
    inside = np.frombuffer(raw, dtype=np.uint32, count=size // 4, offset=shift)
    plain = np.zeros(size // 4, np.uint32)
    for vector in (inside, plain):
        apply_masks(vector, add=SEEDS[:2], subtract=SEEDS[2:])
    np.testing.assert_array_equal(inside, plain)


def test_no_vector_no_masks():
    apply_masks(np.zeros(0, np.uint32), add=SEEDS)


def test_a_strided_vector_or_no_thread_is_refused():
    with pytest.raises(LocalProtocolError):
        apply_masks(np.zeros(10, np.uint32)[::2], add=SEEDS)
    with pytest.raises(LocalProtocolError):
        apply_masks(np.zeros(10, np.uint32), add=SEEDS, threads=0)


def test_both_ends_derive_one_pair_seed_bound_to_round_and_pair():
    one, two = (AgreementKey.generate(entropy_from(name)) for name in "ab")
    seed = pair_mask_seed(one, two.public, b"round", 3, 9)
    assert seed == pair_mask_seed(two, one.public, b"round", 9, 3)
    assert seed != pair_mask_seed(one, two.public, b"other", 3, 9)
    assert seed != pair_mask_seed(one, two.public, b"round", 3, 8)
    assert self_mask_seed(bytes(32), b"round", 3) != self_mask_seed(bytes(32), b"round", 4)
    assert self_mask_seed(bytes(32), b"round", 3) != self_mask_seed(bytes(32), b"other", 3)
