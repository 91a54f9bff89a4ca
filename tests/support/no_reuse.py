"""What must never come twice, over all rounds, clients and lives of processes: keys, masks, noise."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby

from privfed_dpo.engine.messages import MalformedEnvelope, decode_envelope
from secure_agg import Phase
from secure_agg.codec import decode_body, decode_frame
from secure_agg.messages import Advertisement, ShareKeys, Unmask

LIMIT_BYTES = 1 << 24
LEAST_SECRET_BYTES = 16


def replies_of(travelled):
    """(client's address, round, step, payload) of everything that clients answered in rounds."""
    for direction, address, data in travelled:
        if direction == "from":
            try:
                envelope = decode_envelope(data)
            except MalformedEnvelope:
                continue
            yield address, envelope.round, envelope.step, envelope.payload


def once_only(step, payload):
    """What in a client's answer to a step is made from fresh secrets: keys, boxes, masked vector."""
    frame = decode_frame(payload, limit_bytes=LIMIT_BYTES)
    if step == Phase.ADVERTISE_KEYS.value:
        body = decode_body(frame.body, Advertisement)
        return [body.mask_public, body.seal_public, body.self_mask_commitment]
    if step == Phase.SHARE_KEYS.value:
        return [box.sealed for box in decode_body(frame.body, ShareKeys).boxes]
    if step == Phase.MASKED_INPUT.value:
        return [bytes(frame.body)[32:]]
    if step == Phase.UNMASK.value:
        return [reveal.share for reveal in decode_body(frame.body, Unmask).reveals]
    return []


def seen_twice(travelled):
    """Values that clients sent more than once, with how often."""
    counted = Counter(
        value for _, _, step, payload in replies_of(travelled) for value in once_only(step, payload)
    )
    assert counted, "nothing was looked at"
    return {value: times for value, times in counted.items() if times > 1}


def secrets_of(path):
    """Every draw of every process, in its order: [(process, [bytes, ...]), ...]."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines.sort(key=lambda line: line["process"])  # stable: the order of draws stays
    return [
        (process, [bytes.fromhex(line["drawn"]) for line in drawn])
        for process, drawn in groupby(lines, key=lambda line: line["process"])
    ]


def drawn_twice(lives):
    """Secrets that came more than once, be it in one life or in several."""
    counted = Counter(
        secret for _, drawn in lives for secret in drawn if len(secret) >= LEAST_SECRET_BYTES
    )
    assert counted, "nothing was looked at"
    return {secret: times for secret, times in counted.items() if times > 1}
