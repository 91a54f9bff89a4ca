"""The five steps of a client; nothing here keeps state or touches a network.

A step either returns (next state, reply) or raises and leaves its state untouched.
"""

from __future__ import annotations

import numpy as np

from secure_agg.client_checks import (
    blaming,
    check_neighbours,
    check_roster,
    check_set,
    require_neighbourhood,
    verify_frame,
)
from secure_agg.client_states import (
    AwaitingRoster,
    AwaitingShares,
    AwaitingSignatures,
    AwaitingSurvivors,
    Done,
    Ready,
    RoundSecrets,
)
from secure_agg.codec import ReplyBuffer, encode_body
from secure_agg.errors import (
    InconsistentView,
    LocalProtocolError,
    UnsafeReveal,
)
from secure_agg.keys import AgreementKey, draw
from secure_agg.mask import apply_masks, pair_mask_seed, self_mask_seed
from secure_agg.messages import (
    Box,
    ConsistencyCheck,
    Reveal,
    Roster,
    ShareDelivery,
    ShareKeys,
    Survivors,
    Unmask,
    UnmaskRequest,
)
from secure_agg.phases import Kind
from secure_agg.sampling import sample_indices
from secure_agg.seal import SharePair, seal, unseal
from secure_agg.shamir import SECRET_BYTES, split
from secure_agg.types import SERVER, ClientId, Entropy, Phase, RingVector
from secure_agg.views import sharing_digest, survivor_statement


def advertise_keys(state: Ready, entropy: Entropy) -> tuple[AwaitingRoster, bytes]:
    """Make the keys of this round and advertise their public halves."""
    secrets = RoundSecrets(
        AgreementKey.generate(entropy), AgreementKey.generate(entropy), draw(entropy, SECRET_BYTES)
    )
    reply = state.member.sign(Kind.ADVERTISE_KEYS, secrets.advertisement(state.member))
    return AwaitingRoster(state.member, secrets), reply


def share_keys(
    state: AwaitingRoster, roster: Roster, entropy: Entropy
) -> tuple[AwaitingShares, bytes]:
    """Check the roster, find the own neighbours, and seal each its shares of both secrets.

    Raises:
        InconsistentView: the roster lacks this client, is too small, or names other neighbours
            than the graph that follows from it.
        AuthenticationFailed: a neighbour's keys are not signed by that neighbour.
    """
    member, secrets = state.member, state.secrets
    view = check_roster(member, secrets, roster)
    peers = check_neighbours(member, secrets, view, roster)
    holders = view.graph.holders(member.client_id)
    masks, keys = (
        split(
            secret,
            holders=len(holders),
            threshold=member.params.share_threshold,
            entropy=entropy,
        )
        for secret in (secrets.self_mask_secret, secrets.mask_key.private_bytes())
    )
    pairs = {
        holder: SharePair(mask, key) for holder, mask, key in zip(holders, masks, keys, strict=True)
    }
    own = pairs.pop(member.client_id)
    box_secrets: dict[ClientId, bytes] = {}
    for peer, keys_of_peer in peers.items():
        with blaming(peer, Phase.SHARE_KEYS):
            box_secrets[peer] = secrets.seal_key.agree(keys_of_peer.seal_public)
    boxes = tuple(
        Box(
            holder,
            seal(
                pair,
                shared=box_secrets[holder],
                view_digest=view.digest,
                owner=member.client_id,
                holder=holder,
            ),
        )
        for holder, pair in pairs.items()
    )
    reply = member.sign(Kind.SHARE_KEYS, ShareKeys(view.digest, boxes))
    return AwaitingShares(member, secrets, view, peers, box_secrets, own), reply


