"""Plans, runs, interruptions and verification as users meet them: output and exit codes."""

import json
import shutil
import signal

import pytest

from accounting import BudgetExceeded
from tests.support.command_line import Ended, caller, own_data, start_process, write_inputs


@pytest.fixture
def run(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("command-line"))


# Plans


def test_plan_computes_nothing_and_leaves_nothing(run, home, monkeypatch, tmp_path):
    """No weights, no tokenizer, no warm-up, no folder: only the model's configuration is read."""
    monkeypatch.chdir(tmp_path)
    for name in ("policy.load_model", "policy.warm_up", "data.token_cache.tokenize_pairs"):
        monkeypatch.setattr(f"privfed_dpo.{name}", forbidden(name))
    folder = tmp_path / "run"
    ended = run("plan", *own_data(home, f"run.dir={folder}"))
    assert ended.code == 0, ended.err
    assert ended.err == ""
    for fact in ("Epsilon of the whole run", "PLD, certified", "noise multiplier", "upload"):
        assert fact in ended.out
    assert list(tmp_path.iterdir()) == []


def forbidden(name):
    def call(*args, **kwargs):
        raise AssertionError(f"a plan must not call {name}")

    return call


def test_plan_for_machines_is_one_object(run, home):
    ended = run("plan", *own_data(home), "--json")
    facts = json.loads(ended.out)
    assert facts["clients"] == 5
    assert facts["threshold"] == 4
    assert facts["epsilon"]["coalition"]["pld"] <= facts["target_epsilon"] == 8
    assert ended.err == ""


# A whole life, in processes of its own


