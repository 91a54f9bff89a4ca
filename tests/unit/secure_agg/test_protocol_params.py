"""Unsafe or impossible parameters are refused, all problems at once."""

import dataclasses

import pytest

from secure_agg import InvalidParams, Neighbourhood, ProtocolParams, codec
from secure_agg.codec import frame_limit_bytes
from secure_agg.kdf import DIGEST_BYTES
from secure_agg.phases import Kind

ROSTER = {client: bytes([client + 1]) * 32 for client in range(10)}
GOOD = dict(
    round_id=b"12345678",
    roster=ROSTER,
    threshold=7,
    colluders=2,
    vector_length=5,
    modulus_bits=32,
)
SPARSE = dict(degree=4, share_threshold=4, signature_quorum=8, signature_checks=8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(round_id=b"short"), "round_id has 5 bytes"),
        (dict(round_id=bytes(65)), "round_id has 65 bytes"),
        (dict(roster={0: bytes(32)}, threshold=1, colluders=0), "1 clients"),
        (dict(roster=[*ROSTER.items(), (3, bytes(32))]), "stands twice"),
        (dict(roster={**ROSTER, -1: bytes(32)}), "client ids"),
        (dict(roster={**ROSTER, 2**32: bytes(32)}), "client ids"),
        (dict(roster={**ROSTER, 3: bytes(31)}), "32 bytes"),
        (dict(roster={**ROSTER, 3: ROSTER[4]}), "share an identity key"),
        (dict(modulus_bits=24), "modulus_bits is 24"),
        (dict(vector_length=0), "vector_length is 0"),
        (dict(vector_length=2**31 - 1, modulus_bits=64), "split it"),
        (dict(colluders=-1), "below 0"),
        (dict(threshold=11), "exceeds the 10 clients"),
        (dict(threshold=6), "two survivor sets could both be signed"),
        (dict(threshold=9, colluders=8), "two survivor sets"),
        (dict(threshold=10, colluders=9), "fewer than 2 honest"),
        (dict(neighbourhood=Neighbourhood(**{**SPARSE, "degree": 3})), "even number"),
        (dict(neighbourhood=Neighbourhood(**{**SPARSE, "degree": 6})), "use the complete graph"),
        (dict(neighbourhood=Neighbourhood(**{**SPARSE, "share_threshold": 3})), "not degree/2 + 2"),
        (dict(neighbourhood=Neighbourhood(**{**SPARSE, "share_threshold": 6})), "to degree + 1"),
        (dict(neighbourhood=Neighbourhood(**{**SPARSE, "signature_quorum": 6})), "quorum is 6"),
        (dict(neighbourhood=Neighbourhood(**{**SPARSE, "signature_checks": 0})), "checks is 0"),
    ],
)
def test_a_bad_number_is_refused_with_words(change, words):
    with pytest.raises(InvalidParams) as caught:
        ProtocolParams(**{**GOOD, **change})
    assert any(words in problem for problem in caught.value.problems)


def test_all_problems_are_listed_at_once():
    with pytest.raises(InvalidParams) as caught:
        ProtocolParams(**{**GOOD, "round_id": b"", "modulus_bits": 8, "threshold": 5})
    assert len(caught.value.problems) == 3


def test_the_smallest_safe_threshold_is_accepted_and_one_less_is_not():
    """10 clients, 2 colluders: 2 * 7 = 14 > 12 holds, 2 * 6 = 12 > 12 does not."""
    assert ProtocolParams(**GOOD).threshold == 7
    with pytest.raises(InvalidParams):
        ProtocolParams(**{**GOOD, "threshold": 6})


@pytest.mark.parametrize(("bits", "most"), [(16, 2**31 - 17), (32, 2**30 - 9), (64, 2**29 - 5)])
def test_the_largest_vector_accepted_fits_a_frame_with_its_digest(bits, most):
    """The body is 32 bytes longer than the vector, and its length is written in 32 bits."""
    params = ProtocolParams(**{**GOOD, "vector_length": most, "modulus_bits": bits})
    body_bytes = DIGEST_BYTES + params.vector_bytes
    assert body_bytes < 2**32 <= body_bytes + bits // 8
    frame = codec._prefix(Kind.MASKED_INPUT, params.digest, 0, bytes(64), body_bytes)
    assert frame[-5:] == b"\xc6" + body_bytes.to_bytes(4, "big")
    assert len(frame) + body_bytes <= frame_limit_bytes(params, Kind.MASKED_INPUT)
    with pytest.raises(InvalidParams, match="split it"):
        ProtocolParams(**{**GOOD, "vector_length": most + 1, "modulus_bits": bits})


def test_the_digest_binds_every_field():
    near = Neighbourhood(**SPARSE)
    changes = [
        dict(round_id=b"12345679"),
        dict(roster={**ROSTER, 3: bytes(32)}),
        dict(roster={**{c: k for c, k in ROSTER.items() if c != 3}, 33: ROSTER[3]}),
        dict(threshold=8),
        dict(colluders=1),
        dict(vector_length=6),
        dict(modulus_bits=64),
        dict(neighbourhood=near),
        dict(neighbourhood=dataclasses.replace(near, share_threshold=5)),
        dict(neighbourhood=dataclasses.replace(near, signature_quorum=9)),
        dict(neighbourhood=dataclasses.replace(near, signature_checks=7)),
    ]
    digests = {ProtocolParams(**{**GOOD, **change}).digest for change in [{}, *changes]}
    assert len(digests) == len(changes) + 1


def test_order_and_form_of_the_roster_do_not_matter():
    backwards = ProtocolParams(**{**GOOD, "roster": list(ROSTER.items())[::-1]})
    assert backwards == ProtocolParams(**GOOD)
    assert backwards.digest == ProtocolParams(**GOOD).digest
    assert backwards.client_ids == tuple(range(10))
    assert backwards.identity_of(3) == ROSTER[3]


def test_quorum_and_share_threshold_follow_the_graph():
    complete = ProtocolParams(**GOOD)
    assert (complete.quorum, complete.share_threshold, complete.degree) == (7, 7, None)
    sparse = ProtocolParams(**{**GOOD, "neighbourhood": Neighbourhood(**SPARSE)})
    assert (sparse.quorum, sparse.share_threshold, sparse.degree) == (8, 4, 4)
