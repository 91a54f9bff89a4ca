"""Tools of an attacker: take messages apart, change them, and put them together again."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from secure_agg import SERVER, ClientId, Phase, SessionFailed
from secure_agg.codec import (
    Frame,
    decode_body,
    decode_frame,
    encode_body,
    encode_reply,
    encode_request,
)
from secure_agg.messages import BODY_TYPES, Body
from secure_agg.params import ProtocolParams
from secure_agg.phases import EXCHANGES, Kind
from tests.support.secagg_rounds import PHASES, Cohort, Round


def frame_of(data: bytes) -> Frame:
    return decode_frame(data, limit_bytes=1 << 30)


def body_of(data: bytes) -> Any:
    frame = frame_of(data)
    return decode_body(frame.body, BODY_TYPES[Kind(frame.kind)])


def changed(body: Body, **fields: Any) -> Any:
    return msgspec.structs.replace(body, **fields)


def from_server(params: ProtocolParams, kind: Kind, client: int, body: Body) -> bytes:
    return encode_request(params.digest, kind, ClientId(client), body)


def from_client(
    cohort: Cohort, kind: Kind, client: int, body: Body | bytes, *, params=None, signer=None
) -> bytes:
    """A frame in the name of `client`, signed by `signer` (itself unless told otherwise)."""
    encoded = body if isinstance(body, bytes) else encode_body(body)
    identity = cohort.identities[ClientId(client if signer is None else signer)]
    digest = (params or cohort.params).digest
    return encode_reply(digest, kind, ClientId(client), encoded, identity)


def tamper_request(round_: Round, phase: Phase, client: int, **fields: Any) -> bytes:
    """The request `client` was to get in `phase`, with some fields of its body replaced."""
    data = round_.requests[phase][ClientId(client)]
    kind = Kind(frame_of(data).kind)
    return from_server(round_.cohort.params, kind, client, changed(body_of(data), **fields))


def tamper_reply(round_: Round, phase: Phase, client: int, **fields: Any) -> bytes:
    """The reply of a lying `client`: its true one with some fields replaced, properly signed."""
    data = round_.answer(ClientId(client), phase)
    kind = next(row.reply for row in EXCHANGES if row.phase is phase)
    return from_client(round_.cohort, kind, client, changed(body_of(data), **fields))


VICTIM = ClientId(0)
LIAR = ClientId(0)


def refused(round_, phase, data, error, *, culprits=(SERVER,)):
    """Deliver `data` to the victim in `phase`; it must refuse, name the culprit and stay dead."""
    victim = round_.clients[VICTIM]
    vector = round_.vectors[VICTIM] if phase is Phase.MASKED_INPUT else None
    with pytest.raises(error) as caught:
        victim.handle(data, vector=vector)
    assert caught.value.culprits == culprits
    assert caught.value.phase is phase
    assert type(victim.failure) is type(caught.value)
    assert (victim.failure.args, vars(victim.failure)) == (caught.value.args, vars(caught.value))
    assert victim.awaiting is None
    with pytest.raises(SessionFailed):
        victim.handle(data, vector=vector)
    return caught.value


def server_refuses(round_, data, error, *, sender=LIAR, culprits=None):
    """The server refuses `data` from `sender`, names it, and still waits for it.

    `culprits` are all it must name, where the sender may not be the one to blame.
    """
    phase = round_.server.phase
    before = repr(round_.server), round_.server.outstanding
    with pytest.raises(error) as caught:
        round_.server.receive(sender, data)
    assert caught.value.culprits == (culprits or (sender,))
    assert caught.value.phase is phase
    assert (repr(round_.server), round_.server.outstanding) == before


def finishes_without_the_liar(round_, *, in_sum=False):
    """Play the round to its end with the liar silent; the sum is exact."""
    phase = round_.server.phase
    for later in PHASES[PHASES.index(phase) :]:
        round_.gone.add(LIAR)
        round_.collect(later)
        round_.close()
    result = round_.server.result
    assert (LIAR in result.survivors) is in_sum
    np.testing.assert_array_equal(result.total, round_.expected_sum(result.survivors))
    assert LIAR in result.dropped[phase]
