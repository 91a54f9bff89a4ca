"""Nodes on a graph without a language model, and networks that lose what they are told to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from accounting import Adjacency, Ledger, LedgerHeader, PrivacyUnit
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.gossip import GossipTraining
from privfed_dpo.engine.gossip_round import GossipRound, no_message_lost
from privfed_dpo.engine.node import GossipNode
from privfed_dpo.engine.node_state import NodeState, pack_states
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.server_update import ServerState
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import LoopbackCarrier
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import DIMENSION, RUN_ID, fake_contributor, fake_plan

START = np.linspace(-1, 1, DIMENSION).astype(np.float32)
NO_SERVER = (
    "secure_agg.enabled=false",
    "privacy.dropout_tolerance=0",
    "privacy.colluders=0",
)


def gossip_plan(*overrides: str, clients: int = 6, mode: str = "gossip") -> RunPlan:
    """A plan without a server."""
    noise = ["privacy.noise_multiplier=null", "gossip.enabled=true"] if mode == "none" else []
    chosen = [f"privacy.mode={mode}", *NO_SERVER, *noise, *overrides]
    return fake_plan(*chosen, clients=clients)


def fake_nodes(plan: RunPlan, seed: str = "fake", last_round: int = 0) -> dict[int, GossipNode]:
    """All nodes at the same start, with deterministic keys."""
    entropy = counted_entropy(seed)
    identities = [IdentityKey.generate(entropy) for _ in plan.facts.client_names]
    roster = {number: identity.public for number, identity in enumerate(identities)}
    return {
        number: GossipNode(
            contributor=fake_contributor(plan, number, seed),
            gossip=plan.gossip,
            run_id=RUN_ID,
            identity=identity,
            roster=roster,
            state=NodeState.start(START, plan.grid().steps_per_unit),
            entropy=counted_entropy(f"{seed}-sums-{number}"),
            last_round=last_round,
        )
        for number, identity in enumerate(identities)
    }


def play_round(
    plan: RunPlan,
    nodes: dict[int, GossipNode],
    number: int,
    *,
    lost: Callable[[int, str, int, int], bool] = no_message_lost,
    observer=lambda _: None,
    carrier: LoopbackCarrier | None = None,
):
    """One round over a loopback carrier; returns its result."""
    script = GossipRound(
        plan=plan,
        gossip=plan.gossip,
        run_id=RUN_ID,
        round_number=number,
        observer=observer,
        lost=lost,
        watch=watch_of(plan, nodes),
    ).script(watch_mixing=True)
    handlers = {n: node.handle for n, node in nodes.items()}
    return drive(script, carrier or LoopbackCarrier(handlers))


def watch_of(plan: RunPlan, nodes: dict[int, GossipNode]):
    """How masked nodes of a test are measured; None where they publish."""
    if plan.gossip.masking is None:
        return None
    return lambda: {number: node.state.values for number, node in nodes.items()}


def total_of(nodes: dict[int, GossipNode]) -> list[int]:
    """The sum of all nodes' values, in integers without any bound."""
    return [int(v) for v in np.sum([n.state.values.astype(object) for n in nodes.values()], axis=0)]


def train_nodes(plan: RunPlan, nodes: dict[int, GossipNode], path, **changes):
    """A whole training of fake nodes with a ledger at `path`; returns its result."""
    header = LedgerHeader(
        run_id=RUN_ID.hex(),
        plan_hash=plan.plan_hash,
        config_hash="0" * 64,
        unit=PrivacyUnit.PAIR,
        adjacency=Adjacency.ZERO_OUT,
        budget=plan.budget,
        schedule=plan.schedule,
        clients=len(nodes),
    )
    parts = {
        "plan": plan,
        "gossip": plan.gossip,
        "run_id": RUN_ID,
        "ledger": Ledger.create(path, header),
        "measure": lambda weights: {"loss": float(np.abs(weights).sum())},
        "measure_nodes": lambda weights: {},
        "measure_every": 1,
        "snapshot": lambda: pack_states([node.state for node in nodes.values()]),
        "save": lambda checkpoint: None,
        "observer": lambda event: None,
        "clock": lambda: 0.0,
        "lost": no_message_lost,
        "watch": watch_of(plan, nodes),
    }
    start = Checkpoint(
        round=0,
        state=ServerState.start(START),
        rows=(),
        plan_hash=plan.plan_hash,
        data_fingerprint="d",
        seconds=0.0,
        nodes=pack_states([node.state for node in nodes.values()]),
    )
    carrier = changes.pop("carrier", None)
    carrier = carrier or LoopbackCarrier({n: node.handle for n, node in nodes.items()})
    return drive(GossipTraining(**{**parts, **changes}).script(start), carrier)
