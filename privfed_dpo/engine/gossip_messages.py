"""What nodes say to each other, and the envelopes' payloads around it.

A node's message to a neighbour is signed over everything in it, run, round, sender and receiver
included, so that whoever carries it can lose it but not change, readdress or replay it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from privfed_dpo.engine.messages import Message, encode
from secure_agg import AuthenticationFailed, IdentityKey, verify_signature

ADAPT = "Adapt"
OFFER = "Offer"
ACKNOWLEDGE = "Acknowledge"
COMBINE = "Combine"
PUBLISH = "Publish"
COMBINE_STEPS = (OFFER, ACKNOWLEDGE, COMBINE)
"""Steps of one mixing: send the adapter, confirm what arrived, average over confirmed links."""

_LABEL = b"privfed-dpo neighbour message 1:"

EVERYBODY = -1
"""Receiver of a notice: all other nodes."""

Kind = Literal["offer", "ack", "hello", "links", "agree", "vote"]


class NeighbourMessage(Message, frozen=True, tag=10):
    """One message from a node to a neighbour.

    Attributes:
        run_id: 16 random bytes that name the run.
        plan_hash: 32 bytes.
        round: training round, from 1.
        kind: an offer holds the sender's adapter, an ack the SHA-256 of the offer it confirms;
            the others are those of `masked_messages`.
        sender: the node that wrote it.
        receiver: the node it is for, or EVERYBODY.
        last_used: the last round in which the sender averaged over this link; 0 if never.
        body: see `kind`.
        signature: Ed25519 by the sender over everything above.
    """

    run_id: bytes
    plan_hash: bytes
    round: int
    kind: Kind
    sender: int
    receiver: int
    last_used: int
    body: bytes
    signature: bytes

    def signed_by(self, identity: IdentityKey) -> NeighbourMessage:
        """The same message under a signature."""
        return msgspec.structs.replace(self, signature=identity.sign(self._signed_bytes()))

    def is_signed_by(self, public: bytes) -> bool:
        """Whether the holder of this key signed it."""
        try:
            verify_signature(public, self._signed_bytes(), self.signature)
        except AuthenticationFailed:
            return False
        return True

    def _signed_bytes(self) -> bytes:
        return _LABEL + encode(msgspec.structs.replace(self, signature=b""))


class Parcel(Message, frozen=True):
    """Bytes between two nodes, as a carrier sees them.

    Attributes:
        peer: whom they are for, or EVERYBODY, on the way out; who is said to have sent them, on
            the way in.
        data: an encoded NeighbourMessage, or in a masked sum a message of `secure_agg`.
    """

    peer: int
    data: bytes


class Parcels(Message, frozen=True, tag=11):
    """What a node hands over in one step, or is handed."""

    parcels: tuple[Parcel, ...] = ()


class GossipStart(Message, frozen=True, tag=12):
    """Opens a round at a node.

    Attributes:
        plan_hash: 32 bytes; a node that holds another plan refuses.
    """

    plan_hash: bytes


class Refusal(Message, frozen=True):
    """A message a node did not take.

    Attributes:
        peer: who is said to have sent it.
        reason: what was wrong.
    """

    peer: int
    reason: str


class NodeReport(Message, frozen=True, tag=13):
    """What a node tells about a step it finished; nothing of it depends on pairs but `drift`.

    Attributes:
        used: neighbours it averaged with.
        settled: neighbours with whom an open exchange of an earlier round was closed by averaging.
        refusals: messages it did not take.
        drift: mean squared distance of its noisy local iterates from their start.
    """

    used: tuple[int, ...] = ()
    settled: tuple[int, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    drift: float | None = None
