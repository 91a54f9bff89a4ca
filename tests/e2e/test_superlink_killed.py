"""Flower's SuperLink dies in the middle of a round: the run stops in good order, and is resumed."""

import json

import pytest

from examples.demo_flower import follow, start_parties
from examples.flower_processes import PRIVFED, Cast, start_relay, start_superlink, wait_for
from examples.parties import deploy
from privfed_dpo.config import load_config
from privfed_dpo.deployment.coordinator import plan_deployed
from privfed_dpo.observe.run_folder import read_rows
from privfed_dpo.verification import verify_run

pytestmark = [pytest.mark.slow, pytest.mark.flower]

ROUNDS, PATIENCE_SECONDS = 3, 90
ABORTED = 4
SETTINGS = (
    f"federation.rounds={ROUNDS}",
    "privacy.dropout_tolerance=1",
    "deployment.phase_seconds=60",
    "deployment.training_seconds=120",
    "deployment.join_seconds=10",
    f"deployment.patience_seconds={PATIENCE_SECONDS}",
)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def survived(tmp_path_factory):
    """Killed as ShareKeys of round 2 begins; back only after the coordinator has given up."""
    folder = tmp_path_factory.mktemp("superlink") / "parties"
    parties = deploy(folder, *SETTINGS, clients=3)
    run = parties.config.parent / "run"
    cast = Cast(folder)
    try:
        address = start_parties(cast, parties)
        start_relay(cast, parties.server_socket)
        cast.start("server", [*PRIVFED, "server", str(parties.config)])
        for line in follow(run / "log.jsonl", cast.processes["server"]):
            if (line.get("round"), line.get("phase")) == (2, "AdvertiseKeys"):
                cast.crash("superlink")
        code = cast.processes.pop("server").wait()
        before = log_of(run)
        start_superlink(cast, address)
        start_relay(cast, parties.server_socket)
        cast.start("server-again", [*PRIVFED, "resume", str(run)])
        wait_for("the end of the run", lambda: not cast.alive("server-again"), 600)
        again = cast.processes.pop("server-again").wait()
    finally:
        cast.end()
    assert cast.ours() == []
    return cast, run, (code, again), before


def test_the_coordinator_notices_within_its_deadline_spends_no_further_round_and_says_so(survived):
    cast, _, (code, _), before = survived
    assert code == ABORTED
    lost = [line for line in before if line["event"] == "lost" and line["round"] == 2]
    assert {line["step"] for line in lost} == {"ShareKeys"}
    assert {line["reason"] for line in lost} <= {"the relay went away", "no answer in time"}
    started = [line["round"] for line in before if line["event"] == "round started"]
    assert started == [1, 2]
    said = cast.log("server").read_text()
    assert "clients, and only 0 are connected" in said
    assert "resume" in said


def test_the_resumed_run_ends_as_planned_but_for_the_round_that_was_lost(survived):
    _, run, (_, again), _ = survived
    assert again == 0
    rows = read_rows(run / "metrics.jsonl")
    assert [row["status"] for row in rows] == ["start", "released", "aborted", "released"]
    verdict = verify_run(run)
    assert verdict.ok, verdict.as_text()
    summary = json.loads((run / "summary.json").read_text())
    plan = plan_deployed(load_config(run / "config.yaml"))
    assert summary["status"] == "finished"
    certified = plan.epsilons[plan.schedule.headline].certified
    assert summary["epsilon"]["coalition"]["pld"] == pytest.approx(certified, rel=1e-3)


def test_nodes_found_the_new_superlink_by_themselves(survived):
    _, run, _, before = survived
    nodes = [line["node"] for line in before if line["event"] == "joined"]
    assert len(nodes) == len(set(nodes)) == 3
    joined = [line["node"] for line in log_of(run) if line["event"] == "joined"]
    assert sorted(joined) == sorted(nodes * 2)
