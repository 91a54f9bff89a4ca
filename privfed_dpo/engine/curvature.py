"""Curvature of a loss from gradients alone: products with the Hessian, and what they say of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]

_RELATIVE_STEP = 1e-2
_EXHAUSTED = 1e-9


@dataclass(frozen=True, slots=True)
class SpectralMeasure:
    """How a vector v spreads over the curvatures of a symmetric matrix H.

    Attributes:
        curvatures: Ritz values, shape [m].
        weights: how much of |v|^2 lies at each, shape [m]; they add up to |v|^2.
    """

    curvatures: Reals
    weights: Reals

    @classmethod
    def mean(cls, measures: Sequence[SpectralMeasure]) -> SpectralMeasure:
        """Average over several vectors; of none, a measure that is zero."""
        if not measures:
            return cls(np.zeros(1), np.zeros(1))
        curvatures = np.concatenate([measure.curvatures for measure in measures])
        weights = np.concatenate([measure.weights for measure in measures])
        return cls(curvatures, weights / len(measures))

    def integral(self, gain: Callable[[Reals], Reals]) -> float:
        """Approximate v^T gain(H) v; exact for polynomials of degree up to 2 m - 1.

        Args:
            gain: a function of curvatures, shape [m] to [m].
        """
        return float(self.weights @ gain(self.curvatures))


def spectral_measure(times: Callable[[Reals], Reals], vector: Reals, steps: int) -> SpectralMeasure:
    """Run Lanczos' method from a vector (Golub and Meurant, 2010, chapter 6).

    Args:
        times: product with the symmetric matrix, shape [d] to [d].
        vector: v, shape [d].
        steps: products taken, m >= 1; fewer if the vector meets fewer curvatures.
    """
    length = float(np.linalg.norm(vector))
    if length == 0.0:
        return SpectralMeasure(np.zeros(1), np.zeros(1))
    basis = [vector / length]
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        following = times(basis[-1])
        diagonal.append(float(basis[-1] @ following))
        for known in (*basis, *basis):
            following = following - (known @ following) * known
        rest = float(np.linalg.norm(following))
        if step == steps - 1 or rest <= _EXHAUSTED * max(map(abs, diagonal)):
            break
        beside.append(rest)
        basis.append(following / rest)
    tridiagonal = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    curvatures, vectors = np.linalg.eigh(tridiagonal)
    return SpectralMeasure(curvatures, length**2 * vectors[0] ** 2)


@dataclass(frozen=True, slots=True)
class Curvature:
    """The Hessian of a loss at a point, by central differences of its gradient.

    Attributes:
        gradient: of the loss, shape [d] to [d].
        point: where, shape [d].
    """

    gradient: Callable[[Reals], Reals]
    point: Reals = field(repr=False)

    def times(self, vector: Reals) -> Reals:
        """Product with the Hessian, from two gradients; shape [d] to [d]."""
        length = float(np.linalg.norm(vector))
        if length == 0.0:
            return np.zeros_like(vector)
        shift = _RELATIVE_STEP * max(1.0, float(np.linalg.norm(self.point))) / length
        ahead, behind = (self.gradient(self.point + sign * shift * vector) for sign in (1, -1))
        return (ahead - behind) / (2.0 * shift)
