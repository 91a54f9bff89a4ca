"""What a client verifies before it believes anything the server says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from secure_agg.client_states import Member, RoundSecrets
from secure_agg.codec import encode_body, signed_bytes
from secure_agg.errors import AuthenticationFailed, InconsistentView, MalformedMessage
from secure_agg.kdf import DIGEST_BYTES
from secure_agg.keys import is_canonical, verify_signature
from secure_agg.messages import Advertisement, Roster
from secure_agg.params import ProtocolParams
from secure_agg.phases import Kind
from secure_agg.types import SERVER, ClientId, Phase
from secure_agg.views import RosterView, advertisement_digest, from_bitmap, roster_view


def check_roster(member: Member, secrets: RoundSecrets, roster: Roster) -> RosterView:
    """The view that the roster gives, if it holds this client's keys and enough others."""
    params = member.params
    participants = from_bitmap(params, roster.participants)
    if participants is None or len(roster.digests) != DIGEST_BYTES * len(participants):
        raise MalformedMessage(
            "the roster's sizes do not fit", culprits=(SERVER,), phase=Phase.SHARE_KEYS
        )
    digests = {
        client: roster.digests[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)]
        for place, client in enumerate(participants)
    }
    own = advertisement_digest(params, member.client_id, encode_body(secrets.advertisement(member)))
    if digests.get(member.client_id) != own:
        raise InconsistentView(
            "the roster does not hold this client's keys",
            culprits=(SERVER,),
            phase=Phase.SHARE_KEYS,
        )
    if len(participants) < params.quorum:
        raise InconsistentView(
            f"a roster of {len(participants)} clients, {params.quorum} needed",
            culprits=(SERVER,),
            phase=Phase.SHARE_KEYS,
        )
    entries = {ClientId(entry.client): entry for entry in roster.neighbours}
    for client, entry in entries.items():
        body = encode_body(entry.advertisement)
        if digests.get(client) != advertisement_digest(params, client, body):
            raise InconsistentView(
                f"the keys of client {client} are not those in the roster",
                culprits=(SERVER,),
                phase=Phase.SHARE_KEYS,
            )
    return roster_view(params, digests)


def check_neighbours(
    member: Member, secrets: RoundSecrets, view: RosterView, roster: Roster
) -> dict[ClientId, Advertisement]:
    """The neighbours' keys, if they are those of the agreed graph and signed by their owners.

    Of two neighbours with one key both are named, since either may have copied; a server that
    follows the protocol forwards no such pair.
    """
    expected = view.graph.neighbours(member.client_id)
    if tuple(entry.client for entry in roster.neighbours) != expected:
        raise InconsistentView(
            "the neighbours are not those of the agreed graph",
            culprits=(SERVER,),
            phase=Phase.SHARE_KEYS,
        )
    mine = member.client_id
    seen = {secrets.mask_key.public: mine, secrets.seal_key.public: mine}
    for entry in roster.neighbours:
        client, keys = ClientId(entry.client), entry.advertisement
        verify_frame(
            member.params,
            Kind.ADVERTISE_KEYS,
            client,
            body=encode_body(keys),
            signature=entry.signature,
            phase=Phase.SHARE_KEYS,
        )
        offered = (keys.mask_public, keys.seal_public)
        if not all(map(is_canonical, offered)):
            raise InconsistentView(
                "the server forwards an advertised key that is not canonical",
                culprits=(SERVER, client),
                phase=Phase.SHARE_KEYS,
            )
        owners = {seen[key] for key in offered if key in seen}
        if keys.mask_public == keys.seal_public or owners:
            raise InconsistentView(
                "the server forwards an advertised key that is used twice",
                culprits=tuple(sorted({client, *owners} - {mine})),
                phase=Phase.SHARE_KEYS,
            )
        seen |= {keys.mask_public: client, keys.seal_public: client}
    return {ClientId(entry.client): entry.advertisement for entry in roster.neighbours}


def check_set(
    params: ProtocolParams,
    bitmap: bytes,
    allowed: tuple[ClientId, ...],
    mine: ClientId,
    phase: Phase,
) -> tuple[ClientId, ...]:
    """A set of clients announced by the server, if this client can accept it."""
    clients = from_bitmap(params, bitmap)
    if clients is None:
        raise MalformedMessage("not a set of clients", culprits=(SERVER,), phase=phase)
    if mine not in clients or not set(clients) <= set(allowed):
        raise InconsistentView(
            "the announced set lacks this client or holds one that cannot be in it",
            culprits=(SERVER,),
            phase=phase,
        )
    if len(clients) < params.quorum:
        raise InconsistentView(
            f"the announced set has {len(clients)} clients, {params.quorum} needed",
            culprits=(SERVER,),
            phase=phase,
        )
    return clients


def require_neighbourhood(params: ProtocolParams, present: int, phase: Phase) -> None:
    """Refuse to go on when too few share holders are left around this client."""
    if present < params.share_threshold:
        raise InconsistentView(
            f"{present} clients are left around this one, {params.share_threshold} needed",
            culprits=(SERVER,),
            phase=phase,
        )


def verify_frame(
    params: ProtocolParams,
    kind: Kind,
    client: ClientId,
    *,
    body: bytes,
    signature: bytes,
    phase: Phase,
) -> None:
    """Verify a client's frame signature that the server forwarded."""
    verify_signature(
        params.identity_of(client),
        signed_bytes(params.digest, kind, client, body),
        signature,
        culprits=(SERVER,),
        phase=phase,
        detail=f"what the server forwards as signed by client {client} is not",
    )


@contextmanager
def blaming(peer: ClientId, phase: Phase) -> Iterator[None]:
    """Name `peer`, or the server that stands between, for what turns out wrong with its data."""
    try:
        yield
    except (AuthenticationFailed, MalformedMessage) as error:
        raise type(error)(error.detail, culprits=(SERVER, peer), phase=phase) from error
