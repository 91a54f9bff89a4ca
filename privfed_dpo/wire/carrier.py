"""The carrier interface: whoever moves the bytes of an exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from privfed_dpo.engine.rounds import Exchange


class Carrier(Protocol):
    """Delivers messages to clients and collects the replies that come back in time.

    A carrier never looks into the bytes and never invents any. A client that does not answer
    before the carrier's deadline is simply absent from the replies.
    """

    def exchange(self, exchange: Exchange) -> Mapping[int, bytes]:
        """Deliver every message and return the replies, by client number."""
