"""A stranger checks a run folder: every kind of tampering is found and named.

The strongest forger here is the coordinator itself, who can chain and sign any ledger it likes; an
outsider, who cannot sign, is found by the signatures alone.
"""

import json
import re
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounting import Adversary
from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.enrolment import Enrolment
from privfed_dpo.errors import DataError
from privfed_dpo.lifecycle import KEYS_FILE, train
from privfed_dpo.verification import verify_run
from tests.support import forged_ledgers as forge
from tests.support.entropy import counted_entropy
from tests.support.tiny_run import tiny_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs that differ in their public seed; the first one's keys are stolen."""
    home = tmp_path_factory.mktemp("verify")

    def steal(event):
        if isinstance(event, RoundFinished):
            shutil.copy(home / "run" / "checkpoint" / KEYS_FILE, home / "stolen")

    train(tiny_config(home / "run"), observers=[steal])
    train(tiny_config(home / "other", "run.seed=1"))
    return home


@pytest.fixture(scope="module")
def keys(runs):
    return Enrolment.load(runs / "stolen", 6)


@pytest.fixture
def folder(runs, tmp_path):
    return shutil.copytree(runs / "run", tmp_path / "run", ignore=shutil.ignore_patterns("base"))


SIGNATURE = "its signature is missing or does not verify"

# What was done -> (how, the sentence that names it)
BY_AN_OUTSIDER = {
    "an edited number": (
        forge.edit_lines(forge.drop_survivors, chain=False),
        "line 2: its content does not",
    ),
    "an edited number under a new hash": (
        forge.edit_lines(forge.hashed_anew, chain=False),
        "line 3: it does not follow the line before it",
    ),
    "a removed round": (
        forge.edit_lines(forge.without_round_2, chain=False),
        "a line was removed, added or moved",
    ),
    "swapped rounds": (
        forge.edit_lines(forge.rounds_swapped, chain=False),
        "a line was removed, added or moved",
    ),
    "a doubled line": (
        forge.edit_lines(lambda lines: [*lines[:2], *lines[1:]], chain=False),
        "a line was removed, added or moved",
    ),
    "removed signatures": (forge.edit_lines(forge.without_signatures, chain=False), SIGNATURE),
    "a cut tail": (
        forge.edit_lines(lambda lines: lines[:5], chain=False),
        "lines were cut off or added",
    ),
    "a cut close line": (
        forge.edit_lines(lambda lines: lines[:-1], chain=False),
        "the ledger has no close line",
    ),
    "half of the close line": (
        forge.edit_bytes("ledger.jsonl", lambda content: content[:-40]),
        "the ledger has no close line",
    ),
    "spaces in a line": (
        forge.edit_text("ledger.jsonl", '"round":2', '"round": 2'),
        "the ledger cannot be read: .*not canonical",
    ),
    "a line that is not JSON": (
        forge.edit_bytes("ledger.jsonl", lambda content: b"hello\n" + content),
        "the ledger cannot be read",
    ),
    "nothing in it": (forge.edit_bytes("ledger.jsonl", lambda _: b""), "no complete header line"),
}

BY_THE_COORDINATOR = {
    "fewer survivors than the threshold": (
        forge.edit_lines(forge.drop_survivors, chain=True),
        "3 survivors was opened, below the threshold 5",
    ),
    "a survivor less": (
        forge.edit_lines(forge.drop_one_survivor, chain=True),
        "did not sign these survivors of round 1",
    ),
    "no receipts": (
        forge.edit_lines(forge.drop_receipts, chain=True),
        "0 clients signed for round 1, 5 needed",
    ),
    "receipts of another round": (
        forge.edit_lines(forge.repeat_receipts, chain=True),
        "did not sign these survivors of round 2",
    ),
    "a removed round": (
        forge.edit_lines(forge.without_round_2, chain=True),
        "rounds were left out",
    ),
    "swapped rounds": (
        forge.edit_lines(forge.rounds_swapped, chain=True),
        "round 1 comes after round 2",
    ),
    "a doubled round": (
        forge.edit_lines(lambda lines: [*lines[:3], *lines[1:]], chain=True),
        "round 1 comes after round 1",
    ),
    "a line after the close": (
        forge.edit_lines(lambda lines: [*lines, lines[1]], chain=True),
        "it stands after the close of the ledger",
    ),
    "more noise than planned": (
        forge.edit_lines(forge.raise_booked_noise, chain=True),
        "it books another release than the plan's",
    ),
    "more noise in the header too": (
        forge.edit_lines(forge.raise_noise_everywhere, chain=True),
        "the header of the ledger and plan.json disagree about schedule",
    ),
    "a smaller delta": (
        forge.edit_lines(forge.set_header(budget={"delta": 1e-9, "epsilon": 8.0}), chain=True),
        "the header of the ledger and plan.json disagree about delta",
    ),
    "fewer enrolled clients": (
        forge.edit_lines(forge.set_header(clients=5), chain=True),
        "6 clients took part, 5 are enrolled",
    ),
    "another run's name": (
        forge.edit_lines(forge.set_header(run_id="00" * 16), chain=True),
        "did not sign these survivors of round 1",
    ),
    "no keys": (forge.edit_lines(forge.set_header(extra={}), chain=True), "names no signing keys"),
    "another adapter's hash": (
        forge.edit_lines(forge.set_facts(adapter_sha256="0" * 64), chain=True),
        "adapter_model.safetensors is not the one this ledger was closed with",
    ),
}

