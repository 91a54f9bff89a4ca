"""The server's steps: `admit_*` checks one reply, `close_*` ends a phase with those admitted.

`admit_*` returns what is kept of a reply or raises and changes nothing. `close_*` returns the next
state and the body for each client that takes part in the next phase.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secure_agg.codec import encode_body
from secure_agg.errors import InconsistentView, MalformedMessage, RoundAborted
from secure_agg.kdf import DIGEST_BYTES
from secure_agg.keys import is_canonical, is_degenerate
from secure_agg.messages import (
    Advertisement,
    Body,
    Box,
    Confirmation,
    ConsistencyCheck,
    Neighbour,
    Roster,
    ShareDelivery,
    ShareKeys,
    Survivors,
    Unmask,
    UnmaskRequest,
)
from secure_agg.server_states import (
    CollectingInputs,
    CollectingKeys,
    CollectingReveals,
    CollectingShares,
    CollectingSignatures,
    Finished,
    SignedKeys,
)
from secure_agg.shamir import is_share
from secure_agg.types import AggregateResult, ClientId, Phase, RingVector
from secure_agg.unmasking import recover, remove_masks
from secure_agg.views import (
    RosterView,
    advertisement_digest,
    roster_view,
    sharing_digest,
    survivor_statement,
    to_bitmap,
)

Requests = Mapping[ClientId, Body]


def admit_keys(
    admitted: Mapping[ClientId, SignedKeys],
    sender: ClientId,
    message: Advertisement,
    signature: bytes,
) -> SignedKeys:
    """Keep advertised keys that are sound and nobody else's.

    Raises:
        InconsistentView: a key is degenerate, not canonical or already used in this round. Of two
            clients with one key both are named: whoever copied may have been the faster one.
    """
    used = {
        key: other
        for other, keys in admitted.items()
        for key in (keys.advertisement.mask_public, keys.advertisement.seal_public)
    }
    offered = (message.mask_public, message.seal_public)
    owners = {used[key] for key in offered if key in used}
    if offered[0] == offered[1] or owners:
        raise InconsistentView(
            "an advertised key is used twice",
            culprits=tuple(sorted({sender, *owners})),
            phase=Phase.ADVERTISE_KEYS,
        )
    if any(is_degenerate(key) or not is_canonical(key) for key in offered):
        raise InconsistentView(
            "an advertised key is degenerate or not canonical",
            culprits=(sender,),
            phase=Phase.ADVERTISE_KEYS,
        )
    return SignedKeys(message, signature)


def close_keys(
    state: CollectingKeys, admitted: Mapping[ClientId, SignedKeys]
) -> tuple[CollectingShares, Requests]:
    """Fix the roster and tell every client its neighbours' keys."""
    params = state.params
    _require(state.awaited, admitted, params.quorum, Phase.ADVERTISE_KEYS)
    digests = {
        client: advertisement_digest(params, client, encode_body(keys.advertisement))
        for client, keys in admitted.items()
    }
    view = roster_view(params, digests)
    bitmap = to_bitmap(params, view.participants)
    joined = b"".join(digests[client] for client in view.participants)
    requests = {
        client: Roster(
            bitmap,
            joined,
            tuple(
                Neighbour(peer, admitted[peer].advertisement, admitted[peer].signature)
                for peer in view.graph.neighbours(client)
            ),
        )
        for client in view.participants
    }
    return CollectingShares(params, view, dict(admitted)), requests


def admit_shares(state: CollectingShares, sender: ClientId, message: ShareKeys) -> ShareKeys:
    """Keep the boxes of a client that sees the same roster and serves all its neighbours.

    Raises:
        InconsistentView: another view, or other holders than the sender's neighbours.
    """
    if message.view_digest != state.view.digest:
        raise InconsistentView(
            "the shares are for another roster", culprits=(sender,), phase=Phase.SHARE_KEYS
        )
    if tuple(box.client for box in message.boxes) != state.view.graph.neighbours(sender):
        raise InconsistentView(
            "the boxes are not for the sender's neighbours",
            culprits=(sender,),
            phase=Phase.SHARE_KEYS,
        )
    return message


def close_shares(
    state: CollectingShares, admitted: Mapping[ClientId, ShareKeys]
) -> tuple[CollectingInputs, Requests]:
    """Leave out who did not share, and deliver the boxes among the others.

    Aborts if one of them has too few of them around it to restore its secrets later.
    """
    params, graph = state.params, state.view.graph
    _require(state.awaited, admitted, params.quorum, Phase.SHARE_KEYS)
    sharers = tuple(sorted(admitted))
    _require_holders(state.view, sharers, sharers, params.share_threshold, Phase.SHARE_KEYS)
    bitmap = to_bitmap(params, sharers)
    sealed = {
        (owner, ClientId(box.client)): box.sealed
        for owner in sharers
        for box in admitted[owner].boxes
    }
    requests = {
        holder: ShareDelivery(
            bitmap,
            tuple(
                Box(owner, sealed[owner, holder])
                for owner in graph.neighbours(holder)
                if owner in admitted
            ),
        )
        for holder in sharers
    }
    total = np.zeros(params.vector_length, dtype=params.dtype)
    sharing = sharing_digest(params, state.view, sharers)
    next_state = CollectingInputs(params, state.view, state.keys, sharers, sharing, total)
    return next_state, requests


