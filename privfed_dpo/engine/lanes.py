"""Audit lanes: canaries that ride through the whole mechanism and cost no utility.

A lane is one dummy coordinate behind the adapter's. Canary i is a record whose gradient points
along lane i alone and is far too long, so that it must be clipped; a secret coin decides whether it
is in. An included canary is Poisson-sampled in every round, clipped, truncated, summed, noised,
masked and opened like any pair, and the server drops the lanes before its step. From the opened
lanes an auditor guesses the coins; guessing too well proves the claimed epsilon wrong (Nasr et al.
2023; Steinke, Nasr and Jagielski 2023; Andrew et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.mechanism.keystream import Keystream
from privfed_dpo.mechanism.sampler import PoissonSampler

OVERSIZE = 10.0
"""How many times longer than max_grad_norm a canary's raw gradient is."""


@dataclass(frozen=True, slots=True)
class LaneCoins:
    """Which canaries are in, and who hosts them. Known to the auditor and the hosts only.

    Attributes:
        included: one bool per lane, shape [m].
        hosts: client number of every lane, shape [m].
    """

    included: npt.NDArray[np.bool_] = field(repr=False)
    hosts: npt.NDArray[np.int64] = field(repr=False)

    @classmethod
    def toss(cls, lanes: int, clients: int, stream: Keystream) -> LaneCoins:
        """Toss a fair coin for every lane and deal the lanes over the clients in turn.

        Args:
            lanes: number of canaries m.
            clients: number of enrolled clients.
            stream: the auditor's secret randomness.
        """
        coins = stream.words(lanes) & np.uint64(1)
        return cls(included=coins.astype(bool), hosts=np.arange(lanes, dtype=np.int64) % clients)

    def of_client(self, client: int) -> tuple[int, ...]:
        """Lanes whose canary is included and lives at this client."""
        return tuple(int(i) for i in np.flatnonzero(self.included & (self.hosts == client)))


@dataclass(frozen=True, slots=True)
class LaneRecord:
    """What the auditor keeps: the coins, and what every opened sum showed in the lanes.

    It says nothing about anybody's pairs.

    Attributes:
        coins: the truth the auditor tries to guess.
        rounds: rounds whose sum was opened, shape [t].
        survivors: clients in each of those sums, shape [t].
        opened: the lanes of those sums in units of max_grad_norm, shape [t, m], float64.
    """

    coins: LaneCoins
    rounds: npt.NDArray[np.int64]
    survivors: npt.NDArray[np.int64]
    opened: npt.NDArray[np.float64] = field(repr=False)

    @classmethod
    def start(cls, coins: LaneCoins) -> LaneRecord:
        """Begin with no round."""
        none = np.zeros(0, dtype=np.int64)
        return cls(coins, none, none, np.zeros((0, coins.included.size)))

    def with_round(
        self, number: int, survivors: int, opened: npt.NDArray[np.float64]
    ) -> LaneRecord:
        """Add the lanes of one opened sum, shape [m]."""
        return LaneRecord(
            coins=self.coins,
            rounds=np.append(self.rounds, number),
            survivors=np.append(self.survivors, survivors),
            opened=np.vstack([self.opened, opened]),
        )

    def arrays(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """The record as named arrays, for a file; `from_arrays` reads them back."""
        return {
            "included": self.coins.included,
            "hosts": self.coins.hosts,
            "rounds": self.rounds,
            "survivors": self.survivors,
            "opened": self.opened,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> LaneRecord:
        """Rebuild a record from `arrays`."""
        return cls(
            coins=LaneCoins(arrays["included"], arrays["hosts"]),
            rounds=arrays["rounds"],
            survivors=arrays["survivors"],
            opened=arrays["opened"],
        )


def lane_sum(
    lanes: Sequence[int],
    count: int,
    *,
    clipper: PairClipper,
    sampler: PoissonSampler,
    stream: Keystream,
) -> npt.NDArray[np.int64]:
    """Return what this client's sampled canaries add to the lanes, shape [count], before noise.

    Args:
        lanes: included lanes hosted here.
        count: number of lanes m.
        clipper: the clipper of the pairs.
        sampler: the sampler of the pairs.
        stream: secret randomness for the sampling.
    """
    chosen = [lanes[i] for i in sampler.draw(len(lanes), stream)]
    gradients = torch.zeros(len(chosen), count, dtype=torch.float64)
    gradients[range(len(chosen)), chosen] = OVERSIZE * clipper.max_grad_norm
    if not chosen:
        return clipper.empty(count).total
    return clipper.clip(gradients).total
