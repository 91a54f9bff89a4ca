"""Sums of integer vectors that reveal nothing but the sum, with drop-outs tolerated.

Bonawitz et al. (CCS 2017) with the neighbour graph of Bell et al. (CCS 2020). Reading order:
`phases`, `client`, `server`, then the parts they use. docs/SPEC.md fixes the bytes.
"""

from secure_agg.bounds import NeighbourhoodPlan, plan_neighbourhood
from secure_agg.client_session import ClientSession
from secure_agg.errors import (
    AuthenticationFailed,
    DuplicateMessage,
    InconsistentView,
    InvalidParams,
    LocalProtocolError,
    MalformedMessage,
    RemoteProtocolError,
    RoundAborted,
    SecAggError,
    SessionFailed,
    UnexpectedMessage,
    UnsafeReveal,
)
from secure_agg.keys import IdentityKey, verify_signature
from secure_agg.params import Neighbourhood, ProtocolParams
from secure_agg.rehearsal import PhaseStatistics, Rehearsal, rehearse
from secure_agg.server_session import ServerSession
from secure_agg.types import SERVER, AggregateResult, ClientId, Entropy, Phase, RingVector

__all__ = [
    "SERVER",
    "AggregateResult",
    "AuthenticationFailed",
    "ClientId",
    "ClientSession",
    "DuplicateMessage",
    "Entropy",
    "IdentityKey",
    "InconsistentView",
    "InvalidParams",
    "LocalProtocolError",
    "MalformedMessage",
    "Neighbourhood",
    "NeighbourhoodPlan",
    "Phase",
    "PhaseStatistics",
    "ProtocolParams",
    "Rehearsal",
    "RemoteProtocolError",
    "RingVector",
    "RoundAborted",
    "SecAggError",
    "ServerSession",
    "SessionFailed",
    "UnexpectedMessage",
    "UnsafeReveal",
    "plan_neighbourhood",
    "rehearse",
    "verify_signature",
]
