"""A deployment on one machine: each party has its own folder, and bytes are all they share."""

import base64
import json
import secrets
from collections import Counter

import pytest
import yaml

from examples.parties import deploy
from privfed_dpo.config import load_config
from privfed_dpo.deployment.coordinator import plan_deployed, resume_deployed, serve
from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.errors import ConfigError, ResumeMismatch
from privfed_dpo.observe.run_folder import read_rows
from privfed_dpo.verification import verify_run
from tests.support.deployed import Stage


class Killed(BaseException):
    pass


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def booked_by(deployment, name):
    (ledger,) = (deployment.folder / name / "state" / "runs").glob("*/ledger.jsonl")
    return [line["body"]["round"] for line in lines(ledger) if line["kind"] == "spend"]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Five clients, one of whom refuses; the coordinator dies after round 1 and is resumed."""
    deployment = deploy(
        tmp_path_factory.mktemp("deployment") / "d",
        "privacy.dropout_tolerance=1",
        "deployment.join_seconds=0.5",
        "run.tensorboard=true",
        clients=5,
    )
    name, policy = sorted(deployment.policies.items())[2]
    rules = yaml.safe_load(policy.read_text())
    policy.write_text(yaml.safe_dump(rules | {"limits": {"max_epsilon": 1.0}}))
    config = load_config(deployment.config)
    drawn = []

    def entropy(count):
        drawn.append(secrets.token_bytes(count))
        return drawn[-1]

    def die(event):
        if isinstance(event, RoundFinished) and event.row.round == 1:
            raise Killed

    with Stage(deployment, entropy=entropy) as stage:
        with pytest.raises(Killed):
            serve(config, journal=stage.journal, observers=[die], entropy=entropy)
        folder = resume_deployed(
            deployment.folder / "server" / "run", journal=stage.journal, entropy=entropy
        )
    stage.drawn = drawn
    return deployment, stage, folder, name


def test_a_run_ends_with_a_model_and_an_epsilon_a_stranger_can_recompute(interrupted):
    deployment, _, folder, _ = interrupted
    verdict = verify_run(folder)
    assert verdict.ok, verdict.as_text()
    summary = json.loads((folder / "summary.json").read_text())
    plan = plan_deployed(load_config(deployment.config))
    assert summary["status"] == "finished"
    assert summary["epsilon"]["coalition"]["pld"] == pytest.approx(
        plan.epsilons[plan.schedule.headline].certified, rel=1e-3
    )
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert {"report.html", "tensorboard"} <= {path.name for path in folder.iterdir()}


def test_rounds_go_on_without_the_client_that_refused(interrupted):
    _, stage, folder, name = interrupted
    rows = read_rows(folder / "metrics.jsonl")
    assert [(row["round"], row["status"]) for row in rows] == [
        (0, "start"),
        (1, "released"),
        (2, "released"),
        (3, "released"),
    ]
    assert {row["survivors"] for row in rows[1:]} == {4}
    assert {line["client"] for line in stage.events("joined") if "client" in line} == {
        f"user-00{n}" for n in (0, 1, 3, 4)
    }
    reasons = [line["reason"] for line in stage.events("refused") if "epsilon" in line["reason"]]
    assert reasons
    assert all("at most 1 ever" in reason for reason in reasons)
    assert next(line["clients"] for line in stage.events("going on without")) == [name]


def test_every_client_keeps_its_own_books(interrupted):
    deployment, stage, _, refused = interrupted
    for name in deployment.policies:
        if name == refused:
            assert not list((deployment.folder / name / "state" / "runs").iterdir())
        else:
            assert booked_by(deployment, name) == [1, 2, 3]
    left = [line["epsilon_left"] for line in stage.events("round booked")]
    assert left == sorted(left, reverse=True)


def test_a_round_costs_five_messages_and_each_is_in_the_books(interrupted):
    _, _, folder, _ = interrupted
    traffic = lines(folder / "traffic.jsonl")
    sent = Counter((line["round"], line["client"]) for line in traffic if line["address"])
    rounds = {key: count for key, count in sent.items() if key[0] > 0}
    assert set(rounds.values()) == {5}
    rows = read_rows(folder / "metrics.jsonl")
    for number in (1, 2, 3):
        received = sum(line["received_bytes"] for line in traffic if line["round"] == number)
        assert received == rows[number]["upload_bytes"]


def test_the_coordinator_s_folder_holds_nothing_of_the_clients(interrupted):
    deployment, _, _, _ = interrupted
    words = [
        row["prompt"].encode() for row in lines(deployment.folder / "user-000" / "pairs.jsonl")
    ]
    public = (deployment.folder / "public" / "held_out.jsonl").read_bytes()
    private = [word for word in words if word not in public]
    assert private
    for path in (deployment.folder / "server").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [word for word in private if word in content], path


def test_no_log_holds_key_material(interrupted):
    """Nothing drawn for keys, masks, noise or nonces, nor an identity, in any usual spelling."""
    deployment, stage, folder, _ = interrupted
    kept = deployment.folder.glob("*/state/identity.key")
    identities = [*kept, deployment.folder / "server" / "coordinator.key"]
    assert len(identities) == 6
    run_id = json.loads((folder / "ledger.jsonl").read_text().splitlines()[0])["body"]["run_id"]
    secret = {value for value in stage.drawn if len(value) >= 16} - {bytes.fromhex(run_id)}
    secret |= {path.read_bytes() for path in identities}
    assert len(secret) > 50
    logs = [path for path in folder.rglob("*") if path.suffix in {".jsonl", ".json", ".html"}]
    assert {path.name for path in logs} >= {"traffic.jsonl", "metrics.jsonl", "report.html"}
    text = b"".join(path.read_bytes() for path in logs) + json.dumps(stage.told).encode()
    assert run_id.encode() in text, "what is looked for would be found"
    for value in secret:
        spelt = {value, value.hex().encode(), base64.b64encode(value).rstrip(b"=")}
        assert not [form for form in spelt if form in text]


def test_an_ended_run_a_changed_roster_and_a_cut_ledger_are_not_resumed(interrupted):
    deployment, stage, folder, _ = interrupted
    with pytest.raises(ConfigError, match="has ended with status finished"):
        resume_deployed(folder, journal=stage.journal)
    ledger = folder / "ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    roster = deployment.folder / "public" / "roster.yaml"
    before = roster.read_text()
    changed = yaml.safe_load(before)
    changed["clients"]["user-009"] = {"pairs": 3, "key": "ab" * 32}
    roster.write_text(yaml.safe_dump(changed))
    try:
        with pytest.raises(ResumeMismatch, match="roster"):
            resume_deployed(folder, journal=stage.journal)
        roster.write_text(before)
        ledger.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
        with pytest.raises(ResumeMismatch, match="the ledger is not the one"):
            resume_deployed(folder, journal=stage.journal)
    finally:
        roster.write_text(before)
        ledger.write_bytes(whole)
