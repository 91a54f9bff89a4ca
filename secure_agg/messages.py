"""The bodies of the nine messages, one frozen struct per arrow in docs/SPEC.md.

Sets of clients are bitmaps over the roster (`views`). Lists of clients are strictly ascending.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from secure_agg.kdf import DIGEST_BYTES
from secure_agg.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from secure_agg.params import MAX_CLIENT_ID
from secure_agg.phases import Kind
from secure_agg.seal import BOX_BYTES
from secure_agg.shamir import SHARE_BYTES

WireId = Annotated[int, Meta(ge=0, le=MAX_CLIENT_ID)]
WirePublicKey = Annotated[bytes, Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
WireSignature = Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
WireDigest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
WireBox = Annotated[bytes, Meta(min_length=BOX_BYTES, max_length=BOX_BYTES)]
WireShare = Annotated[bytes, Meta(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]


class Body(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A MessagePack array with exactly the declared fields, in order."""


class Advertisement(Body, frozen=True):
    """AdvertiseKeys, client to server: the keys of this round; the frame's signature covers them.

    Attributes:
        mask_public: X25519 key from which pairwise masks come; its private half is shared.
        seal_public: X25519 key that seals boxes; its private half never leaves the client.
        self_mask_commitment: digest of the self-mask seed.
    """

    mask_public: WirePublicKey
    seal_public: WirePublicKey
    self_mask_commitment: WireDigest


class Neighbour(Body, frozen=True):
    """One neighbour's advertisement as forwarded in the roster, with its owner's signature."""

    client: WireId
    advertisement: Advertisement
    signature: WireSignature


class Roster(Body, frozen=True):
    """Roster, server to client.

    Attributes:
        participants: bitmap of the clients with advertised keys.
        digests: their advertisement digests, 32 bytes each, concatenated in ascending order of ids.
        neighbours: the addressee's neighbours, ascending.
    """

    participants: bytes
    digests: bytes
    neighbours: tuple[Neighbour, ...]


class Box(Body, frozen=True):
    """A sealed pair of shares; `client` is the holder on the way up, the owner on the way down."""

    client: WireId
    sealed: WireBox


class ShareKeys(Body, frozen=True):
    """ShareKeys, client to server: one box per neighbour, ascending, for the named view."""

    view_digest: WireDigest
    boxes: tuple[Box, ...]


class ShareDelivery(Body, frozen=True):
    """ShareDelivery, server to client.

    Attributes:
        sharers: bitmap of the clients that shared their keys and take part from here on.
        boxes: one per neighbour among them, ascending.
    """

    sharers: bytes
    boxes: tuple[Box, ...]


class Survivors(Body, frozen=True):
    """Survivors, server to client: bitmap of the clients whose masked input arrived."""

    survivors: bytes


class ConsistencyCheck(Body, frozen=True):
    """ConsistencyCheck, client to server: digest of what was seen; the frame signs it."""

    statement: WireDigest


class Confirmation(Body, frozen=True):
    """One survivor's frame signature on its ConsistencyCheck."""

    client: WireId
    signature: WireSignature


class UnmaskRequest(Body, frozen=True):
    """UnmaskRequest, server to client: proof that enough survivors saw the same statement.

    It names no peer and no secret: which share a client reveals follows from the signed survivor
    set alone, so a request for both secrets of a peer cannot be written.
    """

    confirmations: tuple[Confirmation, ...]


class Reveal(Body, frozen=True):
    """One share of the one secret of `owner` that the survivor set calls for."""

    owner: WireId
    share: WireShare


class Unmask(Body, frozen=True):
    """Unmask, client to server: one reveal per owner whose shares the sender holds, ascending."""

    reveals: tuple[Reveal, ...]


BODY_TYPES: Final[dict[Kind, type[Body]]] = {
    Kind.ADVERTISE_KEYS: Advertisement,
    Kind.ROSTER: Roster,
    Kind.SHARE_KEYS: ShareKeys,
    Kind.SHARE_DELIVERY: ShareDelivery,
    Kind.SURVIVORS: Survivors,
    Kind.CONSISTENCY_CHECK: ConsistencyCheck,
    Kind.UNMASK_REQUEST: UnmaskRequest,
    Kind.UNMASK: Unmask,
}
"""MASKED_INPUT is missing on purpose: its body is the sharing digest and the raw vector."""
