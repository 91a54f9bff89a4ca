"""Masks: a 32-byte seed becomes a keystream that is added to a vector, word by word.

The stream is AES-256 in counter mode from block 0, read as little-endian words. Adding whole words
modulo 2**modulus_bits makes every masked word uniform, whatever the plain word is.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from secure_agg.errors import LocalProtocolError
from secure_agg.kdf import Label, derive_key, u32
from secure_agg.keys import AgreementKey
from secure_agg.types import ClientId, RingVector

# Large enough to hide the cost of a call, small enough to stay in the second-level cache.
CHUNK_BYTES: Final = 128 * 1024
_BLOCK_BYTES: Final = 16


def self_mask_seed(secret: bytes, params_digest: bytes, client: ClientId) -> bytes:
    """Seed of the mask that only `client` adds, 32 bytes."""
    return derive_key(Label.SELF_MASK, secret, params_digest, u32(client))


def pair_mask_seed(
    key: AgreementKey, peer_public: bytes, params_digest: bytes, client: ClientId, peer: ClientId
) -> bytes:
    """Seed of the mask that `client` and `peer` add with opposite signs, 32 bytes.

    Both ends derive the same seed; whoever has the smaller id adds, the other subtracts.
    """
    low, high = sorted((client, peer))
    shared = key.agree(peer_public)
    return derive_key(Label.PAIR_MASK, shared, params_digest, u32(low), u32(high))


def apply_masks(
    vector: RingVector,
    *,
    add: Sequence[bytes] = (),
    subtract: Sequence[bytes] = (),
    threads: int = 1,
) -> None:
    """Add and subtract whole masks in place, modulo the word size.

    Args:
        vector: contiguous, shape [d], dtype uint16, uint32 or uint64; changed in place.
        add: 32-byte seeds of masks to add.
        subtract: 32-byte seeds of masks to subtract.
        threads: coordinate ranges worked on at the same time; the cipher and the addition release
            the interpreter lock.

    Raises:
        LocalProtocolError: the vector is not contiguous or `threads` is below 1.
    """
    if not vector.flags.c_contiguous or threads < 1:
        raise LocalProtocolError("masks need a contiguous vector and at least one thread")
    words_per_chunk = CHUNK_BYTES // vector.itemsize
    chunks = -(-len(vector) // words_per_chunk)
    per_thread = -(-chunks // threads) * words_per_chunk
    starts = range(0, len(vector), max(per_thread, 1))
    if len(starts) <= 1:
        _mask_range(vector, 0, add, subtract)
        return
    with ThreadPoolExecutor(len(starts)) as pool:
        jobs = [
            pool.submit(_mask_range, vector[start : start + per_thread], start, add, subtract)
            for start in starts
        ]
        for job in jobs:
            job.result()


def _stream(seed: bytes, offset_bytes: int) -> CipherContext:
    counter = (offset_bytes // _BLOCK_BYTES).to_bytes(_BLOCK_BYTES, "big")
    return Cipher(AES256(seed), CTR(counter)).encryptor()


def _mask_range(
    part: RingVector, first_word: int, add: Sequence[bytes], subtract: Sequence[bytes]
) -> None:
    """Mask one coordinate range; chunks outside, masks inside, so that a chunk stays in cache."""
    offset_bytes = first_word * part.itemsize
    streams: list[tuple[CipherContext, np.ufunc]] = [
        (_stream(seed, offset_bytes), np.add) for seed in add
    ]
    streams += [(_stream(seed, offset_bytes), np.subtract) for seed in subtract]
    zeros = bytes(CHUNK_BYTES)
    keystream = bytearray(CHUNK_BYTES)
    words = np.frombuffer(keystream, dtype=part.dtype.newbyteorder("<"))
    # Words inside a message rarely lie on their boundaries; adding there would cost half as much
    # again, so such chunks are masked in a copy.
    copy = None if part.flags.aligned else np.empty(len(words), dtype=part.dtype)
    for start in range(0, len(part), len(words)):
        chunk = part[start : start + len(words)]
        plain = memoryview(zeros)[: chunk.nbytes]
        target = memoryview(keystream)[: chunk.nbytes]
        mask = words[: len(chunk)]
        masked = chunk if copy is None else copy[: len(chunk)]
        if copy is not None:
            masked[:] = chunk
        for stream, operation in streams:
            stream.update_into(plain, target)
            operation(masked, mask, out=masked)
        if copy is not None:
            chunk[:] = masked
