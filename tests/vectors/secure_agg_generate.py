"""Write tests/vectors/secure_agg_rounds.json: run `python -m tests.vectors.secure_agg_generate`.

Inputs come from a seeded stream, messages from the package. `test_secure_agg_vectors.py` replays
them through the package and through the plain second computation, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from secure_agg import ClientId, ClientSession, IdentityKey, Neighbourhood, ProtocolParams
from tests.support.secagg_rounds import PHASES, Cohort, Round

PATH = Path(__file__).with_name("secure_agg_rounds.json")

CASES = {
    "everyone stays": dict(ids=[0, 1, 2], threshold=2, bits=32, length=5, lost={}),
    "one lost in each of the first four phases": dict(
        ids=[3, 5, 8, 130, 70000, 2**32 - 1, 9, 10, 11, 12],
        threshold=6,
        colluders=1,
        bits=64,
        length=3,
        lost={"AdvertiseKeys": [5], "ShareKeys": [9], "MaskedInput": [70000]}
        | {"ConsistencyCheck": [8]},
    ),
    "lost at the very end": dict(
        ids=[1, 2, 3, 4, 5], threshold=3, bits=16, length=9, lost={"Unmask": [2, 5]}
    ),
    "sparse graph": dict(
        ids=list(range(20, 34)),
        threshold=9,
        bits=32,
        length=4,
        near=[6, 5, 10, 4],
        lost={"ShareKeys": [21], "MaskedInput": [33], "Unmask": [24]},
    ),
}


class Tape:
    """Deterministic entropy that remembers what was read."""

    def __init__(self, seed: str) -> None:
        self.seed, self.taken = seed, b""

    def __call__(self, size: int) -> bytes:
        stream = hashlib.shake_256(self.seed.encode()).digest(len(self.taken) + size)
        drawn, self.taken = stream[len(self.taken) :], stream
        return drawn


def build(name: str, spec: dict) -> dict:
    ids = sorted(spec["ids"])
    keys = {c: hashlib.sha256(f"{name}/identity/{c}".encode()).digest() for c in ids}
    identities = {ClientId(c): IdentityKey.from_private_bytes(key) for c, key in keys.items()}
    near = spec.get("near")
    params = ProtocolParams(
        hashlib.sha256(name.encode()).digest()[:16],
        {c: identity.public for c, identity in identities.items()},
        threshold=spec["threshold"],
        colluders=spec.get("colluders", 0),
        vector_length=spec["length"],
        modulus_bits=spec["bits"],
        neighbourhood=Neighbourhood(*near) if near else None,
    )
    lost = {phase: spec["lost"].get(phase.value, []) for phase in PHASES}
    round_ = Round(Cohort(params, identities, name), lost)
    tapes = {c: Tape(f"{name}/entropy/{c}") for c in ids}
    for c in ids:
        round_.clients[ClientId(c)] = ClientSession(params, c, identities[ClientId(c)], tapes[c])
    round_.run()
    messages = {
        phase.value: {
            "requests": {str(c): m.hex() for c, m in round_.requests[phase].items() if m},
            "replies": {str(c): m.hex() for c, m in round_.replies[phase].items()},
        }
        for phase in PHASES
    }
    result = round_.server.result
    return {
        "name": name,
        "given": {
            "round_id": params.round_id.hex(),
            "threshold": params.threshold,
            "colluders": params.colluders,
            "vector_length": params.vector_length,
            "modulus_bits": params.modulus_bits,
            "neighbourhood": near,
            "lost": {phase.value: clients for phase, clients in lost.items()},
            "clients": {
                str(c): {
                    "identity": keys[c].hex(),
                    "entropy": tapes[c].taken.hex(),
                    "vector": round_.vectors[ClientId(c)].tolist(),
                }
                for c in ids
            },
        },
        "params_digest": params.digest.hex(),
        "messages": messages,
        "survivors": list(result.survivors),
        "total": result.total.tolist(),
    }


def refusals(rounds: list[dict]) -> list[dict]:
    """What the server of the first round must refuse from client 0 in AdvertiseKeys."""
    replies = rounds[0]["messages"]["AdvertiseKeys"]["replies"]
    good = bytes.fromhex(replies["0"])
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    foreign = bytes.fromhex(next(iter(rounds[1]["messages"]["AdvertiseKeys"]["replies"].values())))
    later = bytes.fromhex(rounds[0]["messages"]["ShareKeys"]["replies"]["0"])
    cases = [
        ("nothing", b"", "MalformedMessage"),
        ("cut short", good[:-1], "MalformedMessage"),
        ("one byte too many", good + b"\0", "MalformedMessage"),
        ("version 2", b"\x96\x02" + good[2:], "MalformedMessage"),
        ("unknown kind", b"\x96\x01\x0a" + good[3:], "MalformedMessage"),
        ("version in two bytes", b"\x96\xcc\x01" + good[2:], "MalformedMessage"),
        ("wide array header", b"\xdc\x00\x06" + good[1:], "MalformedMessage"),
        ("seven fields", b"\x97" + good[1:] + b"\xc0", "MalformedMessage"),
        ("a later message", later, "UnexpectedMessage"),
        ("another round", foreign, "UnexpectedMessage"),
        ("another client", bytes.fromhex(replies["1"]), "UnexpectedMessage"),
        ("one bit changed", flipped, "AuthenticationFailed"),
    ]
    return [{"name": name, "data": data.hex(), "error": error} for name, data, error in cases]


if __name__ == "__main__":
    played = [build(name, spec) for name, spec in CASES.items()]
    document = {"rounds": played, "refused": refusals(played)}
    PATH.write_text(json.dumps(document, indent=1) + "\n")
