"""What a node keeps from round to round, and how the nodes of one process are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from privfed_dpo.engine.mixing import WEIGHT_BITS, Integers

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class OpenExchange:
    """A link whose other end may or may not have averaged: its confirmation never came.

    Attributes:
        round: when that was.
        flow: what the link moves to this end if the other one did average, shape [d].
    """

    round: int
    flow: Integers = field(repr=False)


@dataclass(slots=True)
class NodeState:
    """A node's adapter and its open accounts with its neighbours.

    Everything here follows from the node's own noisy steps and from messages it received.

    Attributes:
        values: the adapter in steps of the fine grid, shape [d]; see `mixing`.
        last_used: neighbour -> last round in which this node averaged with it.
        open: neighbour -> the exchange with it that waits to be closed.
    """

    values: Integers = field(repr=False)
    last_used: dict[int, int] = field(default_factory=dict)
    open: dict[int, OpenExchange] = field(default_factory=dict)

    @classmethod
    def start(cls, weights: npt.NDArray[np.float32], steps_per_unit: float) -> NodeState:
        """Begin at an adapter of shape [d], put on the grid that is sent.

        Args:
            weights: the common start.
            steps_per_unit: resolution of the grid that is sent.
        """
        steps = np.rint(weights.astype(np.float64) * steps_per_unit).astype(np.int64)
        return cls(values=steps << WEIGHT_BITS)


def pack_states(states: Sequence[NodeState]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the states of nodes 0 to n-1 as named arrays; `unpack_states` reads them back."""
    dimension = states[0].values.size
    used = [(n, peer, last) for n, s in enumerate(states) for peer, last in s.last_used.items()]
    waiting = [(n, peer, o) for n, s in enumerate(states) for peer, o in s.open.items()]
    places = [(n, peer, o.round) for n, peer, o in waiting]
    flows = [o.flow for _, _, o in waiting]
    return {
        "values": np.stack([state.values for state in states]),
        "last_used": np.array(used, dtype=np.int64).reshape(-1, 3),
        "open": np.array(places, dtype=np.int64).reshape(-1, 3),
        "flows": np.array(flows, dtype=np.int64).reshape(-1, dimension),
    }


def unpack_states(arrays: Arrays) -> list[NodeState]:
    """Rebuild states from `pack_states`."""
    states = [NodeState(values.astype(np.int64)) for values in arrays["values"]]
    for node, peer, last in arrays["last_used"].tolist():
        states[node].last_used[peer] = last
    for (node, peer, number), flow in zip(
        arrays["open"].tolist(), arrays["flows"].astype(np.int64), strict=True
    ):
        states[node].open[peer] = OpenExchange(number, flow)
    return states
