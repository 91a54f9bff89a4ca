"""The whole round a second time, deliberately plain, from docs/SPEC.md and not from the package.

Nothing here imports `secure_agg`. MessagePack, HKDF, X25519, Shamir, masks and the graph are
written out with loops and Python integers; only Ed25519, AES and AES-GCM come from `cryptography`.
One function plays server and clients together, which is easier to read than two machines.
"""

from __future__ import annotations

import hashlib
import hmac
from itertools import count

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

P25519 = 2**255 - 19
P_SHAMIR = 2**256 + 297


def u32(number: int) -> bytes:
    return bytes([number >> 24 & 255, number >> 16 & 255, number >> 8 & 255, number & 255])


def pack(value) -> bytes:
    """MessagePack, shortest form, for the three types the protocol uses."""
    if isinstance(value, int):
        if value < 128:
            return bytes([value])
        for code, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4)):
            if value < 256**size:
                return bytes([code]) + value.to_bytes(size, "big")
    if isinstance(value, bytes):
        for code, size in ((0xC4, 1), (0xC5, 2), (0xC6, 4)):
            if len(value) < 256**size:
                return bytes([code]) + len(value).to_bytes(size, "big") + value
    size = len(value)
    head = bytes([0x90 + size]) if size < 16 else b"\xdc" + size.to_bytes(2, "big")
    return head + b"".join(pack(item) for item in value)


def context(label: str, *fields: bytes) -> bytes:
    text = b""
    for part in (b"privfed secure_agg v1", label.encode(), *fields):
        text += u32(len(part)) + part
    return text


def sha(label: str, *fields: bytes) -> bytes:
    return hashlib.sha256(context(label, *fields)).digest()


def hkdf(label: str, secret: bytes, *fields: bytes) -> bytes:
    """RFC 5869 with an empty salt and one block of output."""
    extracted = hmac.new(bytes(32), secret, "sha256").digest()
    return hmac.new(extracted, context(label, *fields) + b"\x01", "sha256").digest()


def x25519(private: bytes, public: int) -> int:
    """The Montgomery ladder of RFC 7748, section 5."""
    scalar = int.from_bytes(private, "little") & ~7 & ~(128 << 248) | 64 << 248
    x2, z2, x3, z3 = 1, 0, public, 1
    for bit in reversed(range(255)):
        if scalar >> bit & 1:
            x2, x3, z2, z3 = x3, x2, z3, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        x3, z3 = (d * a + c * b) ** 2 % P25519, public * (d * a - c * b) ** 2 % P25519
        aa, bb = a * a, b * b
        x2, z2 = aa * bb % P25519, (aa - bb) * (aa + 121665 * (aa - bb)) % P25519
        if scalar >> bit & 1:
            x2, x3, z2, z3 = x3, x2, z3, z2
    return x2 * pow(z2, P25519 - 2, P25519) % P25519


def public_of(private: bytes) -> bytes:
    return x25519(private, 9).to_bytes(32, "little")


def agree(private: bytes, public: bytes) -> bytes:
    return x25519(private, int.from_bytes(public, "little") % 2**255).to_bytes(32, "little")


