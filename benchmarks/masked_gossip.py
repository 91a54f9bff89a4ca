"""What masking costs: rounds of averaging in clear and under masks, side by side.

Nodes, messages and secure sums are the product's own, over the loopback carrier; the nodes take no
local steps, so that a round is averaging and nothing else.

    python -m benchmarks.masked_gossip

writes benchmarks/masked_gossip.md.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from privfed_dpo.engine.gossip_messages import (
    COMBINE_STEPS,
    EVERYBODY,
    NodeReport,
    Parcel,
)
from privfed_dpo.engine.masked_exchange import MaskedExchange
from privfed_dpo.engine.masked_links import MaskingRules
from privfed_dpo.engine.masked_messages import MASKED_STEPS
from privfed_dpo.engine.mixing import integer_weights
from privfed_dpo.engine.neighbour_exchange import NeighbourExchange, NodeAddress
from privfed_dpo.engine.node_state import NodeState
from privfed_dpo.topology import GraphSettings, Topology
from secure_agg import IdentityKey

_PAGE = Path(__file__).with_suffix(".md")
_LIMIT_STEPS = 1 << 43
_COLUMNS = (
    "graph",
    "neighbours",
    "coordinates",
    "MB, clear",
    "MB, masked",
    "ratio",
    "s, clear",
    "s, masked",
    "ratio",
    "exchanges, clear",
    "masked",
)
_RULES = MaskingRules(fewest_neighbours=3, colluders=1)


@dataclass(frozen=True, slots=True)
class Cost:
    """One round of averaging.

    Attributes:
        seconds: of all nodes together, in one process.
        sent_bytes: messages of one node, the mean over nodes.
        exchanges: messages from whoever keeps the rounds in step to each node.
    """

    seconds: float
    sent_bytes: float
    exchanges: int


def averaging(graph: Topology, dimension: int, *, masked: bool, repeats: int) -> Cost:
    """Measure the fastest of some rounds.

    Args:
        graph: who averages with whom.
        dimension: coordinates of an adapter.
        masked: whether neighbourhoods are summed under masks.
        repeats: rounds played.
    """
    rng = np.random.default_rng(0)
    identities = [IdentityKey.generate(os.urandom) for _ in range(graph.nodes)]
    roster = {number: identity.public for number, identity in enumerate(identities)}
    states = [NodeState(rng.integers(-(2**55), 2**55, size=dimension)) for _ in range(graph.nodes)]
    total = np.sum([state.values.astype(object) for state in states], axis=0)
    best, sent = float("inf"), 0
    for number in range(1, repeats + 1):
        addresses = [
            NodeAddress(b"r" * 16, b"p" * 32, number, node, identities[node], roster)
            for node in range(graph.nodes)
        ]
        begin = time.perf_counter()
        nodes = {
            node: _exchange(addresses[node], graph, states[node], masked=masked)
            for node in range(graph.nodes)
        }
        sent = _play(nodes, MASKED_STEPS if masked else COMBINE_STEPS)
        best = min(best, time.perf_counter() - begin)
    after = np.sum([state.values.astype(object) for state in states], axis=0)
    if not np.array_equal(total, after):
        raise RuntimeError("the sum over all nodes has moved")
    steps = len(MASKED_STEPS if masked else COMBINE_STEPS)
    return Cost(seconds=best, sent_bytes=sent / graph.nodes, exchanges=steps)


def _exchange(
    address: NodeAddress, graph: Topology, state: NodeState, *, masked: bool
) -> MaskedExchange | NeighbourExchange:
    if masked:
        return MaskedExchange(address, graph, state, rules=_RULES, entropy=os.urandom)
    links = integer_weights(graph)
    mine = {i + j - address.number: w for (i, j), w in links.items() if address.number in (i, j)}
    return NeighbourExchange(address, mine, state, limit_steps=_LIMIT_STEPS)


def _play(nodes: dict[int, MaskedExchange | NeighbourExchange], steps: tuple[str, ...]) -> int:
    """Play one round; returns the bytes of all messages that nodes sent."""
    boxes: dict[int, tuple[Parcel, ...]] = dict.fromkeys(nodes, ())
    sent = 0
    for step in steps:
        said = {node: exchange.step(step, boxes[node]) for node, exchange in nodes.items()}
        inbox: dict[int, list[Parcel]] = {node: [] for node in nodes}
        for sender, reply in said.items():
            for parcel in () if isinstance(reply, NodeReport) else reply.parcels:
                sent += len(parcel.data)
                everybody = parcel.peer == EVERYBODY
                for receiver in [n for n in nodes if n != sender] if everybody else [parcel.peer]:
                    inbox[receiver].append(Parcel(sender, parcel.data))
        boxes = {node: tuple(box) for node, box in inbox.items()}
    return sent


def _row(name: str, graph: Topology, dimension: int, repeats: int) -> str:
    clear = averaging(graph, dimension, masked=False, repeats=repeats)
    hidden = averaging(graph, dimension, masked=True, repeats=repeats)
    return (
        f"| {name} | {max(graph.degrees)} | {dimension:,} "
        f"| {clear.sent_bytes / 1e6:.3f} | {hidden.sent_bytes / 1e6:.3f} "
        f"| {hidden.sent_bytes / clear.sent_bytes:.2f} "
        f"| {clear.seconds:.2f} | {hidden.seconds:.2f} "
        f"| {hidden.seconds / clear.seconds:.1f} | {clear.exchanges} | {hidden.exchanges} |"
    )


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    repeats = parser.parse_args().repeats
    graphs = {
        "torus, 20 nodes": GraphSettings("torus", 20).of_round(1),
        "complete, 12 nodes": GraphSettings("complete", 12).of_round(1),
    }
    rows = [
        _row(name, graph, dimension, repeats)
        for name, graph in graphs.items()
        for dimension in (1_000, 100_000, 1_000_000)
    ]
    lines = [
        "# Averaging in clear and under masks",
        "",
        f"One round of averaging of all nodes in one process, on one thread, best of {repeats};",
        "megabytes are those that one node sends. No local steps.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        "Made by `python -m benchmarks.masked_gossip`. Vectors are sent once per link and",
        "direction either way: small ones show the cost of keys, shares and signatures, large ones",
        "that of masks. The seconds are those of all nodes; machines of their own share them.",
        "The recorded ones come from two cores that other work was using, so hold the two columns",
        "against each other and nothing else.",
        "",
    ]
    _PAGE.write_text("\n".join(lines), encoding="utf-8")
    print(_PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
