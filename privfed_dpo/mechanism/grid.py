"""Between real vectors, grid steps and the ring Z mod 2^b."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RING_BITS = (32, 64)
_RING_DTYPES: dict[int, np.dtype[np.unsignedinteger]] = {
    32: np.dtype(np.uint32).newbyteorder("<"),
    64: np.dtype(np.uint64).newbyteorder("<"),
}
_SIGNED_DTYPES: dict[int, np.dtype[np.signedinteger]] = {
    32: np.dtype(np.int32).newbyteorder("<"),
    64: np.dtype(np.int64).newbyteorder("<"),
}

NOISE_HEADROOM_STDDEVS = 12.0
"""Noise beyond 12 standard deviations has probability below 1e-32 per coordinate."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of `steps_per_unit` steps per unit, summed in a ring of `bits` bits.

    Attributes:
        steps_per_unit: resolution s, > 0.
        bits: ring size, 32 or 64; sums are taken mod 2^bits.
    """

    steps_per_unit: float
    bits: int

    def __post_init__(self) -> None:
        if not (self.steps_per_unit > 0.0 and np.isfinite(self.steps_per_unit)):
            raise ValueError(f"steps_per_unit must be positive, not {self.steps_per_unit}")
        if self.bits not in RING_BITS:
            raise ValueError(f"the ring has 32 or 64 bits, not {self.bits}")

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Little-endian unsigned type of a ring element."""
        return _RING_DTYPES[self.bits]

    def to_ring(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.unsignedinteger]:
        """Reduce signed steps mod 2^bits; shape kept."""
        return steps.astype(np.int64, copy=False).view(np.uint64).astype(self.dtype)

    def from_ring(self, elements: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.int64]:
        """Lift ring elements to signed steps in [-2^(bits-1), 2^(bits-1)), dtype int64.

        Exact if the true sum lies in that range, which `fits` proves beforehand.
        """
        return (
            elements.astype(self.dtype, copy=False).view(_SIGNED_DTYPES[self.bits]).astype(np.int64)
        )

    def to_units(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Grid steps as real numbers, float64."""
        return steps / self.steps_per_unit

    def encode_bounded(
        self, values: npt.NDArray[np.float32] | npt.NDArray[np.float64], limit: float
    ) -> tuple[npt.NDArray[np.int64], int]:
        """Round values to the nearest step after holding them within +-limit.

        Args:
            values: finite reals, shape [d].
            limit: largest magnitude that may enter the sum, in units.

        Returns:
            Steps, int64, and how many coordinates the limit changed.

        Raises:
            ValueError: a value is not finite.
        """
        reals = values.astype(np.float64)
        if not np.isfinite(reals).all():
            raise ValueError("cannot encode a vector with NaN or infinite entries")
        held = np.clip(reals, -limit, limit)
        return np.rint(held * self.steps_per_unit).astype(np.int64), int((held != reals).sum())


def fits(bits: int, *, largest_signal_steps: float, noise_stddev_steps: float) -> bool:
    """Whether a sum can be read back from the ring: 2^b >= 2 (signal + 12 sigma).

    Args:
        bits: ring size.
        largest_signal_steps: bound on the absolute value of any coordinate of the noiseless sum.
        noise_stddev_steps: standard deviation of the summed noise; 0 without noise.
    """
    reach = largest_signal_steps + NOISE_HEADROOM_STDDEVS * noise_stddev_steps
    return 2.0 ** (bits - 1) >= reach + 1.0
