"""The part of a plan that a run without a server adds: the graph, the order, the weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from privfed_dpo.engine.gossip_messages import ADAPT, COMBINE_STEPS
from privfed_dpo.engine.masked_links import MaskingRules
from privfed_dpo.engine.masked_messages import MASKED_STEPS
from privfed_dpo.engine.mixing import WEIGHT_BITS, Spectrum, integer_weights, mixing_matrix
from privfed_dpo.engine.neighbourhood_exposure import exposures
from privfed_dpo.topology import GraphSettings

SENT_STEPS_PER_UNIT = 2.0**32
"""Grid of the adapters that nodes send: far finer than float32 at the size of a weight."""

_VALUE_LIMIT = 1024
"""Largest magnitude of a weight of an adapter; 2^(10 + 32 + 16) leaves room in 64 bits."""

_OFFER_BYTES, _ENVELOPES_BYTES = 400, 200
_SUM_BYTES, _SUM_PEER_BYTES = 1070, 460

Order = Literal["atc", "cta"]


@dataclass(frozen=True, slots=True)
class GossipPlan:
    """How nodes average.

    Attributes:
        graph: what each round's graph is made from.
        order: atc adapts, then combines; cta combines, then adapts (Sayed 2014).
        masking: what secure sums over neighbourhoods must hide; None sends adapters in clear.
    """

    graph: GraphSettings
    order: Order
    masking: MaskingRules | None = None

    @property
    def mixing_steps(self) -> tuple[str, ...]:
        """Steps of one averaging, in order."""
        return COMBINE_STEPS if self.masking is None else MASKED_STEPS

    @property
    def steps(self) -> tuple[str, ...]:
        """Steps of a round, in order."""
        mixing = self.mixing_steps
        return (ADAPT, *mixing) if self.order == "atc" else (*mixing, ADAPT)

    @property
    def value_limit_steps(self) -> int:
        """Largest magnitude of a coordinate that is sent, in steps of the grid it is sent on."""
        return int(_VALUE_LIMIT * SENT_STEPS_PER_UNIT)

    @property
    def degree(self) -> int:
        """Most neighbours of a node, in the first round's graph."""
        return max(self.graph.of_round(1).degrees)

    def upload_bytes(self, vector_bytes: int) -> int:
        """About what one node sends in a round: a vector to each neighbour, and what is around it.

        Args:
            vector_bytes: size of one vector; the same, masked or not.
        """
        if self.masking is None:
            return self.degree * (vector_bytes + _OFFER_BYTES) + _ENVELOPES_BYTES
        return self.degree * (vector_bytes + _SUM_BYTES + _SUM_PEER_BYTES * self.degree)

    def describe(self) -> dict[str, object]:
        """The graph and its spectrum as plain facts."""
        first = self.graph.of_round(1)
        spectrum = Spectrum.of(mixing_matrix(first))
        text = ";".join(f"{i}-{j}" for i, j in first.edges)
        return {
            "topology": self.graph.kind,
            "order": self.order,
            "links": len(first.edges),
            "links_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "degree_min": min(first.degrees),
            "degree_max": max(first.degrees),
            "diameter": first.diameter,
            "rho": round(spectrum.rho, 9),
            "spectral_gap": round(spectrum.gap, 9),
            "eigenvalues": [round(value, 9) for value in spectrum.eigenvalues],
            "graph_seed": self.graph.seed,
            "redraw_rounds": self.graph.redraw_rounds,
            "weight_bits": WEIGHT_BITS,
            "masking": self._describe_masking(),
        }

    def _describe_masking(self) -> dict[str, object] | None:
        """What coalitions find out on the first round's graph with all links up."""
        if self.masking is None:
            return None
        first = self.graph.of_round(1)
        seen = exposures(first.nodes, integer_weights(first), self.masking.colluders)
        return {
            "fewest_neighbours": self.masking.fewest_neighbours,
            "colluders": self.masking.colluders,
            "coalitions": [exposure.describe() for exposure in seen],
        }
