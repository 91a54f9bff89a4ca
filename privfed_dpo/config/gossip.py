"""Settings of training without a server."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privfed_dpo.config.section import PositiveInt, Section, Seed, Share
from privfed_dpo.topology import GraphName

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


class GossipConfig(Section):
    """Training without a server (DecDPO): clients are nodes that average with neighbours."""

    enabled: bool | None = Field(
        None,
        description="null is yes in privacy.mode=gossip, else no; true with privacy.mode=none is "
        "the decentralised baseline",
    )
    topology: GraphName = Field("ring", description="who averages with whom")
    links_file: str | None = Field(
        None, description="topology=file: two client names, or numbers from 0, on each line"
    )
    degree: Annotated[int, Field(ge=2)] = Field(
        4, description="neighbours of every node in an expander"
    )
    edge_probability: Share = Field(
        0.3, description="probability of each link in an erdos_renyi graph"
    )
    graph_seed: Seed | None = Field(
        None, description="public seed of random graphs; null is run.seed"
    )
    redraw_rounds: PositiveInt | None = Field(
        None, description="rounds after which a random graph is drawn anew; null keeps one"
    )
    order: Literal["atc", "cta"] = Field(
        "atc", description="atc takes local steps, then averages; cta averages first"
    )
    masked: bool = Field(
        False,
        description="true: a node learns only the weighted sum of its neighbours' adapters, never "
        "one of them; needs order=atc. The noise, and epsilon, stay what they are",
    )
    fewest_neighbours: Annotated[int, Field(ge=2)] = Field(
        3, description="masked: fewest neighbours in any sum; nodes left with fewer sit a round out"
    )
    colluders: PositiveInt = Field(
        1,
        description="masked: nodes that may pool their sums and still find no single adapter; a "
        "graph that breaks this is refused",
    )
    link_dropout: Rate = Field(
        0.0, description="simulated: probability that a link is down for a round"
    )
    node_dropout: Rate = Field(
        0.0, description="simulated: probability that a node is away for a round"
    )
