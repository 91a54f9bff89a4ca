"""How the server applies one aggregate to the global adapter.

Everything here is post-processing of a released, already private sum, so it costs no privacy.
Another adaptive optimizer is one rule in `_SPREADS` and its name in `ServerOptimizer`, here and
nowhere else: configuration and plan take it from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
ServerOptimizer = Literal["sgd", "adam", "yogi", "adagrad"]
SERVER_OPTIMIZERS: tuple[ServerOptimizer, ...] = get_args(ServerOptimizer)
"""All of them; the first divides by nothing."""

_SECOND_MOMENT_DECAY = 0.99
_STABILITY = 1e-8


@dataclass(frozen=True, slots=True)
class ServerState:
    """The global adapter and the optimizer's memory.

    Attributes:
        weights: flat adapter, shape [d], float64; clients receive it as float32.
        first_moment: shape [d].
        second_moment: shape [d]; stays zero under sgd.
        steps: aggregates applied so far.
    """

    weights: Vector
    first_moment: Vector
    second_moment: Vector
    steps: int = 0

    @classmethod
    def start(cls, weights: npt.NDArray[np.float32]) -> ServerState:
        """Begin at the given adapter with an empty memory."""
        start = weights.astype(np.float64)
        return cls(start, np.zeros_like(start), np.zeros_like(start))

    def arrays(self) -> Mapping[str, Vector]:
        """The arrays a checkpoint must keep."""
        return {
            "weights": self.weights,
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
        }


@dataclass(frozen=True, slots=True)
class ServerUpdate:
    """A server optimizer (Reddi et al. 2021, algorithm 2): SGD with momentum, or an adaptive one.

    The adaptive ones divide the decayed mean m of the gradients g by sqrt(v), where v follows

    - adam: v <- b v + (1-b) g^2
    - yogi: v <- v + (1-b) g^2 sign(g^2 - v), which forgets a large gradient slowly (Zaheer et al.
      2018)
    - adagrad: v <- v + g^2, so that steps only get shorter

    with b = 0.99. Means that began at zero are corrected for it, as in Adam.

    Attributes:
        kind: one of `SERVER_OPTIMIZERS`.
        learning_rate: step size.
        momentum: heavy-ball factor of sgd, first-moment decay of the others.
    """

    kind: ServerOptimizer
    learning_rate: float
    momentum: float

    def apply(self, state: ServerState, gradient: Vector) -> ServerState:
        """Take one descent step.

        Args:
            state: where we stand.
            gradient: mean gradient, or minus the mean client update, shape [d].

        Returns:
            A new state; the old one is untouched.
        """
        steps = state.steps + 1
        if self.kind == "sgd":
            first = self.momentum * state.first_moment + gradient
            weights = state.weights - self.learning_rate * first
            return replace(state, weights=weights, first_moment=first, steps=steps)
        first = self.momentum * state.first_moment + (1.0 - self.momentum) * gradient
        second, spread = _SPREADS[self.kind](state.second_moment, gradient**2, steps)
        mean = first / (1.0 - self.momentum**steps)
        weights = state.weights - self.learning_rate * mean / (np.sqrt(spread) + _STABILITY)
        return ServerState(weights, first, second, steps)


def _unbiased(moment: Vector, steps: int) -> Vector:
    return moment / (1.0 - _SECOND_MOMENT_DECAY**steps)


def _adam(before: Vector, square: Vector, steps: int) -> tuple[Vector, Vector]:
    second = _SECOND_MOMENT_DECAY * before + (1.0 - _SECOND_MOMENT_DECAY) * square
    return second, _unbiased(second, steps)


def _yogi(before: Vector, square: Vector, steps: int) -> tuple[Vector, Vector]:
    second = before + (1.0 - _SECOND_MOMENT_DECAY) * square * np.sign(square - before)
    return second, _unbiased(second, steps)


def _adagrad(before: Vector, square: Vector, _: int) -> tuple[Vector, Vector]:
    return before + square, before + square


_SPREADS: Mapping[str, Callable[[Vector, Vector, int], tuple[Vector, Vector]]] = {
    "adam": _adam,
    "yogi": _yogi,
    "adagrad": _adagrad,
}
"""From v, the squared gradient and the number of steps to the new v, and what to divide by."""
