"""From a configuration to the part of a plan that a run without a server adds."""

from __future__ import annotations

from privfed_dpo.config import Config
from privfed_dpo.engine.gossip_plan import SENT_STEPS_PER_UNIT, GossipPlan
from privfed_dpo.engine.masked_links import MaskingRules
from privfed_dpo.engine.mixing import integer_weights
from privfed_dpo.engine.neighbourhood_exposure import smallest_mixture
from privfed_dpo.engine.sizing import OWN_NOISE_SENSITIVITY_STEPS, RingSizing
from privfed_dpo.errors import PlanRefused
from privfed_dpo.topology import Edge, GraphSettings, Topology

_SENT_BITS = 64


def make_gossip_plan(config: Config, *, nodes: int, links: tuple[Edge, ...]) -> GossipPlan | None:
    """Choose graph and order; None if the configuration has a server.

    Args:
        config: a valid configuration.
        nodes: number of nodes.
        links: the links, where a file gives them.

    Raises:
        PlanRefused: there is no such graph, it does not connect all nodes, or masked sums over its
            neighbourhoods would hide nobody.
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
    first = graph.of_round(1)
    if not wanted.masked:
        return GossipPlan(graph, wanted.order)
    rules = MaskingRules(wanted.fewest_neighbours, wanted.colluders)
    _require_hidden(wanted.topology, first, rules)
    return GossipPlan(graph, wanted.order, rules)


def _require_hidden(name: str, graph: Topology, rules: MaskingRules) -> None:
    """Refuse graphs on which a sum, or a few sums together, would show single adapters."""
    degree = min(graph.degrees)
    if degree < rules.least_degree:
        raise PlanRefused(
            f"some node of the {name} graph has {degree} neighbours, and a masked sum over fewer "
            f"than {rules.least_degree} hides too little",
            advice="Use gossip.topology=torus, exponential, expander or complete, or lower "
            "gossip.fewest_neighbours or gossip.colluders.",
        )
    found = smallest_mixture(graph.nodes, integer_weights(graph), rules.colluders)
    if found.size == 1:
        raise PlanRefused(
            f"on the {name} graph nodes {', '.join(map(str, found.coalition))} together find the "
            f"adapter of node {found.nodes[0]}, though sums are masked",
            advice="Use a graph with more neighbours, or lower gossip.colluders.",
        )


def size_gossip(config: Config) -> RingSizing:
    """Return the grid on which nodes send their adapters, and the one of their own noise."""
    clipped = config.privacy.max_grad_norm is not None
    return RingSizing(
        bits=_SENT_BITS,
        clipper_steps=OWN_NOISE_SENSITIVITY_STEPS if clipped else None,
        carries_updates=True,
        update_steps_per_unit=SENT_STEPS_PER_UNIT,
    )
