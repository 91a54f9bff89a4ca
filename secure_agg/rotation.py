r"""Randomized Hadamard rotation: spread a spiky vector evenly before it is put into few bits.

Rotated coordinates have nearly equal size, so a field of 16 bits or fewer wastes none on rare large
entries. The rotation is linear and keeps the Euclidean norm: the sum of rotated vectors is the
rotated sum, and a norm bound holds before and after.

For a block x of B coordinates and random signs s, the result is H (s * x) / sqrt(B) with the
Hadamard matrix H. Each coordinate is a sum of B terms +-x_i / sqrt(B) with independent signs.
Source: Ailon, Chazelle (STOC 2006); for sums of updates Suresh, Yu, Kumar, McMahan (ICML 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from secure_agg.errors import InvalidParams, LocalProtocolError
from secure_agg.kdf import Label, digest

_MAX_BLOCK_BITS: Final = 24
# Matrices of 32 to 64 rows are multiplied fastest.
_FACTOR_BITS: Final = 6


@dataclass(frozen=True, slots=True)
class Rotation:
    """One rotation, the same for every client of a round.

    Attributes:
        dimension: coordinates of a vector.
        block_bits: log2 of the block size B, 0 to 24; larger blocks spread spikes further, smaller
            ones pad less.
        seed: any bytes that all clients share; it need not be secret, but must not be known when
            the vectors are chosen if the bound is to hold against chosen vectors.
    """

    dimension: int
    block_bits: int
    seed: bytes

    def __post_init__(self) -> None:
        if self.dimension < 1 or not 0 <= self.block_bits <= _MAX_BLOCK_BITS:
            raise InvalidParams(
                f"dimension {self.dimension} must be positive and block_bits {self.block_bits} in "
                f"0..{_MAX_BLOCK_BITS}"
            )

    @property
    def rotated_dimension(self) -> int:
        """Length of a rotated vector: `dimension` rounded up to whole blocks."""
        return -(-self.dimension >> self.block_bits) << self.block_bits

    def rotate(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rotate one vector.

        Args:
            values: shape [dimension], float32.

        Returns:
            Shape [rotated_dimension], float32, with the norm of `values` up to rounding.

        Raises:
            LocalProtocolError: wrong shape or dtype.
        """
        self._check(values, self.dimension)
        padded = np.zeros(self.rotated_dimension, dtype=np.float32)
        padded[: self.dimension] = values
        _flip(padded, self._signs())
        return _hadamard(padded, self.block_bits)

    def restore(self, rotated: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rotate back, e.g. the sum of rotated vectors.

        Args:
            rotated: shape [rotated_dimension], float32.

        Returns:
            Shape [dimension], float32.

        Raises:
            LocalProtocolError: wrong shape or dtype.
        """
        self._check(rotated, self.rotated_dimension)
        values = _hadamard(rotated, self.block_bits)
        _flip(values, self._signs())
        return values[: self.dimension]

    def coordinate_bound(self, norm: float, *, failure_probability: float) -> float:
        """A bound on every rotated coordinate of a vector with Euclidean norm <= `norm`.

        It holds for all coordinates at once except with `failure_probability` over the seed
        (Hoeffding's inequality and a union bound).
        """
        spread = 2 * math.log(2 * self.rotated_dimension / failure_probability)
        return norm * min(1.0, math.sqrt(spread / (1 << self.block_bits)))

    def _signs(self) -> NDArray[np.uint8]:
        """One random bit per coordinate."""
        key = digest(Label.ROTATION, self.seed)
        count = -(-self.rotated_dimension // 8)
        stream = Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(count))
        return np.unpackbits(np.frombuffer(stream, np.uint8), count=self.rotated_dimension)

    def _check(self, values: NDArray[np.float32], length: int) -> None:
        if values.shape != (length,) or values.dtype != np.float32:
            raise LocalProtocolError(
                f"got shape {values.shape} and dtype {values.dtype}, not ({length},) float32"
            )


def choose_block_bits(dimension: int, *, max_padding_share: float = 0.02) -> int:
    """The largest block that pads at most `max_padding_share` of the vector, up to 2**24."""
    fitting = [
        bits
        for bits in range(_MAX_BLOCK_BITS + 1)
        if (-(-dimension >> bits) << bits) - dimension <= max_padding_share * dimension
    ]
    return fitting[-1]


def _flip(values: NDArray[np.float32], signs: NDArray[np.uint8]) -> None:
    """Change signs in place through the sign bit."""
    bits = values.view(np.uint32)
    np.bitwise_xor(bits, signs.astype(np.uint32) << np.uint32(31), out=bits)


def _hadamard_matrix(bits: int) -> NDArray[np.float32]:
    matrix = np.ones((1, 1), dtype=np.float32)
    step = np.array([[1, 1], [1, -1]], dtype=np.float32)
    for _ in range(bits):
        matrix = np.kron(matrix, step)
    return matrix / np.float32(math.sqrt(1 << bits))


def _hadamard(values: NDArray[np.float32], block_bits: int) -> NDArray[np.float32]:
    """Apply the normalised Hadamard matrix to every block, one small Kronecker factor at a time."""
    factors = max(1, -(-block_bits // _FACTOR_BITS))
    inner_bits = 0
    current = values
    for place in range(factors):
        bits = (block_bits - inner_bits) // (factors - place)
        matrix = _hadamard_matrix(bits)
        if inner_bits == 0:
            current = current.reshape(-1, 1 << bits) @ matrix
        else:
            current = np.matmul(matrix, current.reshape(-1, 1 << bits, 1 << inner_bits))
        inner_bits += bits
    return np.ascontiguousarray(current.reshape(-1))
