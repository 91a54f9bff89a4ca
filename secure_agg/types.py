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
class AggregateResult:
    """What a finished round gives the server, and all it gives the server.

    Attributes:
        total: sum of the survivors' vectors modulo 2**modulus_bits, shape [vector_length], dtype
            uint16, uint32 or uint64.
        survivors: clients whose vector is in `total`, ascending.
        dropped: per phase, the clients whose valid reply was missing when it closed, ascending.
            Clients lost in `ConsistencyCheck` or `Unmask` are still among the survivors.
        liars: clients whose revealed share contradicted the secret the others restored; the sum is
            right in spite of them.
    """

    total: RingVector
    survivors: tuple[ClientId, ...]
    dropped: Mapping[Phase, tuple[ClientId, ...]]
    liars: tuple[ClientId, ...] = ()