@pytest.fixture(scope="module")
def interrupted(home):
    """A run that got Ctrl-C after its first round, and what it said."""
    folder = home / "interrupted"
    process = start_process(
        home, "train", *own_data(home, "federation.rounds=50"), "--run-dir", folder
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("round 1/"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate()
    return folder, Ended(process.returncode, "".join(lines) + out, err)


def test_ctrl_c_says_how_to_go_on(interrupted):
    folder, ended = interrupted
    assert ended.code == 1
    assert "interrupted; what was spent is in the ledger" in ended.err
    assert f"privfed-dpo resume {folder}" in ended.err
    assert (folder / "ledger.jsonl").is_file()


def test_an_interrupted_run_verifies_as_unfinished(interrupted, run):
    folder, _ = interrupted
    ended = run("verify", folder)
    assert ended.code == 0, ended.out
    assert "the run is not finished" in ended.out


def test_a_folder_with_a_run_points_to_resume(interrupted, run, home):
    folder, _ = interrupted
    run("train", *own_data(home), "--run-dir", folder).refused(
        "exists and is not an empty folder", f"privfed-dpo resume {folder}"
    )


@pytest.mark.parametrize("change", ["turned round", "taken away"])
def test_an_interrupted_run_does_not_go_on_with_other_pairs(run, home, interrupted, change):
    """One answer judged the other way, as many pairs as before; or no file at all."""
    folder, _ = interrupted
    pairs, ledger = home / "pairs.jsonl", (folder / "ledger.jsonl").read_bytes()
    original = pairs.read_text()
    first, *rest = original.splitlines()
    row = json.loads(first)
    row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    try:
        if change == "turned round":
            pairs.write_text("\n".join([json.dumps(row), *rest]) + "\n")
            said = ("the data is not the one this run started with", "Restore the original file")
        else:
            pairs.unlink()
            said = (str(pairs),)
        run("resume", folder).refused(*said)
    finally:
        pairs.write_text(original)
    assert (folder / "ledger.jsonl").read_bytes() == ledger


def test_an_interrupted_run_goes_on_to_its_end(interrupted, run, tmp_path):
    folder = shutil.copytree(interrupted[0], tmp_path / "run")
    booked = (folder / "ledger.jsonl").read_bytes()
    ended = run("resume", folder)
    assert ended.code == 0, ended.err
    assert "round 0/" not in ended.out, "what was done is not done again"
    assert (folder / "ledger.jsonl").read_bytes().startswith(booked)
    assert ended.out.splitlines()[-1] == f"run folder: {folder}"
    assert run("verify", folder).code == 0
    run("resume", folder).refused("has ended with status")


def test_ctrl_c_before_the_first_spend_says_so(run, home, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("privfed_dpo.policy.load_model", stop)
    folder = tmp_path / "run"
    run("train", *own_data(home), "--run-dir", folder).refused(
        "interrupted before training began; nothing was spent", "same command", code=1
    )
    assert not folder.exists()


@pytest.fixture(scope="module")
def trained(home):
    """A run by the installed program, from a clean environment, with what it printed."""
    folder = home / "trained"
    process = start_process(home, "train", *own_data(home), "--run-dir", folder)
    out, err = process.communicate()
    return folder, Ended(process.returncode, out, err)


def test_train_prints_progress_and_nothing_else(trained):
    """Libraries are quiet: no bars, no warnings, no colours, nothing on standard error."""
    folder, ended = trained
    assert ended.code == 0
    assert ended.err == ""
    lines = ended.out.splitlines()
    assert lines[0].startswith("distributed mode, target epsilon 8.000, 5 clients, 20 pairs")
    assert [line[:9] for line in lines if line.startswith("round ")] == [
        f"round {number}/3" for number in range(4)
    ]
    assert "Not protected:" in ended.out
    assert lines[-1] == f"run folder: {folder}"
    head = json.loads((folder / "summary.json").read_text())["ledger_head"]
    assert lines[-2].startswith(f"ledger head: {head}")


def test_verify_passes_the_honest_and_fails_the_edited(trained, run, tmp_path):
    folder, _ = trained
    honest = run("verify", folder)
    assert honest.code == 0
    assert honest.out.splitlines()[-1].startswith("verified: ")
    facts = json.loads(run("verify", folder, "--json").out)
    assert facts["ok"] is True
    assert facts["epsilon"]["coalition"]["pld"] <= 8
    assert run("verify", folder, "--head", facts["ledger_head"]).code == 0
    assert run("verify", folder, "--head", "0" * 64).code == 1

    edited = shutil.copytree(folder, tmp_path / "edited")
    ledger = edited / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"round":2', '"round":9', 1))
    ended = run("verify", edited)
    assert ended.code == 1
    assert "PROBLEM: line 3: its content does not match its hash: it was edited" in ended.out
    assert ended.out.splitlines()[-1] == "NOT verified"
    as_json = run("verify", edited, "--json")
    assert as_json.code == 1
    assert json.loads(as_json.out)["ok"] is False


def test_a_finished_run_is_not_resumed_and_costs_no_compute(trained, run, monkeypatch):
    monkeypatch.setattr("privfed_dpo.policy.load_model", forbidden("load_model"))
    folder, _ = trained
    run("resume", folder).refused("has ended with status finished", "Start a new run")


def test_an_edited_ledger_is_not_resumed(interrupted, run, tmp_path):
    folder = shutil.copytree(interrupted[0], tmp_path / "run")
    ledger = folder / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"round":1', '"round":0', 1))
    run("resume", folder).refused("line 1", "it was edited")


def test_the_report_is_made_again_from_the_folder(trained, run):
    folder, _ = trained
    (folder / "report.html").unlink()
    ended = run("report", folder)
    assert ended.code == 0
    assert ended.out.strip() == str(folder / "report.html")
    assert (folder / "report.html").is_file()
    assert run("verify", folder).code == 0


# The other exit codes


def test_a_run_that_loses_its_clients_ends_with_4(run, home, tmp_path):
    ended = run(
        "train",
        *own_data(home),
        "secure_agg.dropout_rate=0.95",
        "federation.rounds=10",
        "--run-dir",
        tmp_path / "run",
    )
    assert ended.code == 4
    assert "5 rounds in a row were aborted" in ended.err
    assert "privacy.dropout_tolerance" in ended.err
    assert run("verify", tmp_path / "run").code == 0


def test_a_budget_that_is_spent_is_refused_with_3(run, home, monkeypatch):
    def spend(*args, **kwargs):
        raise BudgetExceeded(9.5, 0.25)

    monkeypatch.setattr("privfed_dpo.lifecycle.plan", spend)
    run("plan", home / "tiny.yaml").refused("9.5", code=3)


def test_a_full_disk_is_an_ordinary_sentence(run, home, monkeypatch):
    def write(*args, **kwargs):
        raise OSError(28, "No space left on device", "/somewhere/ledger.jsonl")

    monkeypatch.setattr("privfed_dpo.lifecycle.plan", write)
    run("plan", home / "tiny.yaml").refused(
        "No space left on device: /somewhere/ledger.jsonl", "free space", code=1
    )
