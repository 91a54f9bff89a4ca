"""The carrier interface: whoever moves the bytes of an exchange."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Protocol, TypeVar

from privfed_dpo.engine.exchange import Exchange

_Result = TypeVar("_Result")


class Carrier(Protocol):
    """Delivers messages to clients and collects the replies that come back in time.

    A carrier never looks into the bytes and never invents any. A client that does not answer
    before the carrier's deadline is simply absent from the replies.
    """

    def exchange(self, exchange: Exchange) -> Mapping[int, bytes]:
        """Deliver every message and return the replies, by client number."""


def drive(script: Generator[Exchange, Mapping[int, bytes], _Result], carrier: Carrier) -> _Result:
    """Run a script of exchanges over a carrier until it ends; return its result."""
    try:
        exchange = next(script)
        while True:
            exchange = script.send(carrier.exchange(exchange))
    except StopIteration as stop:
        result: _Result = stop.value
        return result