FILES = {
    "a better accuracy in a row": (
        forge.edit_text("metrics.jsonl", '"reward_accuracy": 0.5', '"reward_accuracy": 0.9'),
        "metrics.jsonl is not the one this ledger was closed with",
    ),
    "no rows": (forge.remove("metrics.jsonl"), "metrics.jsonl is missing"),
    "a lower epsilon": (
        forge.edit_json("summary.json", lambda s: s["epsilon"]["server"].update(pld=1.0)),
        r"summary.json claims epsilon 1.0 \(PLD\) against server",
    ),
    "a lower second opinion": (
        forge.edit_json("summary.json", lambda s: s["epsilon"]["outside"].update(rdp=1.0)),
        r"summary.json claims epsilon 1.0 \(RDP\) against outside",
    ),
    "an adversary less": (
        forge.edit_json("summary.json", lambda s: s["epsilon"].pop("coalition")),
        "against coalition",
    ),
    "a smaller delta": (
        forge.edit_json("summary.json", lambda s: s.update(delta=1e-9)),
        "summary.json claims delta 1e-09",
    ),
    "a kinder statement": (
        forge.edit_text("summary.json", "RDP filter gives", "truth is below"),
        "the statement in summary.json is not what the ledger supports",
    ),
    "a smaller number in the statement": (
        forge.edit_text("summary.json", "delta = 1e-05", "delta = 1e-09"),
        "the statement in summary.json is not what the ledger supports",
    ),
    "a better result": (
        forge.edit_json("summary.json", lambda s: s["final"].update(reward_accuracy=0.99)),
        "summary.json is not the one this ledger was closed with",
    ),
    "no head": (
        forge.edit_json("summary.json", lambda s: s.pop("ledger_head")),
        "lines were cut off or added",
    ),
    "a summary that is not JSON": (
        forge.edit_bytes("summary.json", lambda _: b"{"),
        "summary.json cannot be read",
    ),
    "a summary nested without end": (
        forge.edit_bytes("summary.json", lambda _: b"[" * 100_000),
        "summary.json cannot be read: nested too deeply",
    ),
    "a plan nested without end": (
        forge.edit_bytes("plan.json", lambda _: b"[" * 100_000),
        "plan.json is not the one this ledger was started with",
    ),
    "a number without end in the plan": (
        forge.edit_bytes("plan.json", lambda plan: plan.replace(b"{", b'{"a": 1e999,', 1)),
        "plan.json is not the one this ledger was started with",
    ),
    "metrics that are no text": (
        forge.edit_bytes("metrics.jsonl", lambda rows: rows.replace(b"{", b"{\xff", 1)),
        r"metrics\.jsonl: line 1 is not a metrics row: not UTF-8 text",
    ),
    "metrics nested without end": (
        forge.edit_bytes("metrics.jsonl", lambda rows: rows + b"[" * 100_000 + b"\n"),
        r"metrics\.jsonl: line 5 is not a metrics row: nested too deeply",
    ),
    "a round that is a list": (
        forge.edit_bytes("metrics.jsonl", lambda rows: rows + b'{"round": [1]}\n'),
        r"metrics\.jsonl: line 5 is not a metrics row: no object with the number",
    ),
    "no summary": (forge.remove("summary.json"), "summary.json is missing"),
    "another scale of the adapter": (
        forge.edit_json("adapter/adapter_config.json", lambda c: c.update(lora_alpha=400)),
        "adapter_config.json is not the one this ledger was closed with",
    ),
    "no adapter": (
        forge.remove("adapter/adapter_model.safetensors"),
        "adapter_model.safetensors is missing",
    ),
    "a stricter config": (
        forge.edit_text("config.yaml", "target_epsilon: 8", "target_epsilon: 1"),
        "config.yaml is not the one this ledger was started with",
    ),
    "a stricter plan": (
        forge.edit_json("plan.json", lambda p: p.update(target_epsilon=1.0)),
        "plan.json is not the one this ledger was started with",
    ),
    "no plan": (forge.remove("plan.json"), "plan.json is not the one"),
    "another environment": (
        forge.edit_json("environment.json", lambda e: e.update(extra=1)),
        "environment.json is not the one this ledger was closed with",
    ),
}

