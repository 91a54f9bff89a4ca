"""A stranger checks a run folder: every kind of tampering is found and named."""

import hashlib
import json
import re
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounting.ledger_format import line_hash
from privfed_dpo.errors import DataError
from privfed_dpo.lifecycle import train
from privfed_dpo.observe.evidence import file_sha256, summary_sha256
from privfed_dpo.verification import verify_run
from tests.support.forged_ledgers import lines_of, rechained, write_lines
from tests.support.tiny_run import tiny_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs that differ in their public seed."""
    home = tmp_path_factory.mktemp("verify")
    train(tiny_config(home / "run"))
    train(tiny_config(home / "other", "run.seed=1"))
    return home


@pytest.fixture
def folder(runs, tmp_path):
    return shutil.copytree(runs / "run", tmp_path / "run", ignore=shutil.ignore_patterns("base"))


# Tools of a forger


def edit_lines(change, *, chain):
    def edit(folder):
        lines = lines_of(folder)
        lines = change(lines) or lines
        write_lines(folder, rechained(lines) if chain else lines)

    return edit


def edit_json(name, change):
    def edit(folder):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


def edit_text(name, old, new):
    def edit(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return edit


def swap_in(name):
    """A file of another, genuine run."""

    def edit(folder, runs):
        shutil.copy(runs / "other" / name, folder / name)

    return edit


# Changes to the ledger's lines: 0 header, then spend and outcome of rounds 1 to 3, then close


def drop_survivors(lines):
    lines[2]["body"]["survivors"] = lines[2]["body"]["survivors"][:3]


def raise_booked_noise(lines):
    for line in lines[1:6:2]:
        line["body"]["release"]["event"]["noise_multiplier"] *= 2


def raise_noise_everywhere(lines):
    raise_booked_noise(lines)
    lines[0]["body"]["schedule"]["noise"]["noise_multiplier"] *= 2


def set_header(**changes):
    return lambda lines: lines[0]["body"].update(changes)


def set_facts(**changes):
    return lambda lines: lines[-1]["body"]["facts"].update(changes)


LEDGER = {
    "an edited number": (edit_lines(drop_survivors, chain=False), "line 2: its content does not"),
    "an edited number under a new hash": (
        lambda folder: write_lines(folder, one_new_hash(folder)),
        "line 3: it does not follow the line before it",
    ),
    "fewer survivors than the threshold, re-chained": (
        edit_lines(drop_survivors, chain=True),
        "3 survivors was opened, below the threshold 5",
    ),
    "more noise than planned, re-chained": (
        edit_lines(raise_booked_noise, chain=True),
        "it books another release than the plan's",
    ),
    "more noise in the plan of the header too, re-chained": (
        edit_lines(raise_noise_everywhere, chain=True),
        "the header of the ledger and plan.json disagree about schedule",
    ),
    "a smaller delta, re-chained": (
        edit_lines(set_header(budget={"delta": 1e-9, "epsilon": 8.0}), chain=True),
        "the header of the ledger and plan.json disagree about delta",
    ),
    "fewer enrolled clients, re-chained": (
        edit_lines(set_header(clients=5), chain=True),
        "6 clients took part, 5 are enrolled",
    ),
    "another run's name, re-chained": (
        edit_lines(set_header(run_id="00" * 16), chain=True),
        "the statement in summary.json is not what the ledger supports",
    ),
    "a removed round": (
        edit_lines(lambda lines: lines[:3] + lines[5:], chain=False),
        "a line was removed, added or moved",
    ),
    "a removed round, re-chained": (
        edit_lines(lambda lines: lines[:3] + lines[5:], chain=True),
        "lines were cut off or added",
    ),
    "swapped rounds": (
        edit_lines(lambda lines: [*lines[:1], *lines[3:5], *lines[1:3], *lines[5:]], chain=False),
        "a line was removed, added or moved",
    ),
    "swapped rounds, re-chained": (
        edit_lines(lambda lines: [*lines[:1], *lines[3:5], *lines[1:3], *lines[5:]], chain=True),
        "round 1 comes after round 2",
    ),
    "a doubled line": (
        edit_lines(lambda lines: [*lines[:2], *lines[1:]], chain=False),
        "a line was removed, added or moved",
    ),
    "a doubled round, re-chained": (
        edit_lines(lambda lines: [*lines[:3], *lines[1:]], chain=True),
        "round 1 comes after round 1",
    ),
    "a line after the close, re-chained": (
        edit_lines(lambda lines: [*lines, lines[1]], chain=True),
        "it stands after the close of the ledger",
    ),
    "a cut tail": (
        edit_lines(lambda lines: lines[:5], chain=False),
        "lines were cut off or added",
    ),
    "a cut close line": (
        edit_lines(lambda lines: lines[:-1], chain=False),
        "the ledger has no close line",
    ),
    "half of the close line": (
        lambda folder: (folder / "ledger.jsonl").write_bytes(
            (folder / "ledger.jsonl").read_bytes()[:-40]
        ),
        "the ledger has no close line",
    ),
    "spaces in a line": (
        edit_text("ledger.jsonl", '"round":2', '"round": 2'),
        "the ledger cannot be read: .*not canonical",
    ),
    "a line that is not JSON": (
        lambda folder: (folder / "ledger.jsonl").write_bytes(
            b"hello\n" + (folder / "ledger.jsonl").read_bytes()
        ),
        "the ledger cannot be read",
    ),
    "nothing in it": (
        lambda folder: (folder / "ledger.jsonl").write_bytes(b""),
        "no complete header line",
    ),
    "other facts in the close line, re-chained": (
        edit_lines(set_facts(adapter_sha256="0" * 64), chain=True),
        "adapter_model.safetensors is not the one this ledger was closed with",
    ),
}

FILES = {
    "a better accuracy in a row": (
        edit_text("metrics.jsonl", '"reward_accuracy": 0.5', '"reward_accuracy": 0.9'),
        "metrics.jsonl is not the one this ledger was closed with",
    ),
    "no rows": (lambda folder: (folder / "metrics.jsonl").unlink(), "metrics.jsonl is missing"),
    "a lower epsilon": (
        edit_json("summary.json", lambda s: s["epsilon"]["server"].update(pld=1.0)),
        r"summary.json claims epsilon 1.0 \(PLD\) against server",
    ),
    "a lower second opinion": (
        edit_json("summary.json", lambda s: s["epsilon"]["outside"].update(rdp=1.0)),
        r"summary.json claims epsilon 1.0 \(RDP\) against outside",
    ),
    "an adversary less": (
        edit_json("summary.json", lambda s: s["epsilon"].pop("coalition")),
        "against coalition",
    ),
    "a smaller delta": (
        edit_json("summary.json", lambda s: s.update(delta=1e-9)),
        "summary.json claims delta 1e-09",
    ),
    "a kinder statement": (
        edit_text("summary.json", "RDP filter gives", "truth is below"),
        "the statement in summary.json is not what the ledger supports",
    ),
    "a smaller number in the statement": (
        edit_text("summary.json", "delta = 1e-05", "delta = 1e-09"),
        "the statement in summary.json is not what the ledger supports",
    ),
    "a better result": (
        edit_json("summary.json", lambda s: s["final"].update(reward_accuracy=0.99)),
        "summary.json is not the one this ledger was closed with",
    ),
    "no head": (
        edit_json("summary.json", lambda s: s.pop("ledger_head")),
        "lines were cut off or added",
    ),
    "a summary that is not JSON": (
        lambda folder: (folder / "summary.json").write_text("{"),
        "summary.json cannot be read",
    ),
    "no summary": (
        lambda folder: (folder / "summary.json").unlink(),
        "summary.json is missing",
    ),
    "another scale of the adapter": (
        edit_json("adapter/adapter_config.json", lambda c: c.update(lora_alpha=400)),
        "adapter_config.json is not the one this ledger was closed with",
    ),
    "no adapter": (
        lambda folder: (folder / "adapter" / "adapter_model.safetensors").unlink(),
        "adapter_model.safetensors is missing",
    ),
    "a stricter config": (
        edit_text("config.yaml", "target_epsilon: 8", "target_epsilon: 1"),
        "config.yaml is not the one this ledger was started with",
    ),
    "a stricter plan": (
        edit_json("plan.json", lambda p: p.update(target_epsilon=1.0)),
        "plan.json is not the one this ledger was started with",
    ),
    "no plan": (lambda folder: (folder / "plan.json").unlink(), "plan.json is not the one"),
    "another environment": (
        edit_json("environment.json", lambda e: e.update(extra=1)),
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


def one_new_hash(folder):
    lines = lines_of(folder)
    drop_survivors(lines)
    line = lines[2]
    line["hash"] = line_hash(line["index"], line["prev"], line["kind"], line["body"])
    return lines


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


@pytest.mark.parametrize("name", LEDGER)
def test_a_tampered_ledger(folder, name):
    tamper, sentence = LEDGER[name]
    tamper(folder)
    assert_found(folder, sentence)


@pytest.mark.parametrize("name", FILES)
def test_a_tampered_file(folder, name):
    tamper, sentence = FILES[name]
    tamper(folder)
    assert_found(folder, sentence)


@pytest.mark.parametrize("name", SWAPPED)
def test_a_file_of_another_run(folder, runs, name):
    swap_in(name)(folder, runs)
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


# What no check of one folder can see


def forge_a_better_result(folder):
    """Rewrites every file that mentions the result, and the chain over them."""
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    last = json.loads(rows[-1])
    last["reward_accuracy"] = 1.0
    (folder / "metrics.jsonl").write_text("\n".join([*rows[:-1], json.dumps(last)]) + "\n")
    summary = json.loads((folder / "summary.json").read_text())
    summary["final"]["reward_accuracy"] = 1.0
    lines = lines_of(folder)
    facts = lines[-1]["body"]["facts"]
    facts["metrics_sha256"] = file_sha256(folder / "metrics.jsonl")
    facts["summary_sha256"] = summary_sha256(summary)
    lines = rechained(lines)
    write_lines(folder, lines)
    (folder / "summary.json").write_text(json.dumps({**summary, "ledger_head": lines[-1]["hash"]}))


def test_without_signatures_a_forger_who_rewrites_every_file_is_believed(folder, runs):
    """Undetectable from the folder alone; a head noted elsewhere when the run ended unmasks it."""
    head = verify_run(runs / "run").head
    forge_a_better_result(folder)
    assert verify_run(folder).ok
    unmasked = verify_run(folder, known_head=head)
    assert not unmasked.ok
    assert "not with the head you know" in unmasked.problems[0]
    assert verify_run(runs / "run", known_head=head).ok


def test_a_forger_who_rewrites_every_file_still_cannot_understate_epsilon(folder):
    """Epsilon is recomputed, so a whole and consistent forgery must lie about the noise itself."""
    summary = json.loads((folder / "summary.json").read_text())
    for pair in summary["epsilon"].values():
        pair["pld"] = pair["rdp"] = 0.5
    lines = lines_of(folder)
    lines[-1]["body"]["facts"]["summary_sha256"] = summary_sha256(summary)
    lines = rechained(lines)
    write_lines(folder, lines)
    (folder / "summary.json").write_text(json.dumps({**summary, "ledger_head": lines[-1]["hash"]}))
    problems = verify_run(folder).problems
    assert len(problems) == 8
    assert all("summary.json claims epsilon 0.5" in problem for problem in problems)


def test_rows_that_understate_epsilon_are_found_though_their_hash_fits(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[-1]["epsilon"] = 0.5
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    lines = lines_of(folder)
    digest = hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest()
    lines[-1]["body"]["facts"]["metrics_sha256"] = digest
    write_lines(folder, rechained(lines))
    assert_found(folder, "metrics.jsonl ends with epsilon 0.5")
