"""Receipts: a server alone can neither invent survivors nor leave rounds out."""

import hashlib
import hmac
from collections import Counter

import pytest

from accounting import Adjacency, Ledger, LedgerCorrupted, Mode, PrivacyUnit, ReleaseSchedule
from accounting.ledger_format import LedgerHeader
from accounting.receipts import (
    Receipt,
    ReceiptCheck,
    decode_receipts,
    encode_receipts,
    receipt_message,
)

NAMES = ("anna", "ben", "carl", "dora")


def sign(client, message):
    """A stand-in for a signature: only who knows the client's name-key can make it."""
    return hmac.digest(client.encode(), message, hashlib.sha256)


def verifier(client, message, signature):
    return hmac.compare_digest(sign(client, message), signature)


def receipts(round_=1, survivors=NAMES, participation=1, signers=NAMES):
    message = receipt_message(
        run_id="run", plan_hash="plan", round_=round_, survivors=survivors,
        participation=participation,
    )  # fmt: skip
    return {client: Receipt(participation, sign(client, message)) for client in signers}


def check(needed=3):
    return ReceiptCheck("run", "plan", verifier, needed)


def problems(signed, round_=1, survivors=NAMES, booked=1, checker=None):
    counts = Counter(dict.fromkeys(NAMES, booked))
    return (checker or check()).problems(round_, survivors, encode_receipts(signed), counts)


def test_honest_receipts_pass_and_round_trip():
    signed = receipts()
    assert problems(signed) == []
    assert decode_receipts(encode_receipts(signed)) == signed


def test_the_order_of_survivors_does_not_matter():
    assert problems(receipts(survivors=NAMES[::-1]), survivors=NAMES) == []


def test_an_invented_survivor_is_contradicted_by_everybody():
    found = problems(receipts(survivors=NAMES[:3], signers=NAMES[:3]), survivors=NAMES)
    assert len(found) == 3
    assert all("did not sign these survivors" in text for text in found)


@pytest.mark.parametrize("changes", [{"round_": 2}, {"signers": NAMES[:2]}])
def test_a_foreign_round_and_too_few_receipts_are_found(changes):
    assert problems(receipts(**changes))


def test_a_receipt_of_another_run_or_plan_is_worth_nothing():
    message = receipt_message(
        run_id="other", plan_hash="plan", round_=1, survivors=NAMES, participation=1
    )
    assert problems({c: Receipt(1, sign(c, message)) for c in NAMES})


def test_a_round_left_out_shows_in_the_clients_own_count():
    found = problems(receipts(participation=2), booked=1)
    assert any("rounds were left out" in text for text in found)


def test_a_receipt_cannot_be_used_twice():
    checker = check()
    assert problems(receipts(participation=1), checker=checker) == []
    again = problems(receipts(round_=2, participation=1), round_=2, booked=2, checker=checker)
    assert any("counts backwards" in text for text in again)


def test_a_stranger_cannot_sign_for_a_survivor():
    signed = receipts(signers=NAMES[:3])
    signed["eve"] = signed["anna"]
    assert any("not among its survivors" in text for text in problems(signed))


@pytest.mark.parametrize(
    "bad",
    [
        {"anna": {"participation": 1}},
        {"anna": {"participation": "1", "signature": "00"}},
        {"anna": {"participation": 1, "signature": "xyz"}},
        {"anna": [1, "00"]},
        {"anna": {"participation": True, "signature": "00"}},
    ],
)
def test_malformed_receipts_are_a_problem_not_a_crash(bad):
    with pytest.raises(ValueError):
        decode_receipts(bad)
    assert check().problems(1, NAMES, bad, Counter())


def test_the_repr_shows_no_signature():
    assert "signature" not in repr(Receipt(1, b"\x01" * 64))


def in_the_clear():
    return LedgerHeader(
        run_id="run",
        plan_hash="plan",
        config_hash="config",
        unit=PrivacyUnit.PAIR,
        adjacency=Adjacency.ZERO_OUT,
        budget=None,
        schedule=ReleaseSchedule(Mode.NONE, 1.0, None, 5),
        clients=4,
    )


def test_a_pass_that_goes_on_knows_the_counts_before_it(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger.jsonl", in_the_clear())
    for round_, signers in enumerate([NAMES, NAMES[:2]], start=1):
        ledger.spend(round_, NAMES)
        ledger.outcome(round_, "released", signers, receipts(round_, signers, round_, signers))
    counts = Ledger.open(tmp_path / "ledger.jsonl").receipt_counts
    assert counts == {"anna": 2, "ben": 2, "carl": 1, "dora": 1}
    assert counts == ledger.receipt_counts
    again = receipts(round_=3, participation=2)
    assert problems(again, round_=3, booked=3) == []
    goes_on = ReceiptCheck("run", "plan", verifier, 3, last=dict(counts))
    found = problems(again, round_=3, booked=3, checker=goes_on)
    assert [text.split()[0] for text in found] == ["anna", "ben"], "both counted to two before"


def test_a_ledger_with_garbled_receipts_is_not_continued(tmp_path, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger.create(path, in_the_clear())
    ledger.spend(1, NAMES)
    garbled = {"anna": {"participation": 1, "signature": "no hex"}}
    monkeypatch.setattr("accounting.ledger.encode_receipts", lambda _: garbled)
    ledger.outcome(1, "released", NAMES)
    with pytest.raises(LedgerCorrupted):
        Ledger.open(path)