SWAPPED = {
    "ledger.jsonl": "config.yaml is not the one this ledger was started with",
    "adapter/adapter_model.safetensors": "adapter_model.safetensors is not the one",
    "metrics.jsonl": "metrics.jsonl is not the one",
    "summary.json": "lines were cut off or added",
    "plan.json": "plan.json is not the one",
}


def assert_found(folder, sentence):
    verdict = verify_run(folder)
    assert not verdict.ok
    text = verdict.as_text()
    assert text.endswith("NOT verified")
    assert any(re.search(sentence, problem) for problem in verdict.problems), text


def test_the_runs_themselves_are_in_order(runs):
    for name in ("run", "other"):
        verdict = verify_run(runs / name)
        assert verdict.ok, verdict.problems
        assert verdict.rounds == 3
        assert verdict.as_text().endswith("belong together")


@pytest.mark.parametrize("name", BY_AN_OUTSIDER)
def test_a_ledger_tampered_with_by_an_outsider(folder, keys, name):
    tamper, sentence = BY_AN_OUTSIDER[name]
    tamper(folder, keys)
    assert_found(folder, sentence)


@pytest.mark.parametrize("name", BY_THE_COORDINATOR)
def test_a_ledger_chained_and_signed_anew_by_the_coordinator(folder, keys, name):
    tamper, sentence = BY_THE_COORDINATOR[name]
    tamper(folder, keys)
    assert_found(folder, sentence)


@pytest.mark.parametrize("name", FILES)
def test_a_tampered_file(folder, keys, name):
    tamper, sentence = FILES[name]
    tamper(folder, keys)
    assert_found(folder, sentence)


@pytest.mark.parametrize("name", SWAPPED)
def test_a_file_of_another_run(folder, runs, name):
    shutil.copy(runs / "other" / name, folder / name)
    assert_found(folder, SWAPPED[name])


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_changed_byte_of_the_ledger_is_found(runs, folder, data):
    original = (runs / "run" / "ledger.jsonl").read_bytes()
    place = data.draw(st.integers(0, len(original) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != original[place]))
    changed = bytearray(original)
    changed[place] = value
    (folder / "ledger.jsonl").write_bytes(bytes(changed))
    assert not verify_run(folder).ok


def test_a_folder_without_a_ledger_is_no_run(tmp_path):
    with pytest.raises(DataError, match="there is no ledger"):
        verify_run(tmp_path)


# Forgeries in every file at once


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_an_outsider_who_rewrites_every_file_lacks_the_signature(folder):
    summary = summary_of(folder)
    summary["final"]["reward_accuracy"] = 1.0
    forge.close_over(folder, forge.lines_of(folder), summary, keys=None)
    assert_found(folder, SIGNATURE)


def test_a_coordinator_who_rewrites_every_file_cannot_just_write_a_smaller_epsilon(folder, keys):
    """It is recomputed from the events, which clients' receipts and the plan hold in place."""
    summary = summary_of(folder)
    for pair in summary["epsilon"].values():
        pair["pld"] = pair["rdp"] = 0.5
    forge.close_over(folder, forge.lines_of(folder), summary, keys)
    problems = verify_run(folder).problems
    assert len(problems) == 8
    assert all("summary.json claims epsilon 0.5" in problem for problem in problems)


def test_rows_that_understate_epsilon_are_found_though_their_hash_fits(folder, keys):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[-1]["epsilon"] = 0.5
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    forge.close_over(folder, forge.lines_of(folder), summary_of(folder), keys)
    assert_found(folder, "metrics.jsonl ends with epsilon 0.5")


def test_a_coordinator_who_leaves_out_the_last_rounds_in_every_file_is_believed(folder, runs, keys):
    """Undetectable from the folder alone; the head noted when the run ended gives it away."""
    honest = verify_run(runs / "run")
    forge.leave_out_the_last_round(folder, keys)
    forged = verify_run(folder)
    assert forged.ok, forged.problems
    assert forged.epsilon[Adversary.SERVER].pld < honest.epsilon[Adversary.SERVER].pld
    unmasked = verify_run(folder, known_head=honest.head)
    assert "not with the head you know" in unmasked.problems[0]
    assert verify_run(runs / "run", known_head=honest.head).ok


def test_a_run_signed_by_clients_that_never_were_is_believed(folder, runs):
    """Keys in a folder prove nothing about who holds them; a head noted elsewhere does."""
    head = verify_run(runs / "run").head
    invented = Enrolment.draw(6, counted_entropy("invented"))
    lines = forge.under_other_keys(forge.lines_of(folder), invented)
    summary = summary_of(folder)
    summary["final"]["reward_accuracy"] = 1.0
    forge.close_over(folder, lines, summary, invented)
    forged = verify_run(folder)
    assert forged.ok, forged.problems
    assert not verify_run(folder, known_head=head).ok
