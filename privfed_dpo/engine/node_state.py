"""What a node keeps from round to round, and how the nodes of one process are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from privfed_dpo.engine.mixing import WEIGHT_BITS, Integers

Arrays = Mapping[str, npt.NDArray[np.generic]]
Outcome = Literal["open", "done", "undone"]
_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class OpenExchange:
    """A link whose other end may or may not have averaged: its confirmation never came.

    Attributes:
        round: when that was.
        flow: what the link moves to this end if the other one did average, shape [d].
    """

    round: int
    flow: Integers = field(repr=False)


@dataclass(frozen=True, slots=True)
class CastVote:
    """A round of masked sums for which this node voted, and what became of it.

    Attributes:
        digest: SHA-256 of the links it voted for.
        missing: nodes whose vote it has not seen.
        outcome: open while it is in doubt; done if it averaged; undone if somebody did not vote so.
        flow: what averaging moves to this node, shape [d]; empty once the vote is closed.
    """

    digest: bytes
    missing: tuple[int, ...]
    outcome: Outcome
    flow: Integers = field(repr=False)


@dataclass(slots=True)
class NodeState:
    """A node's adapter and its open accounts with its neighbours.

    Everything here follows from the node's own noisy steps and from messages it received.

    Attributes:
        values: the adapter in steps of the fine grid, shape [d]; see `mixing`.
        last_used: neighbour -> last round in which this node averaged with it.
        open: neighbour -> the exchange with it that waits to be closed.
        votes: round -> the vote on its masked sums; see `masked_exchange`.
    """

    values: Integers = field(repr=False)
    last_used: dict[int, int] = field(default_factory=dict)
    open: dict[int, OpenExchange] = field(default_factory=dict)
    votes: dict[int, CastVote] = field(default_factory=dict)

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
        **_pack_votes(states, dimension),
    }


def _pack_votes(states: Sequence[NodeState], dimension: int) -> dict[str, npt.NDArray[np.generic]]:
    votes = [(n, number, v) for n, s in enumerate(states) for number, v in s.votes.items()]
    places = [(n, number, _OUTCOMES.index(v.outcome)) for n, number, v in votes]
    missing = [(n, number, peer) for n, number, v in votes for peer in v.missing]
    flows = [v.flow for _, _, v in votes if v.outcome == "open"]
    digests = b"".join(v.digest for _, _, v in votes)
    return {
        "votes": np.array(places, dtype=np.int64).reshape(-1, 3),
        "vote_digests": np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32),
        "votes_missing": np.array(missing, dtype=np.int64).reshape(-1, 3),
        "vote_flows": np.array(flows, dtype=np.int64).reshape(-1, dimension),
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
    _unpack_votes(states, arrays)
    return states


def _unpack_votes(states: Sequence[NodeState], arrays: Arrays) -> None:
    flows = iter(arrays["vote_flows"].astype(np.int64))
    missing = arrays["votes_missing"].tolist()
    for (node, number, code), digest in zip(
        arrays["votes"].tolist(), arrays["vote_digests"].astype(np.uint8), strict=True
    ):
        outcome = _OUTCOMES[code]
        states[node].votes[number] = CastVote(
            digest=digest.tobytes(),
            missing=tuple(peer for n, r, peer in missing if (n, r) == (node, number)),
            outcome=outcome,
            flow=next(flows) if outcome == "open" else np.zeros(0, dtype=np.int64),
        )
