"""The vocabulary of the protocol: who takes part, in which phase, with what randomness."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, NewType

import numpy as np
from numpy.typing import NDArray

ClientId = NewType("ClientId", int)
"""Public number of one client, 0 <= id < 2**32, fixed at enrolment."""

Entropy = Callable[[int], bytes]
"""Source of secret bytes: `os.urandom` in production, a seeded stream only in tests."""

SERVER: Final = "server"
"""Name of the aggregator where an error has to name a culprit that is not a client."""

Culprit = ClientId | Literal["server"]

RingVector = NDArray[np.unsignedinteger[Any]]
"""Vector of ring elements, shape [vector_length], dtype uint16, uint32 or uint64."""


class Phase(StrEnum):
    """The five exchanges of a round, in order; each is one request and one reply per client."""

    ADVERTISE_KEYS = "AdvertiseKeys"
    SHARE_KEYS = "ShareKeys"
    MASKED_INPUT = "MaskedInput"
    CONSISTENCY_CHECK = "ConsistencyCheck"
    UNMASK = "Unmask"


@dataclass(frozen=True, slots=True)
class Dispute:
    """Shares that contradict what their owner published: the owner lied, or holders did.

    A dealer of false shares and a holder that changes what it was dealt look alike to everybody
    but the two of them, so a dispute never says which.

    Attributes:
        owner: client whose secret the shares are of.
        holders: who revealed them, ascending. The owner is among them only if the share it kept
            itself is off, for which it alone can be to blame.
        at_least: how many of the holders lied if the owner did not.

    Guarantee: the owner lied, or at least `at_least` of the holders did. Where it is all of them
    (the wrong shares were found) this supposes that at most (shares - t) // 2 of the owner's
    revealed shares are wrong; more liars than that can agree on shares that let honest ones look
    wrong.
    """

    owner: ClientId
    holders: tuple[ClientId, ...]
    at_least: int

    def __str__(self) -> str:
        if self.holders == (self.owner,):
            return f"the share that client {self.owner} kept contradicts what it published"
        against = f"what client {self.owner} published"
        if len(self.holders) == 1:
            return f"the share of client {self.holders[0]} contradicts {against}: one of them lied"
        named = ", ".join(map(str, self.holders))
        some = "all" if self.at_least == len(self.holders) else f"at least {self.at_least}"
        return (
            f"the shares of clients {named} contradict {against}: client {self.owner} lied, or "
            f"{some} of them did"
        )


@dataclass(frozen=True, slots=True)
class AggregateResult:
    """What a finished round gives the server, and all it gives the server.

    Attributes:
        total: sum of the survivors' vectors modulo 2**modulus_bits, shape [vector_length], dtype
            uint16, uint32 or uint64.
        survivors: clients whose vector is in `total`, ascending.
        dropped: per phase, the clients whose valid reply was missing when it closed, ascending.
            Clients lost in `ConsistencyCheck` or `Unmask` are still among the survivors.
        disputes: shares found wrong, by ascending owner; the sum is right in spite of them. Only
            shares that stood in the way were looked at, so a lie may stand here once or not at all.
    """

    total: RingVector
    survivors: tuple[ClientId, ...]
    dropped: Mapping[Phase, tuple[ClientId, ...]]
    disputes: tuple[Dispute, ...] = ()
