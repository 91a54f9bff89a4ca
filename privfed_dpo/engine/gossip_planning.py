"""From a configuration to the part of a plan that a run without a server adds."""

from __future__ import annotations

from privfed_dpo.config import Config
from privfed_dpo.engine.gossip_plan import SENT_STEPS_PER_UNIT, GossipPlan
from privfed_dpo.engine.sizing import OWN_NOISE_SENSITIVITY_STEPS, RingSizing
from privfed_dpo.engine.topology import Edge, GraphSettings

_SENT_BITS = 64


def make_gossip_plan(config: Config, *, nodes: int, links: tuple[Edge, ...]) -> GossipPlan | None:
    """Choose graph and order; None if the configuration has a server.

    Args:
        config: a valid configuration.
        nodes: number of nodes.
        links: the links, where a file gives them.

    Raises:
        PlanRefused: there is no such graph, or it does not connect all nodes.
    """
    wanted = config.gossip
    if not config.decentralised:
        return None
    graph = GraphSettings(
        kind=wanted.topology,
        nodes=nodes,
        degree=wanted.degree,
        edge_probability=wanted.edge_probability,
        seed=config.run.seed if wanted.graph_seed is None else wanted.graph_seed,
        edges=links,
        redraw_rounds=wanted.redraw_rounds,
    )
    graph.of_round(1)
    return GossipPlan(graph, wanted.order)


def size_gossip(config: Config) -> RingSizing:
    """Return the grid on which nodes send their adapters, and the one of their own noise."""
    clipped = config.privacy.max_grad_norm is not None
    return RingSizing(
        bits=_SENT_BITS,
        clipper_steps=OWN_NOISE_SENSITIVITY_STEPS if clipped else None,
        carries_updates=True,
        update_steps_per_unit=SENT_STEPS_PER_UNIT,
    )
