"""One client lies about the rounds it saw: the run is verified by the receipts of the others."""

import json

import pytest

from accounting import receipt_message
from privfed_dpo.engine.client import FederatedClient
from privfed_dpo.engine.messages import SignedReceipt
from privfed_dpo.lifecycle import train
from privfed_dpo.verification import verify_run
from tests.support.tiny_run import tiny_config

LIAR = 2
ROUNDS = 3


def signed(client, session, count):
    names = client._plan.facts.client_names
    message = receipt_message(
        run_id=client._run_id.hex(),
        plan_hash=client._plan.plan_hash,
        round_=client._last_round,
        survivors=[names[number] for number in session.survivors],
        participation=count,
    )
    return SignedReceipt(count, client._identity.sign(message))


LIES = {
    "no receipt": (lambda client, session: None, []),
    "a wrong signature": (lambda client, session: SignedReceipt(1, bytes(64)), []),
    "half a signature": (lambda client, session: SignedReceipt(1, bytes(32)), []),
    "rounds that never were": (lambda client, session: signed(client, session, 10**6), []),
    "the same count in every round": (lambda client, session: signed(client, session, 1), [1]),
    "a negative count": (lambda client, session: signed(client, session, -1), []),
    "the truth": (
        lambda client, session: signed(client, session, client._last_round),
        [1, 2, 3],
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_left_out_of_the_ledger_and_spoils_nothing(tmp_path, monkeypatch, lie):
    tell, booked = LIES[lie]
    honest = FederatedClient._receipt

    def receipt(client, session):
        if client.number != LIAR or session.survivors is None:
            return honest(client, session)
        return tell(client, session)

    monkeypatch.setattr(FederatedClient, "_receipt", receipt)
    folder = train(
        tiny_config(
            tmp_path / "run",
            "privacy.noise_multiplier=1.0",
            "evaluation.every=3",
            "evaluation.gradient_pairs=0",
            f"federation.rounds={ROUNDS}",
        )
    )
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    outcomes = [line["body"] for line in lines if line["kind"] == "outcome"]
    rounds_of = {}
    for body in outcomes:
        for name in body["receipts"]:
            rounds_of.setdefault(name, []).append(body["round"])
    liar = f"user-{LIAR:03d}"
    assert rounds_of.pop(liar, []) == booked
    assert list(rounds_of.values()) == [[1, 2, 3]] * 5, "the others are believed"
    assert all(len(body["survivors"]) == 6 for body in outcomes), "its input counts all the same"
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
