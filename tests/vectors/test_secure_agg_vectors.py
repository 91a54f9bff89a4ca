"""The recorded rounds, replayed by the package and by a plain second computation."""

import json
from pathlib import Path

import numpy as np
import pytest

from secure_agg import (
    ClientSession,
    IdentityKey,
    Neighbourhood,
    ProtocolParams,
    RemoteProtocolError,
    ServerSession,
)
from tests.support.secagg_plain import play, x25519
from tests.support.secagg_rounds import PHASES, Cohort, Round

DOCUMENT = json.loads(Path(__file__).with_name("secure_agg_rounds.json").read_text())
ROUNDS, REFUSED = DOCUMENT["rounds"], DOCUMENT["refused"]
NAMES = [vector["name"] for vector in ROUNDS]


def enrolled(given):
    """Parameters and identities of a recorded round."""
    identities = {
        int(c): IdentityKey.from_private_bytes(bytes.fromhex(entry["identity"]))
        for c, entry in given["clients"].items()
    }
    near = given["neighbourhood"]
    params = ProtocolParams(
        bytes.fromhex(given["round_id"]),
        {c: identity.public for c, identity in identities.items()},
        threshold=given["threshold"],
        colluders=given["colluders"],
        vector_length=given["vector_length"],
        modulus_bits=given["modulus_bits"],
        neighbourhood=Neighbourhood(*near) if near else None,
    )
    return params, identities


@pytest.mark.parametrize("vector", ROUNDS, ids=NAMES)
def test_the_package_gives_the_recorded_bytes(vector):
    given = vector["given"]
    params, identities = enrolled(given)
    assert params.digest.hex() == vector["params_digest"]
    round_ = Round(
        Cohort(params, identities), {phase: given["lost"][phase.value] for phase in PHASES}
    )
    for c, entry in given["clients"].items():
        tape = iter(bytes.fromhex(entry["entropy"]))
        round_.clients[int(c)] = ClientSession(
            params, int(c), identities[int(c)], lambda n, t=tape: bytes(next(t) for _ in range(n))
        )
        round_.vectors[int(c)] = np.array(entry["vector"], dtype=params.dtype)
    round_.run()
    for phase in PHASES:
        recorded = vector["messages"][phase.value]
        for direction, sent in (
            ("requests", round_.requests[phase]),
            ("replies", round_.replies[phase]),
        ):
            hexed = {str(c): message.hex() for c, message in sent.items() if message}
            assert hexed == recorded[direction]
    assert round_.server.result.total.tolist() == vector["total"]
    assert list(round_.server.result.survivors) == vector["survivors"]


@pytest.mark.parametrize("vector", ROUNDS, ids=NAMES)
def test_a_plain_second_computation_gives_the_same_bytes(vector):
    played = play(vector["given"])
    for phase in PHASES:
        for direction in ("requests", "replies"):
            computed = {str(c): m.hex() for c, m in played[phase.value][direction].items()}
            assert computed == vector["messages"][phase.value][direction]
    assert played["total"] == vector["total"]
    assert played["survivors"] == vector["survivors"]


@pytest.mark.parametrize("vector", ROUNDS, ids=NAMES)
def test_the_recorded_total_is_the_plain_sum(vector):
    given = vector["given"]
    columns = zip(*(given["clients"][str(c)]["vector"] for c in vector["survivors"]), strict=True)
    assert vector["total"] == [sum(column) % 2 ** given["modulus_bits"] for column in columns]


def test_the_plain_ladder_meets_the_standard():
    """RFC 7748, section 5.2, first vector."""
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    expected = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    shared = x25519(scalar, int.from_bytes(point, "little") % 2**255)
    assert shared.to_bytes(32, "little").hex() == expected


@pytest.mark.parametrize("case", REFUSED, ids=[case["name"] for case in REFUSED])
def test_recorded_bad_messages_are_refused_with_the_recorded_error(case):
    params, _ = enrolled(ROUNDS[0]["given"])
    server = ServerSession(params)
    with pytest.raises(RemoteProtocolError) as caught:
        server.receive(0, bytes.fromhex(case["data"]))
    assert type(caught.value).__name__ == case["error"]
    assert server.outstanding == params.client_ids
