"""All clients in this process, with simulated drop-outs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from privfed_dpo.engine.exchange import Exchange
from privfed_dpo.engine.messages import PLAIN_INPUT, START
from secure_agg import Phase

Handler = Callable[[bytes], bytes]

STEPS = (START, *(phase.value for phase in list(Phase)[1:]))


class Losses(Protocol):
    """Who is gone, and when."""

    def vanished(self, round_number: int, client: int, step: str) -> bool:
        """Whether `client` is gone when `step` of this round reaches it."""


@dataclass(frozen=True, slots=True)
class Dropouts:
    """Which clients vanish, and when: decided by a public seed, the same on every replay.

    Attributes:
        rate: probability that a client vanishes in a round.
        seed: public seed of the simulation.
        only_step: if given, vanishing happens before this step; else at a uniformly random one.
    """

    rate: float
    seed: int
    only_step: str | None = None

    def vanished(self, round_number: int, client: int, step: str) -> bool:
        """Whether `client` is gone when `step` of this round reaches it."""
        label = f"dropout/{self.seed}/{round_number}/{client}".encode()
        digest = hashlib.sha256(label).digest()
        rng = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
        unlucky, place = rng.random() < self.rate, int(rng.integers(len(STEPS)))
        first = self.only_step or STEPS[place]
        return bool(unlucky) and _place(step) >= _place(first)


class LoopbackCarrier:
    """Calls each client's handler in turn.

    Args:
        handlers: `handle` of every client, by number.
        dropouts: simulated losses; None loses nobody.

    An exception of a client is a bug of this process, not a lost message, and is let through.
    """

    def __init__(self, handlers: Mapping[int, Handler], dropouts: Losses | None = None) -> None:
        self._handlers = handlers
        self._dropouts = dropouts

    def exchange(self, exchange: Exchange) -> Mapping[int, bytes]:
        """Deliver to every client that is still there and return its reply."""
        replies: dict[int, bytes] = {}
        for client, message in exchange.messages.items():
            gone = self._dropouts and self._dropouts.vanished(exchange.round, client, exchange.step)
            if not gone:
                replies[client] = self._handlers[client](message)
        return replies


def _place(step: str) -> int:
    return 0 if step == PLAIN_INPUT else STEPS.index(step)