def mask_input(
    state: AwaitingShares, delivery: ShareDelivery, vector: RingVector, threads: int = 1
) -> tuple[AwaitingSurvivors, bytes]:
    """Open the neighbours' shares and upload the vector under every mask.

    Args:
        state: after ShareKeys.
        delivery: the neighbours' boxes.
        vector: shape [vector_length], dtype of the ring; only read.
        threads: coordinate ranges masked at the same time.

    Raises:
        LocalProtocolError: the vector has the wrong shape or dtype.
        InconsistentView: too few clients or neighbours are left, or the boxes are not exactly
            those of the neighbours that are said to take part.
        AuthenticationFailed: a box does not open.
        MalformedMessage: a box holds no shares.
    """
    member, secrets, view = state.member, state.secrets, state.view
    params, mine = member.params, member.client_id
    if vector.shape != (params.vector_length,) or vector.dtype != np.dtype(params.dtype):
        raise LocalProtocolError(
            f"the vector has shape {vector.shape} and dtype {vector.dtype}, not "
            f"({params.vector_length},) and {np.dtype(params.dtype)}"
        )
    sharers = check_set(params, delivery.sharers, view.participants, mine, Phase.MASKED_INPUT)
    present = set(sharers)
    owners = tuple(peer for peer in state.peers if peer in present)
    if tuple(box.client for box in delivery.boxes) != owners:
        raise InconsistentView(
            "the boxes are not those of the neighbours that take part",
            culprits=(SERVER,),
            phase=Phase.MASKED_INPUT,
        )
    require_neighbourhood(params, len(owners) + 1, Phase.MASKED_INPUT)
    held = {mine: state.own_shares}
    seeds: dict[ClientId, bytes] = {}
    for box in delivery.boxes:
        owner = ClientId(box.client)
        with blaming(owner, Phase.MASKED_INPUT):
            held[owner] = unseal(
                box.sealed,
                shared=state.box_secrets[owner],
                view_digest=view.digest,
                owner=owner,
                holder=mine,
            )
            seeds[owner] = pair_mask_seed(
                secrets.mask_key, state.peers[owner].mask_public, params.digest, mine, owner
            )
    add = [self_mask_seed(secrets.self_mask_secret, params.digest, mine)]
    add += [seed for peer, seed in seeds.items() if mine < peer]
    subtract = [seed for peer, seed in seeds.items() if mine > peer]
    sharing = sharing_digest(params, view, sharers)
    size = len(sharing) + params.vector_bytes
    reply = ReplyBuffer(params.digest, Kind.MASKED_INPUT, mine, size)
    reply.body[: len(sharing)] = sharing
    _write_masked(reply.body[len(sharing) :], vector, add, subtract, threads)
    return AwaitingSurvivors(member, sharers, sharing, held), reply.finish(member.identity)


def confirm_survivors(
    state: AwaitingSurvivors, message: Survivors
) -> tuple[AwaitingSignatures, bytes]:
    """Sign the survivor set together with everything it rests on.

    Raises:
        InconsistentView: this client is missing from it, it holds a client that never shared keys,
            or it is too small, globally or around this client.
    """
    member, params = state.member, state.member.params
    survivors = check_set(
        params, message.survivors, state.sharers, member.client_id, Phase.CONSISTENCY_CHECK
    )
    alive = set(survivors)
    require_neighbourhood(
        params, sum(owner in alive for owner in state.held), Phase.CONSISTENCY_CHECK
    )
    statement = survivor_statement(params, state.sharing, survivors)
    reply = member.sign(Kind.CONSISTENCY_CHECK, ConsistencyCheck(statement))
    return AwaitingSignatures(member, survivors, statement, state.held), reply


def reveal_shares(
    state: AwaitingSignatures, request: UnmaskRequest, entropy: Entropy
) -> tuple[Done, bytes]:
    """Reveal one share per peer, once enough survivors have signed the same statement.

    Which share follows from the signed survivor set: the self-mask share of a survivor, the
    mask-key share of a client that dropped out. In a sparse graph the client verifies a secret
    random sample of the signatures (`bounds` states what that guarantees).

    Raises:
        UnsafeReveal: too few signatures, or a signer that is no survivor or stands twice.
        AuthenticationFailed: a checked signature is not on this client's own statement.
    """
    member, params = state.member, state.member.params
    signers = [ClientId(entry.client) for entry in request.confirmations]
    if signers != sorted(set(signers)) or not set(signers) <= set(state.survivors):
        raise UnsafeReveal(
            "signers must be distinct survivors in ascending order",
            culprits=(SERVER,),
            phase=Phase.UNMASK,
        )
    if len(signers) < params.quorum:
        raise UnsafeReveal(
            f"{len(signers)} signatures, {params.quorum} needed",
            culprits=(SERVER,),
            phase=Phase.UNMASK,
        )
    body = encode_body(ConsistencyCheck(state.statement))
    near = params.neighbourhood
    checks = len(signers) if near is None else min(near.signature_checks, len(signers))
    for place in sample_indices(len(signers), checks, entropy):
        verify_frame(
            params,
            Kind.CONSISTENCY_CHECK,
            signers[place],
            body=body,
            signature=request.confirmations[place].signature,
            phase=Phase.UNMASK,
        )
    alive = set(state.survivors)
    reveals = tuple(
        Reveal(owner, pair.self_mask if owner in alive else pair.mask_key)
        for owner, pair in sorted(state.held.items())
    )
    return Done(member, state.survivors), member.sign(Kind.UNMASK, Unmask(reveals))


def _write_masked(
    target: memoryview,
    vector: RingVector,
    add: list[bytes],
    subtract: list[bytes],
    threads: int,
) -> None:
    """Mask inside the outgoing buffer; the array over it dies here, before the frame is signed."""
    words = np.frombuffer(target, dtype=vector.dtype.newbyteorder("<"))
    words[:] = vector
    apply_masks(words, add=add, subtract=subtract, threads=threads)
