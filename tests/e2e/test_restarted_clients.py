"""Clients that come back with other pairs, another policy, or after a restart in a SCAFFOLD run."""

import json

import pytest
import yaml

from examples.parties import deploy
from privfed_dpo.config import load_config
from privfed_dpo.deployment.coordinator import serve
from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.observe.run_folder import read_rows
from privfed_dpo.verification import verify_run
from tests.support.deployed import Stage

OTHER_PAIRS, LOOSER = "user-001", "user-002"
BEFORE, AFTER = 10.0, 25.0


def turned(path):
    """Say of the first pair that the other answer was better; as many pairs as before."""
    lines = path.read_text().splitlines()
    pair = json.loads(lines[0])
    pair["chosen"], pair["rejected"] = pair["rejected"], pair["chosen"]
    path.write_text("\n".join([json.dumps(pair), *lines[1:]]) + "\n")


@pytest.fixture(scope="module")
def restarted(tmp_path_factory):
    """After round 1 two clients restart, one with other pairs; after round 2 it has its own again."""
    deployment = deploy(
        tmp_path_factory.mktemp("restarted") / "d",
        "privacy.mode=local",
        "federation.local_steps=2",
        "federation.drift_control=scaffold",
        max_epsilon=BEFORE,
    )
    pairs = deployment.folder / OTHER_PAIRS / "pairs.jsonl"
    booked = []

    def between(event):
        if not isinstance(event, RoundFinished) or event.row.round not in {1, 2}:
            return
        stage.stop(OTHER_PAIRS)
        turned(pairs)
        booked.append(own_ledger(deployment, OTHER_PAIRS).read_bytes())
        if event.row.round == 1:
            stage.stop(LOOSER)
            policy = deployment.policies[LOOSER]
            rules = yaml.safe_load(policy.read_text())
            policy.write_text(yaml.safe_dump(rules | {"limits": {"max_epsilon": AFTER}}))
            stage.start(LOOSER)
        stage.start(OTHER_PAIRS)

    with Stage(deployment) as stage:
        folder = serve(load_config(deployment.config), journal=stage.journal, observers=[between])
    return deployment, stage, folder, booked


def own_ledger(deployment, name):
    (ledger,) = (deployment.folder / name / "state" / "runs").glob("*/ledger.jsonl")
    return ledger


def rounds_booked(deployment, name):
    lines = [json.loads(line) for line in own_ledger(deployment, name).read_text().splitlines()]
    return [line["body"]["round"] for line in lines if line["kind"] == "spend"]


def test_with_other_pairs_a_client_refuses_and_spends_nothing(restarted):
    deployment, stage, folder, booked = restarted
    rows = read_rows(folder / "metrics.jsonl")
    assert [(row["status"], row["survivors"]) for row in rows[1:]] == [
        ("released", 4),
        ("released", 3),
        ("released", 4),
    ]
    assert booked[0] == booked[1], "its ledger has no line of round 2"
    assert rounds_booked(deployment, OTHER_PAIRS) == [1, 3]
    (early,) = stage.events("other data")
    (run,) = early["runs"]
    assert run == own_ledger(deployment, OTHER_PAIRS).parent.name
    failed = stage.events("failed")
    assert failed
    for line in failed:
        assert line["kind"] == "ResumeMismatch"
        assert line["detail"].startswith("this client's data is not the one this run started with")


def test_the_server_does_not_learn_why(restarted):
    _, stage, folder, _ = restarted
    reasons = {line["reason"] for line in stage.events("refused")}
    assert "the client cannot; its own log says why" in reasons
    for name in ("traffic.jsonl", "ledger.jsonl"):
        assert "data is not" not in (folder / name).read_text()
    lost = [line for line in stage.events("lost") if line["round"] == 2]
    assert {line["reason"] for line in lost} == {"the client cannot; its own log says why"}


def test_a_looser_policy_counts_what_was_spent(restarted):
    deployment, stage, _, _ = restarted
    assert rounds_booked(deployment, LOOSER) == [1, 2, 3]
    spent = {}
    for line in stage.events("round booked"):
        limit = line["epsilon_over_all_runs"] + line["epsilon_left"]
        spent.setdefault(round(limit, 4), []).append(line["epsilon_over_all_runs"])
    assert set(spent) == {BEFORE, AFTER}
    assert len(spent[AFTER]) == 2
    assert min(spent[AFTER]) > min(spent[BEFORE])


def test_control_variates_come_back_with_their_clients(restarted):
    """Or nobody who was restarted could take part: the server counts what they sent in round 1."""
    deployment, stage, folder, _ = restarted
    for name in deployment.policies:
        control = own_ledger(deployment, name).with_name("control")
        assert control.stat().st_mode & 0o077 == 0
    assert not [line for line in stage.events("refused") if "control variate" in line["reason"]]
    verdict = verify_run(folder)
    assert verdict.ok, verdict.as_text()
