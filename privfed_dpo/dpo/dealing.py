"""Micro-batches dealt out over processes, and what each of them found put together again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy.typing as npt

_Array = TypeVar("_Array", bound=npt.NDArray[Any])


class Peers(Protocol):
    """The processes of one client, this one included; each call is made by all of them at once."""

    def added(self, values: _Array) -> _Array:
        """Return the sum of everybody's arrays, which have one shape and type."""

    def most(self, count: int) -> int:
        """Return the largest of everybody's counts."""


@dataclass(frozen=True, slots=True)
class Deal:
    """Which micro-batches a process takes.

    Attributes:
        rank: this process, from 0.
        processes: how many there are.
        peers: all of them; None for a process that works alone.
        in_step: whether every process must send as many micro-batches through the model as all
            others, because they gather its weights from each other. A process that has none left
            then repeats another's, and its result counts for nothing.
    """

    rank: int = 0
    processes: int = 1
    peers: Peers | None = field(default=None, repr=False)
    in_step: bool = False

    def turns(self, batches: Sequence[npt.NDArray[Any]]) -> Iterator[tuple[npt.NDArray[Any], bool]]:
        """Yields this process's micro-batches, each with whether its result counts.

        Over all processes every micro-batch counts once.

        Args:
            batches: the same in every process.
        """
        for start in range(0, len(batches), self.processes):
            place = start + self.rank
            if place < len(batches):
                yield batches[place], True
            elif self.in_step:
                yield batches[start], False

    def passes(self, count: int) -> int:
        """Returns how many passes to make where this process has `count` of its own to make."""
        return self.peers.most(count) if self.peers is not None and self.in_step else count

    def together(self, values: _Array) -> _Array:
        """Returns what all processes found: arrays that are 0 where others filled them, or parts.

        Adding a zero changes no floating-point number, and integers add up exactly in any order.
        """
        return values if self.peers is None else self.peers.added(values)


ALONE = Deal()
"""One process that takes everything."""
