"""Opening what arrived: every fault becomes a typed error that names a culprit and the phase."""

from __future__ import annotations

from typing import TypeVar

from secure_agg.codec import Frame, decode_body, decode_frame, frame_limit_bytes, signed_bytes
from secure_agg.errors import MalformedMessage, UnexpectedMessage
from secure_agg.keys import verify_signature
from secure_agg.messages import Body
from secure_agg.params import ProtocolParams
from secure_agg.phases import Exchange, Kind
from secure_agg.types import SERVER, ClientId, Culprit

_BodyT = TypeVar("_BodyT", bound=Body)


def open_request(
    data: bytes, params: ProtocolParams, exchange: Exchange, addressee: ClientId
) -> Frame:
    """The frame a client was sent, if it is the one that `exchange` calls for.

    Raises:
        MalformedMessage: no frame of this protocol, or longer than one of this kind can be.
        UnexpectedMessage: another kind, round or addressee.
    """
    if exchange.request is None:
        raise UnexpectedMessage(
            found="a message",
            expected="none before keys are advertised",
            culprits=(SERVER,),
            phase=exchange.phase,
        )
    return _open(data, params, exchange, exchange.request, party=addressee, culprit=SERVER)


def open_reply(data: bytes, params: ProtocolParams, exchange: Exchange, sender: ClientId) -> Frame:
    """The frame that came over `sender`'s channel, if `sender` signed it for this exchange.

    Raises:
        MalformedMessage: no frame of this protocol, or longer than one of this kind can be.
        UnexpectedMessage: another kind, round or sender.
        AuthenticationFailed: not signed by `sender`.
    """
    frame = _open(data, params, exchange, exchange.reply, party=sender, culprit=sender)
    verify_signature(
        params.identity_of(sender),
        signed_bytes(params.digest, exchange.reply, sender, frame.body),
        frame.signature,
        culprits=(sender,),
        phase=exchange.phase,
    )
    return frame


def parse(frame: Frame, expected: type[_BodyT], exchange: Exchange, culprit: Culprit) -> _BodyT:
    """The frame's body as a message.

    Raises:
        MalformedMessage: it is none.
    """
    try:
        return decode_body(frame.body, expected)
    except MalformedMessage as error:
        raise MalformedMessage(error.detail, culprits=(culprit,), phase=exchange.phase) from error


def _open(
    data: bytes,
    params: ProtocolParams,
    exchange: Exchange,
    expected: Kind,
    *,
    party: ClientId,
    culprit: Culprit,
) -> Frame:
    try:
        frame = decode_frame(
            data, limit_bytes=max(frame_limit_bytes(params, kind) for kind in Kind)
        )
    except MalformedMessage as error:
        raise MalformedMessage(error.detail, culprits=(culprit,), phase=exchange.phase) from error
    for what, found, wanted in (
        ("message", Kind(frame.kind).name, expected.name),
        ("round", frame.round_digest.hex(), params.digest.hex()),
        ("party", str(frame.party), str(party)),
    ):
        if found != wanted:
            raise UnexpectedMessage(
                found=f"{what} {found}",
                expected=f"{what} {wanted}",
                culprits=(culprit,),
                phase=exchange.phase,
            )
    if len(data) > frame_limit_bytes(params, expected):
        raise MalformedMessage(
            f"{len(data)} bytes are more than a {expected.name} can have",
            culprits=(culprit,),
            phase=exchange.phase,
        )
    return frame
