"""Sums of integer vectors that reveal nothing but the sum, with drop-outs tolerated.

Bonawitz et al. (CCS 2017) with the neighbour graph of Bell et al. (CCS 2020). Reading order:
`phases`, `client`, `server`, then the parts they use. docs/SPEC.md fixes the bytes, docs/THREATS.md
and docs/LIMITS.md say what is and is not promised.

A whole round with three clients, one of which vanishes after its masked input; the dictionaries
stand for the network:

>>> import os
>>> import numpy as np
>>> identities = {number: IdentityKey.generate(os.urandom) for number in range(3)}
>>> params = ProtocolParams(
...     round_id=b"run 7 round 1",
...     roster={number: identity.public for number, identity in identities.items()},
...     threshold=2,
...     colluders=0,
...     vector_length=4,
...     modulus_bits=32,
... )
>>> server = ServerSession(params)
>>> clients = {
...     number: ClientSession(params, number, identity, os.urandom)
...     for number, identity in identities.items()
... }
>>> replies = {number: client.advertise() for number, client in clients.items()}
>>> while server.phase is not None:
...     for number, reply in replies.items():
...         server.receive(number, reply)
...     requests = server.close_phase()
...     replies = {}
...     for number, request in requests.items():
...         awaiting = clients[number].awaiting
...         if awaiting is Phase.CONSISTENCY_CHECK and number == 1:
...             continue
...         vector = np.full(4, number + 1, dtype=np.uint32)
...         vector = vector if awaiting is Phase.MASKED_INPUT else None
...         replies[number] = clients[number].handle(request, vector=vector)
>>> server.result.total.tolist(), server.result.survivors
([6, 6, 6, 6], (0, 1, 2))
>>> server.result.dropped[Phase.CONSISTENCY_CHECK]
(1,)
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
from secure_agg.packing import FieldLayout, choose_layout
from secure_agg.params import Neighbourhood, ProtocolParams
from secure_agg.rehearsal import PhaseStatistics, Rehearsal, rehearse
from secure_agg.rotation import Rotation, choose_block_bits
from secure_agg.server_session import ServerSession
from secure_agg.types import (
    SERVER,
    AggregateResult,
    ClientId,
    Dispute,
    Entropy,
    Phase,
    RingVector,
)

__all__ = [
    "SERVER",
    "AggregateResult",
    "AuthenticationFailed",
    "ClientId",
    "ClientSession",
    "Dispute",
    "DuplicateMessage",
    "Entropy",
    "FieldLayout",
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
    "Rotation",
    "RoundAborted",
    "SecAggError",
    "ServerSession",
    "SessionFailed",
    "UnexpectedMessage",
    "UnsafeReveal",
    "choose_block_bits",
    "choose_layout",
    "plan_neighbourhood",
    "rehearse",
    "verify_signature",
]
