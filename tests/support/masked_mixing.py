"""Masked averaging among bare exchanges, over a network that loses what it is told to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from privfed_dpo.engine.gossip_messages import EVERYBODY, NodeReport, Parcel
from privfed_dpo.engine.masked_exchange import MaskedExchange
from privfed_dpo.engine.masked_links import MaskingRules
from privfed_dpo.engine.masked_messages import MASKED_STEPS
from privfed_dpo.engine.neighbour_exchange import NodeAddress
from privfed_dpo.engine.node_state import NodeState
from privfed_dpo.topology import Topology
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy

RUN_ID, PLAN_HASH = b"r" * 16, b"p" * 32
IDENTITIES = [IdentityKey.generate(counted_entropy(f"masked-{i}")) for i in range(14)]
ROSTER = {number: identity.public for number, identity in enumerate(IDENTITIES)}
RULES = MaskingRules(fewest_neighbours=3, colluders=1)

Lost = Callable[[str, int, int], bool]
Gone = Callable[[str, int], bool]
Lies = Callable[[str, int, int, bytes], bytes]


def nobody(*_) -> bool:
    """No loss, nobody gone."""
    return False


def truth(step: str, sender: int, receiver: int, data: bytes) -> bytes:
    """Nobody lies."""
    return data


def address_of(number: int, round_: int) -> NodeAddress:
    """A node's address in one round."""
    return NodeAddress(RUN_ID, PLAN_HASH, round_, number, IDENTITIES[number], ROSTER)


def states_of(seed: int, nodes: int, dimension: int = 3) -> list[NodeState]:
    """Random adapters, as large as they may be."""
    rng = np.random.default_rng(seed)
    return [NodeState(rng.integers(-(2**58), 2**58, size=dimension)) for _ in range(nodes)]


def total(states: list[NodeState]) -> list[int]:
    """The sum of all values, in integers without any bound."""
    return [int(v) for v in np.sum([s.values.astype(object) for s in states], axis=0)]


def owed(states: list[NodeState]) -> list[int]:
    """What nodes in doubt will still move, because some node of that round averaged."""
    done = {(r, v.digest) for s in states for r, v in s.votes.items() if v.outcome == "done"}
    moved = np.zeros(states[0].values.size, dtype=object)
    for state in states:
        for number, vote in state.votes.items():
            if vote.outcome == "open" and (number, vote.digest) in done:
                moved = moved + vote.flow.astype(object)
    return [int(v) for v in moved]


def mix_masked(
    states: list[NodeState],
    round_: int,
    graph: Topology,
    *,
    lost: Lost = nobody,
    gone: Gone = nobody,
    rules: MaskingRules = RULES,
    released: bool = False,
    lies: Lies = truth,
    seen: Callable[[str, int, int, bytes], None] | None = None,
) -> dict[int, NodeReport]:
    """One masked round among all nodes; returns the reports of those that reached its end.

    Args:
        states: of all nodes, changed in place.
        round_: training round.
        graph: the planned links.
        lost: (step, sender, receiver) -> whether this one message vanishes.
        gone: (step, node) -> whether a node is away from this step on, for the round.
        rules: what sums must hide.
        released: whether it is the last round.
        lies: (step, sender, receiver, bytes) -> what this one receiver gets in place of the bytes.
        seen: told of every message that is sent: step, sender, receiver, bytes.
    """
    nodes = {
        number: MaskedExchange(
            address_of(number, round_),
            graph,
            state,
            rules=rules,
            entropy=counted_entropy(f"sums-{round_}-{number}"),
            released=released,
        )
        for number, state in enumerate(states)
    }
    boxes: dict[int, list[Parcel]] = {number: [] for number in nodes}
    reports: dict[int, NodeReport] = {}
    for step in MASKED_STEPS:
        boxes = {n: box for n, box in boxes.items() if not gone(step, n)}
        sent = {n: nodes[n].step(step, tuple(box)) for n, box in boxes.items()}
        boxes = {n: [] for n in boxes}
        for sender, said in sent.items():
            if isinstance(said, NodeReport):
                reports[sender] = said
                continue
            for parcel in said.parcels:
                receivers = list(boxes) if parcel.peer == EVERYBODY else [parcel.peer]
                for receiver in receivers:
                    if seen is not None:
                        seen(step, sender, receiver, parcel.data)
                    if (
                        receiver in boxes
                        and receiver != sender
                        and not lost(step, sender, receiver)
                    ):
                        data = lies(step, sender, receiver, parcel.data)
                        boxes[receiver].append(Parcel(sender, data))
    return reports
