"""A coordinator that is a process, killed while its clients compute, and started again."""

import json
import os
import signal

from examples.parties import deploy
from privfed_dpo.observe.run_folder import read_rows
from privfed_dpo.verification import verify_run
from secure_agg import Phase
from tests.support.deployed import Stage
from tests.support.real_processes import RecordingPost, died, start_doomed


def test_kill_9_while_clients_compute_then_resume(tmp_path):
    """Their answers reach the next process, which asked other things: it takes none of them."""
    deployment = deploy(
        tmp_path / "d",
        "federation.rounds=2",
        "privacy.noise_multiplier=2.0",
        "privacy.target_epsilon=null",
        "deployment.patience_seconds=300",
    )
    run = deployment.folder / "server" / "run"
    post = RecordingPost(deployment.sockets)
    with Stage(deployment, post=post):
        first = start_doomed(None, "server", deployment.config)

        def kill(steps):
            if (1, Phase.MASKED_INPUT.value) in steps:
                os.kill(first.pid, signal.SIGKILL)
                first.wait()

        post.on_push = kill
        assert died(first)
        assert verify_run(run).ok, "the ledger must be sound at the moment of death"
        assert not died(start_doomed(None, "resume", run))
    rows = read_rows(run / "metrics.jsonl")
    assert [row["status"] for row in rows] == ["start", "lost", "released"]
    assert rows[2]["survivors"] == 4, "no late answer was taken for one that was asked for"
    lines = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    assert [line["body"]["round"] for line in lines if line["kind"] == "spend"] == [1, 2]
    assert verify_run(run).ok
    assert "refused" not in (run / "log.jsonl").read_text()
