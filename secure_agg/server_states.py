"""The server's states, one frozen type each, holding what is known then and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from secure_agg.messages import Advertisement
from secure_agg.params import ProtocolParams
from secure_agg.phases import ServerStage
from secure_agg.types import AggregateResult, ClientId, RingVector
from secure_agg.views import RosterView


@dataclass(frozen=True, slots=True)
class SignedKeys:
    """One client's advertised keys with the signature to forward."""

    advertisement: Advertisement
    signature: bytes


@dataclass(frozen=True, slots=True)
class CollectingKeys:
    """Waiting for advertised keys."""

    stage: ClassVar = ServerStage.COLLECTING_KEYS
    params: ProtocolParams

    @property
    def awaited(self) -> tuple[ClientId, ...]:
        """Clients whose reply is awaited, ascending."""
        return self.params.client_ids


@dataclass(frozen=True, slots=True)
class CollectingShares:
    """The roster is out; waiting for sealed shares."""

    stage: ClassVar = ServerStage.COLLECTING_SHARES
    params: ProtocolParams
    view: RosterView
    keys: Mapping[ClientId, SignedKeys]

    @property
    def awaited(self) -> tuple[ClientId, ...]:
        """Clients whose reply is awaited, ascending."""
        return self.view.participants


@dataclass(frozen=True, slots=True)
class CollectingInputs:
    """The shares are delivered; waiting for masked inputs.

    Attributes:
        sharers: clients that shared their keys, ascending.
        sharing: digest of roster and sharers, which every masked input must carry.
        total: running sum; the one buffer that changes while a phase is open, so that an input can
            be forgotten as soon as it is added.
    """

    stage: ClassVar = ServerStage.COLLECTING_INPUTS
    params: ProtocolParams
    view: RosterView
    keys: Mapping[ClientId, SignedKeys]
    sharers: tuple[ClientId, ...]
    sharing: bytes
    total: RingVector = field(repr=False)

    @property
    def awaited(self) -> tuple[ClientId, ...]:
        """Clients whose reply is awaited, ascending."""
        return self.sharers


@dataclass(frozen=True, slots=True)
class CollectingSignatures:
    """The survivor set is announced; waiting for signatures on it."""

    stage: ClassVar = ServerStage.COLLECTING_SIGNATURES
    params: ProtocolParams
    view: RosterView
    keys: Mapping[ClientId, SignedKeys]
    sharers: tuple[ClientId, ...]
    survivors: tuple[ClientId, ...]
    statement: bytes
    total: RingVector = field(repr=False)

    @property
    def awaited(self) -> tuple[ClientId, ...]:
        """Clients whose reply is awaited, ascending."""
        return self.survivors


@dataclass(frozen=True, slots=True)
class CollectingReveals:
    """The signatures are forwarded; waiting for shares."""

    stage: ClassVar = ServerStage.COLLECTING_REVEALS
    params: ProtocolParams
    view: RosterView
    keys: Mapping[ClientId, SignedKeys]
    sharers: tuple[ClientId, ...]
    survivors: tuple[ClientId, ...]
    signers: tuple[ClientId, ...]
    total: RingVector = field(repr=False)

    @property
    def awaited(self) -> tuple[ClientId, ...]:
        """Clients whose reply is awaited, ascending."""
        return self.signers


@dataclass(frozen=True, slots=True)
class Finished:
    """The round is over and the sum is known."""

    stage: ClassVar = ServerStage.FINISHED
    result: AggregateResult

    @property
    def awaited(self) -> tuple[ClientId, ...]:
        """Nobody."""
        return ()


ServerState = (
    CollectingKeys
    | CollectingShares
    | CollectingInputs
    | CollectingSignatures
    | CollectingReveals
    | Finished
)
