"""How the server applies one aggregate to the global adapter.

Everything here is post-processing of a released, already private sum, so it costs no privacy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

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
    """A server optimizer (Reddi et al. 2021, FedOpt): SGD with momentum, or Adam.

    Attributes:
        kind: "sgd" or "adam".
        learning_rate: step size.
        momentum: heavy-ball factor of sgd, first-moment decay of adam.
    """

    kind: Literal["sgd", "adam"]
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
        second = (
            _SECOND_MOMENT_DECAY * state.second_moment + (1.0 - _SECOND_MOMENT_DECAY) * gradient**2
        )
        mean = first / (1.0 - self.momentum**steps)
        spread = np.sqrt(second / (1.0 - _SECOND_MOMENT_DECAY**steps))
        weights = state.weights - self.learning_rate * mean / (spread + _STABILITY)
        return ServerState(weights, first, second, steps)