def mask_words(seed: bytes, length: int, bits: int) -> list[int]:
    size = length * bits // 8
    blocks = b"".join(number.to_bytes(16, "big") for number in range(size // 16 + 1))
    stream = Cipher(AES(seed), ECB()).encryptor().update(blocks)
    width = bits // 8
    return [int.from_bytes(stream[i * width : (i + 1) * width], "little") for i in range(length)]


class Tape:
    """Secret bytes of one client, read from the front."""

    def __init__(self, tape: bytes) -> None:
        self.rest = tape

    def read(self, size: int) -> bytes:
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


def shares_of(secret: bytes, holders: int, threshold: int, tape: Tape) -> list[bytes]:
    drawn = tape.read(48 * (threshold - 1))
    coefficients = [int.from_bytes(secret, "big")]
    for place in range(threshold - 1):
        coefficients.append(int.from_bytes(drawn[48 * place : 48 * place + 48], "big") % P_SHAMIR)
    return [
        (sum(c * x**power for power, c in enumerate(coefficients)) % P_SHAMIR).to_bytes(33, "big")
        for x in range(1, holders + 1)
    ]


def play(case: dict) -> dict:
    """All messages of one round and its sum.

    Args:
        case: the "given" part of a vector: parameters, private keys, tapes, inputs, drop-outs.

    Returns:
        phase -> {"requests": {id: bytes}, "replies": {id: bytes}}, and "total": list of integers.
    """
    ids = sorted(int(c) for c in case["clients"])
    given = {c: case["clients"][str(c)] for c in ids}
    signer = {
        c: Ed25519PrivateKey.from_private_bytes(bytes.fromhex(given[c]["identity"])) for c in ids
    }
    tapes = {c: Tape(bytes.fromhex(given[c]["entropy"])) for c in ids}
    lost = {phase: set(clients) for phase, clients in case["lost"].items()}
    bits, length = case["modulus_bits"], case["vector_length"]
    near = case["neighbourhood"] or [0, 0, 0, 0]
    degree, threshold = near[0], near[1] or case["threshold"]
    numbers = [case["threshold"], case["colluders"], length, bits, *near]
    roster = b"".join(u32(c) + signer[c].public_key().public_bytes_raw() for c in ids)
    params = sha(
        "params", bytes.fromhex(case["round_id"]), roster, b"".join(u32(n) for n in numbers)
    )
    log: dict = {}

    def bitmap(clients) -> bytes:
        present = [int(c in clients) for c in ids] + [0] * 7
        return bytes(
            sum(present[8 * i + j] << j for j in range(8)) for i in range((len(ids) + 7) // 8)
        )

    def reply(kind: int, sender: int, body: bytes) -> bytes:
        signed = context(
            "frame signature", params, bytes([kind]), u32(sender), hashlib.sha256(body).digest()
        )
        return pack([1, kind, params, sender, signer[sender].sign(signed), body])

    def request(kind: int, receiver: int, body: bytes) -> bytes:
        return pack([1, kind, params, receiver, b"", body])

    # AdvertiseKeys
    log["AdvertiseKeys"] = {"requests": {}, "replies": {}}
    secrets, adverts = {}, {}
    for c in ids:
        if c in lost["AdvertiseKeys"]:
            continue
        mask_key, seal_key, self_mask = (tapes[c].read(32) for _ in range(3))
        secrets[c] = (mask_key, seal_key, self_mask)
        commitment = sha("self mask commitment", params, u32(c), self_mask)
        adverts[c] = [public_of(mask_key), public_of(seal_key), commitment]
        log["AdvertiseKeys"]["replies"][c] = reply(1, c, pack(adverts[c]))
    present = sorted(adverts)
    digests = [sha("advertisement", params, u32(c), pack(adverts[c])) for c in present]
    view = sha("roster", params, bitmap(present), b"".join(digests))
    ring = sorted(present, key=lambda c: sha("graph", view, u32(c))) if degree else present
    around = {}
    for place, c in enumerate(ring):
        steps = degree // 2 if degree else len(ring)
        near_c = {ring[(place + s) % len(ring)] for s in range(-steps, steps + 1)}
        around[c] = sorted(near_c - {c})

    # ShareKeys
    log["ShareKeys"] = {"requests": {}, "replies": {}}
    boxes, own_pair = {}, {}
    for c in present:
        entries = [
            [p, adverts[p], signature_in(log["AdvertiseKeys"]["replies"][p])] for p in around[c]
        ]
        body = pack([bitmap(present), b"".join(digests), entries])
        log["ShareKeys"]["requests"][c] = request(2, c, body)
        if c in lost["ShareKeys"]:
            continue
        holders = sorted([*around[c], c])
        masks = shares_of(secrets[c][2], len(holders), threshold, tapes[c])
        keys = shares_of(secrets[c][0], len(holders), threshold, tapes[c])
        sealed = []
        for holder, mask, key in zip(holders, masks, keys, strict=True):
            if holder == c:
                own_pair[c] = (mask, key)
                continue
            shared = agree(secrets[c][1], adverts[holder][1])
            box_key = hkdf("share box", shared, view, u32(c), u32(holder))
            boxes[c, holder] = (AESGCM(box_key).encrypt(bytes(12), mask + key, None), mask, key)
            sealed.append([holder, boxes[c, holder][0]])
        log["ShareKeys"]["replies"][c] = reply(3, c, pack([view, sealed]))
    sharers = sorted(log["ShareKeys"]["replies"])
    sharing = sha("sharing", params, view, bitmap(sharers))

    # MaskedInput
    log["MaskedInput"] = {"requests": {}, "replies": {}}
    masked = {}
    for c in sharers:
        peers = [p for p in around[c] if p in sharers]
        body = pack([bitmap(sharers), [[p, boxes[p, c][0]] for p in peers]])
        log["MaskedInput"]["requests"][c] = request(4, c, body)
        if c in lost["MaskedInput"]:
            continue
        words = list(given[c]["vector"])
        signed_seeds = [(1, hkdf("self mask", secrets[c][2], params, u32(c)))]
        for p in peers:
            shared = agree(secrets[c][0], adverts[p][0])
            seed = hkdf("pair mask", shared, params, u32(min(c, p)), u32(max(c, p)))
            signed_seeds.append((1 if c < p else -1, seed))
        for sign, seed in signed_seeds:
            for i, word in enumerate(mask_words(seed, length, bits)):
                words[i] = (words[i] + sign * word) % 2**bits
        masked[c] = words
        vector = b"".join(word.to_bytes(bits // 8, "little") for word in words)
        log["MaskedInput"]["replies"][c] = reply(5, c, sharing + vector)
    survivors = sorted(masked)
    statement = sha("survivor statement", params, sharing, bitmap(survivors))

    # ConsistencyCheck
    log["ConsistencyCheck"] = {"requests": {}, "replies": {}}
    for c in survivors:
        log["ConsistencyCheck"]["requests"][c] = request(6, c, pack([bitmap(survivors)]))
        if c not in lost["ConsistencyCheck"]:
            log["ConsistencyCheck"]["replies"][c] = reply(7, c, pack([statement]))
    signers = sorted(log["ConsistencyCheck"]["replies"])

    # Unmask
    log["Unmask"] = {"requests": {}, "replies": {}}
    shown = [[c, signature_in(log["ConsistencyCheck"]["replies"][c])] for c in signers]
    for c in signers:
        log["Unmask"]["requests"][c] = request(8, c, pack([shown]))
        if c in lost["Unmask"]:
            continue
        reveals = []
        for owner in sorted([*(p for p in around[c] if p in sharers), c]):
            mask, key = own_pair[c] if owner == c else boxes[owner, c][1:]
            reveals.append([owner, mask if owner in survivors else key])
        log["Unmask"]["replies"][c] = reply(9, c, pack([reveals]))

    # The sum, by adding what was masked and taking every mask out again.
    total = [sum(column) % 2**bits for column in zip(*masked.values(), strict=True)]
    for c in sharers:
        if c in survivors:
            taken = [(1, hkdf("self mask", secrets[c][2], params, u32(c)))]
        else:
            taken = [
                (
                    1 if p < c else -1,
                    hkdf(
                        "pair mask",
                        agree(secrets[c][0], adverts[p][0]),
                        params,
                        u32(min(c, p)),
                        u32(max(c, p)),
                    ),
                )
                for p in around[c]
                if p in survivors
            ]
        for sign, seed in taken:
            for i, word in enumerate(mask_words(seed, length, bits)):
                total[i] = (total[i] - sign * word) % 2**bits
    return {**log, "survivors": survivors, "total": total}


def signature_in(frame: bytes) -> bytes:
    """The 64 bytes after the sender: fields before it have fixed sizes except the sender's id."""
    for start in count(37):
        if frame[start : start + 2] == b"\xc4\x40":
            return frame[start + 2 : start + 66]
    raise ValueError
