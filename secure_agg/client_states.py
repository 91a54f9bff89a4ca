"""A client's states, one frozen type each, holding what is known then and no more.

Private keys are gone once the masked input is built, all secrets once the reveals are out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from secure_agg.codec import encode_body, encode_reply
from secure_agg.keys import AgreementKey, IdentityKey
from secure_agg.messages import Advertisement, Body
from secure_agg.params import ProtocolParams
from secure_agg.phases import ClientStage, Kind
from secure_agg.seal import SharePair
from secure_agg.types import ClientId
from secure_agg.views import RosterView, commit_self_mask


@dataclass(frozen=True, slots=True)
class Member:
    """Who this client is in this round."""

    params: ProtocolParams
    client_id: ClientId
    identity: IdentityKey

    def sign(self, kind: Kind, body: Body) -> bytes:
        """The signed frame of a reply."""
        encoded = encode_body(body)
        return encode_reply(self.params.digest, kind, self.client_id, encoded, self.identity)


@dataclass(frozen=True, slots=True)
class RoundSecrets:
    """What a client makes for one round and never reuses; the repr shows public keys only."""

    mask_key: AgreementKey
    seal_key: AgreementKey
    self_mask_secret: bytes = field(repr=False)

    def advertisement(self, member: Member) -> Advertisement:
        """The public side of these secrets."""
        commitment = commit_self_mask(member.params, member.client_id, self.self_mask_secret)
        return Advertisement(self.mask_key.public, self.seal_key.public, commitment)


@dataclass(frozen=True, slots=True)
class Ready:
    """Before the first message."""

    stage: ClassVar = ClientStage.READY
    member: Member


@dataclass(frozen=True, slots=True)
class AwaitingRoster:
    """Keys are advertised."""

    stage: ClassVar = ClientStage.AWAITING_ROSTER
    member: Member
    secrets: RoundSecrets


@dataclass(frozen=True, slots=True)
class AwaitingShares:
    """Shares are on their way to the neighbours.

    Attributes:
        box_secrets: per neighbour, what the two sealing keys agree on.
        own_shares: the shares this client keeps of its own secrets.
    """

    stage: ClassVar = ClientStage.AWAITING_SHARES
    member: Member
    secrets: RoundSecrets
    view: RosterView
    peers: Mapping[ClientId, Advertisement]
    box_secrets: Mapping[ClientId, bytes] = field(repr=False)
    own_shares: SharePair


@dataclass(frozen=True, slots=True)
class AwaitingSurvivors:
    """The masked input is out; private keys are gone, shares of others are held."""

    stage: ClassVar = ClientStage.AWAITING_SURVIVORS
    member: Member
    sharers: tuple[ClientId, ...]
    sharing: bytes
    held: Mapping[ClientId, SharePair]


@dataclass(frozen=True, slots=True)
class AwaitingSignatures:
    """The survivor set is signed; it alone decides which share of whom may be revealed."""

    stage: ClassVar = ClientStage.AWAITING_SIGNATURES
    member: Member
    survivors: tuple[ClientId, ...]
    statement: bytes
    held: Mapping[ClientId, SharePair]


@dataclass(frozen=True, slots=True)
class Done:
    """Everything is said; no secret is left.

    Attributes:
        survivors: the set that enough clients signed; the opened sum is over these.
    """

    stage: ClassVar = ClientStage.DONE
    member: Member
    survivors: tuple[ClientId, ...]


ClientState = (
    Ready | AwaitingRoster | AwaitingShares | AwaitingSurvivors | AwaitingSignatures | Done
)
