"""Sealed boxes: two shares from their owner to one holder, readable by nobody in between.

AES-256-GCM under a key that is used for exactly one box: it is derived from the two sealing keys,
both fresh in this round, and from round, view, owner and holder. That is why a constant nonce is
safe here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secure_agg.errors import AuthenticationFailed, MalformedMessage
from secure_agg.kdf import Label, derive_key, u32
from secure_agg.shamir import SHARE_BYTES, is_share
from secure_agg.types import ClientId

_NONCE: Final = bytes(12)
_TAG_BYTES: Final = 16
BOX_BYTES: Final = 2 * SHARE_BYTES + _TAG_BYTES


@dataclass(frozen=True, slots=True)
class SharePair:
    """One holder's shares of one owner's two secrets; a holder ever reveals one of them.

    Attributes:
        self_mask: share of the self-mask seed, 33 bytes; revealed if the owner survived.
        mask_key: share of the private masking key, 33 bytes; revealed if the owner dropped out.
    """

    self_mask: bytes = field(repr=False)
    mask_key: bytes = field(repr=False)


def _box_key(shared: bytes, view_digest: bytes, owner: ClientId, holder: ClientId) -> AESGCM:
    return AESGCM(derive_key(Label.SHARE_BOX, shared, view_digest, u32(owner), u32(holder)))


def seal(
    pair: SharePair, *, shared: bytes, view_digest: bytes, owner: ClientId, holder: ClientId
) -> bytes:
    """Seal `pair` from `owner` for `holder`.

    Args:
        pair: the two shares.
        shared: X25519 secret of the two clients' sealing keys of this round, 32 bytes.
        view_digest: digest of the roster view, which names the round.
        owner: sender.
        holder: addressee.

    Returns:
        82 bytes.
    """
    box = _box_key(shared, view_digest, owner, holder)
    return box.encrypt(_NONCE, pair.self_mask + pair.mask_key, None)


def unseal(
    box: bytes, *, shared: bytes, view_digest: bytes, owner: ClientId, holder: ClientId
) -> SharePair:
    """Open a box as `holder`.

    Raises:
        AuthenticationFailed: not sealed by `owner` for `holder` in this round and view.
        MalformedMessage: sealed by the owner, but not two shares.
    """
    try:
        plain = _box_key(shared, view_digest, owner, holder).decrypt(_NONCE, box, None)
    except InvalidTag as error:
        raise AuthenticationFailed("a sealed box does not open", culprits=(owner,)) from error
    pair = SharePair(plain[:SHARE_BYTES], plain[SHARE_BYTES:])
    if not (is_share(pair.self_mask) and is_share(pair.mask_key)):
        raise MalformedMessage("a sealed box holds no shares", culprits=(owner,))
    return pair
