"""The deployment that `make demo-flower` shows: real Flower processes, killed in the middle."""

import json
import os

import pytest

from examples import demo_flower
from examples.flower_processes import Cast
from privfed_dpo.config import load_config
from privfed_dpo.deployment.coordinator import plan_deployed
from privfed_dpo.observe.run_folder import read_rows
from privfed_dpo.verification import verify_run

pytestmark = [pytest.mark.slow, pytest.mark.flower]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flower") / "parties"
    return folder, demo_flower.main(folder)


def test_the_run_ends_with_a_model_and_the_planned_epsilon(played):
    _, run = played
    assert verify_run(run).ok
    summary = json.loads((run / "summary.json").read_text())
    plan = plan_deployed(load_config(run / "config.yaml"))
    assert summary["status"] == "finished"
    certified = plan.epsilons[plan.schedule.headline].certified
    assert summary["epsilon"]["coalition"]["pld"] == pytest.approx(certified, rel=1e-3)
    assert (run / "adapter" / "adapter_model.safetensors").is_file()


def test_whoever_was_killed_dropped_out_of_that_phase_and_came_back(played):
    """Killed in ShareKeys, a client is not in the sum; killed in Unmask, it still is."""
    _, run = played
    rows = {row["round"]: row for row in read_rows(run / "metrics.jsonl")}
    assert {row["status"] for number, row in rows.items() if number} == {"released"}
    assert rows[1]["survivors"] == 5
    assert (rows[2]["survivors"], rows[2]["dropped"]) == (4, {"ShareKeys": 1})
    assert (rows[3]["survivors"], rows[3]["dropped"]["Unmask"]) == (4, 1)
    assert rows[5]["survivors"] == 4, "the first one is back, the second is not"
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    lost = {
        (line["round"], line["step"], line["client"]) for line in log if line["event"] == "lost"
    }
    assert {(2, "ShareKeys", 1), (3, "Unmask", 3)} <= lost
    traffic = [json.loads(line) for line in (run / "traffic.jsonl").read_text().splitlines()]
    answered = {(line["round"], line["client"]) for line in traffic if not line["lost"]}
    assert (5, 1) in answered
    assert (5, 3) not in answered


def test_nodes_that_do_not_belong_here_are_named_in_a_log_and_never_asked(played):
    """One with a key that nobody registered, one that trusts another authority's certificate."""
    folder, run = played
    superlink = (folder / "superlink.log").read_text()
    assert "No SuperNode found with the given public key" in superlink
    refused = (folder / "supernode-mistrustful.log").read_text()
    assert "CERTIFICATE_VERIFY_FAILED" in refused
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    joined = {line["client"] for line in log if line["event"] == "joined"}
    assert joined == {f"user-00{number}" for number in range(5)}
    assert not [line for line in log if line["event"] == "did not join"]


def test_no_process_is_left(played):
    folder, _ = played
    assert Cast(folder).ours() == []
    assert os.path.isdir(folder)
