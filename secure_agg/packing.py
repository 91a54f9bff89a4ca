"""Several small fields in one ring word, so that mask, addition and wire shrink together.

A field is wide enough for the sum of all clients, so fields of the final sum cannot spill into each
other. Words are masked whole, modulo their size: while the sum is incomplete the fields mean
nothing, and that is the point. Field j of word i holds coordinate j * words + i ("planar").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from secure_agg.errors import InvalidParams, LocalProtocolError
from secure_agg.params import WORD_DTYPES
from secure_agg.types import RingVector

_WORD_BITS: Final = (16, 32, 64)
# Few enough words that a chunk and its scratch stay in the second-level cache.
_CHUNK_WORDS: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class FieldLayout:
    """How coordinates lie in words; `choose_layout` proves that sums fit.

    Attributes:
        dimension: coordinates per vector.
        low: smallest value a client may send in a coordinate.
        high: largest value.
        clients: most clients in a sum.
        field_bits: width of a field.
        modulus_bits: width of a word.
    """

    dimension: int
    low: int
    high: int
    clients: int
    field_bits: int
    modulus_bits: int

    def __post_init__(self) -> None:
        problems = []
        if self.dimension < 1 or self.clients < 1:
            problems.append("dimension and clients must be at least 1")
        if self.low > self.high:
            problems.append(f"empty range {self.low}..{self.high}")
        if self.modulus_bits not in _WORD_BITS:
            problems.append(f"modulus_bits is {self.modulus_bits}, not one of {_WORD_BITS}")
        if not 0 < self.field_bits <= self.modulus_bits:
            problems.append(f"a field of {self.field_bits} bits in {self.modulus_bits}-bit words")
        elif self.clients * (self.high - self.low) >= 1 << self.field_bits:
            problems.append(
                f"{self.clients} clients with values {self.low}..{self.high} can reach "
                f"{self.clients * (self.high - self.low)}, more than {self.field_bits} bits hold"
            )
        if self.clients * max(abs(self.low), abs(self.high)) > np.iinfo(np.int64).max:
            problems.append("the plain sum does not fit a signed 64-bit integer")
        if problems:
            raise InvalidParams(*problems)

    @property
    def fields_per_word(self) -> int:
        """Coordinates in one word."""
        return self.modulus_bits // self.field_bits

    @property
    def words(self) -> int:
        """Length of the packed vector: `vector_length` of the protocol."""
        return -(-self.dimension // self.fields_per_word)

    @property
    def bytes_per_coordinate(self) -> float:
        """Wire size per coordinate, without the frame."""
        return self.words * self.modulus_bits / 8 / self.dimension

    def pack(self, values: NDArray[np.signedinteger[Any]]) -> RingVector:
        """Put one client's integers into words.

        Args:
            values: shape [dimension], any integer dtype, every entry in low..high.

        Returns:
            Shape [words], dtype of the ring.

        Raises:
            LocalProtocolError: wrong shape or dtype, or a value out of range; nothing is clipped,
                since a silent clip would hide a bug and a silent wrap would spoil a neighbour.
        """
        if values.shape != (self.dimension,) or not np.issubdtype(values.dtype, np.integer):
            raise LocalProtocolError(
                f"got shape {values.shape} and dtype {values.dtype}, not ({self.dimension},) "
                "integers"
            )
        dtype = np.dtype(WORD_DTYPES[self.modulus_bits])
        words = np.empty(self.words, dtype=dtype)
        offset = dtype.type(-self.low % (1 << self.modulus_bits))
        scratch = np.empty(min(self.words, _CHUNK_WORDS), dtype=dtype)
        for start in range(0, self.words, _CHUNK_WORDS):
            chunk = words[start : start + _CHUNK_WORDS]
            for place in range(self.fields_per_word):
                first = place * self.words + start
                plane = values[first : min(first + len(chunk), (place + 1) * self.words)]
                if not plane.size:
                    continue
                self._check_range(plane)
                field = chunk if place == 0 else scratch[: len(plane)]
                np.copyto(field, plane, casting="unsafe")
                field += offset
                if place:
                    field <<= dtype.type(place * self.field_bits)
                    chunk[: len(plane)] |= field
        return words

    def _check_range(self, plane: NDArray[np.signedinteger[Any]]) -> None:
        if int(plane.min()) < self.low or int(plane.max()) > self.high:
            raise LocalProtocolError(f"a value lies outside {self.low}..{self.high}")

    def unpack_sum(self, total: RingVector, contributors: int) -> NDArray[np.int64]:
        """Read the sum of the clients' integers out of the summed words.

        Args:
            total: shape [words], the aggregate.
            contributors: how many clients are in it: `len(result.survivors)`.

        Returns:
            Shape [dimension], int64.

        Raises:
            LocalProtocolError: wrong shape or dtype, or more contributors than planned for.
        """
        dtype = np.dtype(WORD_DTYPES[self.modulus_bits])
        if total.shape != (self.words,) or total.dtype != dtype:
            raise LocalProtocolError(
                f"got shape {total.shape} and dtype {total.dtype}, not ({self.words},) {dtype}"
            )
        if not 0 < contributors <= self.clients:
            raise LocalProtocolError(
                f"{contributors} contributors, the layout was made for 1 to {self.clients}"
            )
        values = np.empty(self.dimension, dtype=np.int64)
        field = dtype.type((1 << self.field_bits) - 1)
        for start in range(0, self.words, _CHUNK_WORDS):
            chunk = total[start : start + _CHUNK_WORDS]
            for place in range(self.fields_per_word):
                first = place * self.words + start
                plane = values[first : min(first + len(chunk), (place + 1) * self.words)]
                part = chunk[: len(plane)] >> dtype.type(place * self.field_bits)
                part &= field
                np.copyto(plane, part, casting="unsafe")
                plane += contributors * self.low
        return values


def choose_layout(
    *, dimension: int, low: int, high: int, clients: int, modulus_bits: int | None = None
) -> FieldLayout:
    """The layout with the fewest bytes per coordinate that can never overflow.

    A field needs b bits with `clients * (high - low) < 2**b`: values are sent as `value - low`, so
    the sum of all clients lies in 0..clients * (high - low), whoever drops out.

    Args:
        dimension: coordinates per vector.
        low: smallest value of a coordinate.
        high: largest value of a coordinate.
        clients: most clients in a sum.
        modulus_bits: word size, if it is given; otherwise the best of 16, 32 and 64.

    Raises:
        InvalidParams: no word is wide enough.
    """
    field_bits = max(1, (clients * (high - low)).bit_length())
    words = (modulus_bits,) if modulus_bits is not None else _WORD_BITS
    fitting = [bits for bits in words if bits >= field_bits]
    if not fitting:
        raise InvalidParams(
            f"{clients} clients with values {low}..{high} need {field_bits} bits, "
            f"more than a word of {max(words)}"
        )
    best = min(fitting, key=lambda bits: bits / (bits // field_bits))
    return FieldLayout(dimension, low, high, clients, field_bits, best)
