"""Simulated faults of a network without a server: nodes away, links down."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from privfed_dpo.engine.masked_messages import NOTICE_STEPS


@dataclass(frozen=True, slots=True)
class NodeAbsences:
    """Nodes that are away for whole rounds and return: decided by a public seed.

    Attributes:
        rate: probability that a node is away in a round.
        seed: public seed of the simulation.
    """

    rate: float
    seed: int

    def vanished(self, round_number: int, client: int, step: str) -> bool:
        """Whether a node is away in this round, whatever the step."""
        del step
        return _uniform(f"away/{self.seed}/{round_number}/{client}") < self.rate


@dataclass(frozen=True, slots=True)
class LinksDown:
    """Links that carry nothing for a whole round, in neither direction.

    Notices to everybody go by way of whoever keeps the rounds in step, not over a link.

    Attributes:
        rate: probability that a link is down in a round.
        seed: public seed of the simulation.
    """

    rate: float
    seed: int

    def __call__(self, round_number: int, step: str, sender: int, receiver: int) -> bool:
        """Whether the network loses a message between these two nodes."""
        if step in NOTICE_STEPS:
            return False
        ends = f"{min(sender, receiver)}/{max(sender, receiver)}"
        return _uniform(f"link/{self.seed}/{round_number}/{ends}") < self.rate


def _uniform(label: str) -> float:
    digest = hashlib.sha256(label.encode()).digest()
    return float(np.random.default_rng(np.frombuffer(digest, dtype=np.uint32)).random())
