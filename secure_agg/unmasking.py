"""From revealed shares to the plain sum: restore secrets, check them, remove the masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from secure_agg.errors import RoundAborted
from secure_agg.keys import AgreementKey
from secure_agg.mask import apply_masks, pair_mask_seed, self_mask_seed
from secure_agg.server_states import CollectingReveals
from secure_agg.shamir import UnrecoverableSecret, combine, correct
from secure_agg.types import ClientId, Dispute, Phase, RingVector
from secure_agg.views import commit_self_mask


@dataclass(frozen=True, slots=True)
class Recovered:
    """The one secret of every client whose masks are still in the sum.

    Attributes:
        self_masks: self-mask secret of every survivor.
        mask_keys: masking key of every client that dropped out after sharing it and has a survivor
            for a neighbour.
        disputes: shares found wrong, by ascending owner.
    """

    self_masks: Mapping[ClientId, bytes] = field(repr=False)
    mask_keys: Mapping[ClientId, AgreementKey] = field(repr=False)
    disputes: tuple[Dispute, ...]


def recover(
    state: CollectingReveals, reveals: Mapping[ClientId, Mapping[ClientId, bytes]]
) -> Recovered:
    """Restore every secret the survivor set calls for.

    Every secret is interpolated from the shares of those holders that stand in the fewest disputes
    so far; only if it is not the published one are all shares decoded with errors, which is slow.

    Guarantee: L lying holders and D lying dealers cost at most L (D + 1) + D decodings while each
    owner has t right shares of honest holders. A dispute with a lying dealer is the only one an
    honest holder can be in, so D + 1 disputes put a liar behind all of them.

    Args:
        state: the closing state.
        reveals: holder -> owner -> share.

    Raises:
        RoundAborted: an owner's secret cannot be restored: too few shares, or more wrong ones than
            can be corrected.
    """
    alive = set(state.survivors)
    self_masks: dict[ClientId, bytes] = {}
    mask_keys: dict[ClientId, AgreementKey] = {}
    disputes: list[Dispute] = []
    for owner in state.sharers:
        secret = _restore(state, owner, reveals, disputes)
        if owner in alive:
            self_masks[owner] = secret
        else:
            mask_keys[owner] = AgreementKey.from_private_bytes(secret)
    return Recovered(self_masks, mask_keys, tuple(disputes))


def remove_masks(
    state: CollectingReveals, recovered: Recovered, total: RingVector, threads: int
) -> None:
    """Take out of `total`, in place, every mask that did not cancel.

    Left in the sum are each survivor's self mask, and the pairwise masks between a survivor and a
    client that dropped out; masks between two dropped clients never entered it.
    """
    digest = state.params.digest
    survivors = set(state.survivors)
    to_add: list[bytes] = []
    to_subtract = [
        self_mask_seed(secret, digest, owner) for owner, secret in recovered.self_masks.items()
    ]
    for lost, key in recovered.mask_keys.items():
        for peer in state.view.graph.neighbours(lost):
            if peer in survivors:
                peer_public = state.keys[peer].advertisement.mask_public
                seed = pair_mask_seed(key, peer_public, digest, lost, peer)
                (to_subtract if peer < lost else to_add).append(seed)
    apply_masks(total, add=to_add, subtract=to_subtract, threads=threads)


def _is_published(state: CollectingReveals, owner: ClientId, secret: bytes) -> bool:
    """Whether `secret` is the one that `owner` committed to when it advertised its keys."""
    published = state.keys[owner].advertisement
    if owner in state.survivors:
        return commit_self_mask(state.params, owner, secret) == published.self_mask_commitment
    return AgreementKey.from_private_bytes(secret).public == published.mask_public


def _restore(
    state: CollectingReveals,
    owner: ClientId,
    reveals: Mapping[ClientId, Mapping[ClientId, bytes]],
    disputes: list[Dispute],
) -> bytes:
    """One owner's secret; appends to `disputes` what was found wrong on the way."""
    holders = state.view.graph.holders(owner)
    points = {holder: point for point, holder in enumerate(holders, start=1) if holder in reveals}
    shares = {point: reveals[holder][owner] for holder, point in points.items()}
    needed = state.params.share_threshold
    if len(shares) < needed:
        raise RoundAborted(
            phase=Phase.UNMASK,
            needed=needed,
            received=len(shares),
            missing=tuple(holder for holder in holders if holder not in reveals),
            detail=f"shares of client {owner}",
            disputes=tuple(disputes),
        )
    doubts = Counter(holder for dispute in disputes for holder in dispute.holders)
    trusted = sorted(points, key=lambda holder: (doubts[holder], holder))[:needed]
    secret = _interpolated({points[holder]: shares[points[holder]] for holder in trusted}, needed)
    if secret is not None and _is_published(state, owner, secret):
        return secret
    secret, wrong = _corrected(shares, needed)
    if secret is not None and _is_published(state, owner, secret):
        lying = tuple(holders[point - 1] for point in wrong)
        disputes.append(Dispute(owner, lying, len(lying)))
        return secret
    others = tuple(holder for holder in points if holder != owner)
    disputes.append(Dispute(owner, others, _correctable(shares, needed) + 1))
    raise RoundAborted(
        phase=Phase.UNMASK,
        needed=needed,
        received=len(shares),
        missing=(),
        detail=str(disputes[-1]),
        disputes=tuple(disputes),
    )


def _correctable(shares: Mapping[int, bytes], needed: int) -> int:
    """How many wrong shares `correct` is sure to find."""
    return (len(shares) - needed) // 2


def _interpolated(shares: Mapping[int, bytes], needed: int) -> bytes | None:
    try:
        return combine(shares, threshold=needed)
    except UnrecoverableSecret:
        return None


def _corrected(shares: Mapping[int, bytes], needed: int) -> tuple[bytes | None, tuple[int, ...]]:
    if not _correctable(shares, needed):
        return None, ()
    try:
        return correct(shares, threshold=needed)
    except UnrecoverableSecret:
        return None, ()
