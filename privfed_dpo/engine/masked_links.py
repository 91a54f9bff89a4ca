"""Over which links a round's masked sums run: every node works it out from everybody's notices."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from privfed_dpo.engine.mixing import integer_weights
from privfed_dpo.engine.neighbourhood_exposure import smallest_mixture
from privfed_dpo.topology import Topology


@dataclass(frozen=True, slots=True)
class MaskingRules:
    """What a masked sum must hide.

    Attributes:
        fewest_neighbours: fewest contributions to any sum.
        colluders: nodes that may pool what they see and still find no single node's adapter.
    """

    fewest_neighbours: int
    colluders: int

    @property
    def least_degree(self) -> int:
        """Fewest neighbours of a node that takes part.

        All but one of the colluders may stand in the neighbourhood of the last one, and two others
        must be left in its sum.
        """
        return max(self.fewest_neighbours, self.colluders + 1)

    def safe(self, planned: Topology, live: Topology, *, released: bool) -> bool:
        """Whether no coalition of the allowed size finds a single adapter on these links.

        If the round's mean is released, all nodes must take part: the mean less what is summed
        would be the adapters of those that do not.
        """
        if released and not all(live.degrees):
            return False
        weights = integer_weights(planned)
        used = {link: weights[link] for link in live.edges}
        return smallest_mixture(live.nodes, used, self.colluders, mean=released).size > 1


def live_links(
    planned: Topology,
    heard: Mapping[int, frozenset[int]],
    rules: MaskingRules,
    *,
    released: bool = False,
) -> Topology:
    """Return the links of a round's masked sums; without links if there can be none.

    A link lives if both ends heard each other. Nodes left with too few of them sit the round out,
    which may leave their neighbours with too few: what remains is the largest part of the graph in
    which everybody has enough. If some coalition of the allowed size could find a single adapter
    there, nobody averages; in the last round that changes nothing about the mean.

    Args:
        planned: the round's graph.
        heard: node -> the neighbours it says it heard; nodes that said nothing are missing.
        rules: what the sums must hide.
        released: whether the mean of this round is released: it is the last one.
    """
    links = {
        (i, j)
        for i, j in planned.edges
        if j in heard.get(i, frozenset()) and i in heard.get(j, frozenset())
    }
    while True:
        degrees = Topology.of(planned.nodes, links).degrees
        kept = {(i, j) for i, j in links if min(degrees[i], degrees[j]) >= rules.least_degree}
        if kept == links:
            break
        links = kept
    live = Topology.of(planned.nodes, links)
    if links and not rules.safe(planned, live, released=released):
        return Topology.of(planned.nodes, ())
    return live


def links_digest(live: Topology) -> bytes:
    """SHA-256 of the links, in order."""
    text = ";".join(f"{i}-{j}" for i, j in live.edges)
    return hashlib.sha256(b"privfed-dpo/masked-links/" + text.encode()).digest()