def add_input(state: CollectingInputs, sender: ClientId, body: memoryview) -> None:
    """Add one masked input to the running sum.

    Raises:
        MalformedMessage: wrong length; nothing was added.
        InconsistentView: masked for another set of clients; nothing was added.
    """
    sharing, vector = body[:DIGEST_BYTES], body[DIGEST_BYTES:]
    if len(vector) != state.params.vector_bytes:
        raise MalformedMessage(
            f"a masked input of {len(vector)} bytes, not {state.params.vector_bytes}",
            culprits=(sender,),
            phase=Phase.MASKED_INPUT,
        )
    if sharing != state.sharing:
        raise InconsistentView(
            "the input is masked for other clients than those that shared keys",
            culprits=(sender,),
            phase=Phase.MASKED_INPUT,
        )
    words = np.frombuffer(vector, dtype=state.total.dtype.newbyteorder("<"))
    np.add(state.total, words, out=state.total)


def close_inputs(
    state: CollectingInputs, admitted: Mapping[ClientId, None]
) -> tuple[CollectingSignatures, Requests]:
    """Announce whose input is in the sum, once everybody's masks can still be removed."""
    params, survivors = state.params, tuple(sorted(admitted))
    _require(state.awaited, survivors, params.quorum, Phase.MASKED_INPUT)
    _require_holders(
        state.view, state.sharers, survivors, params.share_threshold, Phase.MASKED_INPUT
    )
    statement = survivor_statement(params, state.sharing, survivors)
    message = Survivors(to_bitmap(params, survivors))
    next_state = CollectingSignatures(
        params, state.view, state.keys, state.sharers, survivors, statement, state.total
    )
    return next_state, dict.fromkeys(survivors, message)


def admit_confirmation(
    state: CollectingSignatures, sender: ClientId, message: ConsistencyCheck, signature: bytes
) -> bytes:
    """Keep the signature of a client that saw the same survivor set.

    Raises:
        InconsistentView: the client signed something else.
    """
    if message.statement != state.statement:
        raise InconsistentView(
            "the client confirmed another survivor set",
            culprits=(sender,),
            phase=Phase.CONSISTENCY_CHECK,
        )
    return signature


def close_confirmations(
    state: CollectingSignatures, admitted: Mapping[ClientId, bytes]
) -> tuple[CollectingReveals, Requests]:
    """Show every signer all signatures."""
    params, signers = state.params, tuple(sorted(admitted))
    _require(state.awaited, signers, params.quorum, Phase.CONSISTENCY_CHECK)
    _require_holders(
        state.view, state.sharers, signers, params.share_threshold, Phase.CONSISTENCY_CHECK
    )
    message = UnmaskRequest(tuple(Confirmation(client, admitted[client]) for client in signers))
    next_state = CollectingReveals(
        params, state.view, state.keys, state.sharers, state.survivors, signers, state.total
    )
    return next_state, dict.fromkeys(signers, message)


def admit_reveals(
    state: CollectingReveals, sender: ClientId, message: Unmask
) -> Mapping[ClientId, bytes]:
    """Keep one share per owner around the sender.

    Raises:
        InconsistentView: other owners than those whose shares the sender holds.
        MalformedMessage: a share that is no field element.
    """
    present = set(state.sharers)
    owners = tuple(owner for owner in state.view.graph.holders(sender) if owner in present)
    if tuple(reveal.owner for reveal in message.reveals) != owners:
        raise InconsistentView(
            "the reveals are not for the owners around the sender",
            culprits=(sender,),
            phase=Phase.UNMASK,
        )
    if not all(is_share(reveal.share) for reveal in message.reveals):
        raise MalformedMessage("a share out of range", culprits=(sender,), phase=Phase.UNMASK)
    return {ClientId(reveal.owner): reveal.share for reveal in message.reveals}


def close_reveals(
    state: CollectingReveals,
    admitted: Mapping[ClientId, Mapping[ClientId, bytes]],
    dropped: Mapping[Phase, tuple[ClientId, ...]],
    threads: int,
) -> tuple[Finished, Requests]:
    """Restore the secrets, check each against what was published, and remove the masks."""
    _require(state.awaited, admitted, state.params.share_threshold, Phase.UNMASK)
    recovered = recover(state, admitted)
    total: RingVector = state.total
    remove_masks(state, recovered, total, threads)
    result = AggregateResult(total, state.survivors, dropped, recovered.disputes)
    return Finished(result), {}


def _require(
    awaited: tuple[ClientId, ...],
    present: Mapping[ClientId, object] | tuple[ClientId, ...],
    needed: int,
    phase: Phase,
) -> None:
    if len(present) < needed:
        missing = tuple(client for client in awaited if client not in present)
        raise RoundAborted(phase=phase, needed=needed, received=len(present), missing=missing)


def _require_holders(
    view: RosterView,
    owners: tuple[ClientId, ...],
    present: tuple[ClientId, ...],
    needed: int,
    phase: Phase,
) -> None:
    """Abort if some owner's secret could no longer be restored.

    Leaving that owner out would help nobody: on the ring its neighbours have nearly the same
    neighbours, and lack one more.
    """
    here = set(present)
    for owner in owners:
        holders = view.graph.holders(owner)
        missing = tuple(holder for holder in holders if holder not in here)
        if len(holders) - len(missing) < needed:
            raise RoundAborted(
                phase=phase,
                needed=needed,
                received=len(holders) - len(missing),
                missing=missing,
                detail=f"around client {owner}",
            )
