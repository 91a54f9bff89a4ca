"""Control variates and late clients in whole runs, over an interruption."""

import json

import numpy as np
import pytest

from privfed_dpo.engine.checkpoint import load_checkpoint
from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.lifecycle import reopen, resume, train
from privfed_dpo.verification import verify_run
from tests.support.tiny_run import tiny_config


@pytest.mark.parametrize(
    "wanted", ["federation.drift_control=scaffold", "federation.max_staleness=2"]
)
def test_a_run_is_resumed_with_what_its_clients_kept(tmp_path, wanted):
    folder = tmp_path / "run"
    fixed = ["privacy.mode=local", "federation.local_steps=2", "federation.cohort=5"]
    rates = ["federation.server_optimizer=sgd", "federation.learning_rate=1.0"]
    rates += ["evaluation.curvature_products=2"]

    def stop(event):
        if isinstance(event, RoundFinished) and event.row.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(folder, *fixed, *rates, wanted), observers=[stop])
    plan = reopen(folder).plan
    fingerprint = reopen(folder).data_fingerprint
    kept = load_checkpoint(
        folder / "checkpoint", plan_hash=plan.plan_hash, data_fingerprint=fingerprint
    ).drift
    scaffold = plan.drift.scaffold
    assert kept["recent"].shape == (0 if scaffold else 2, plan.facts.dimension)
    if scaffold:
        assert kept["counted"].max() == 2
        assert np.isfinite(kept["values"]).all()
        assert np.abs(kept["control"]).max() > 0
    resume(folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["start", *["released"] * 3]
    assert (rows[-1]["staleness"] is None) == scaffold
    assert verify_run(folder).ok
    floor = json.loads((folder / "summary.json").read_text())["floor"]
    if scaffold:
        assert "old control variates" in floor["reason"]
        assert floor["sources"] == []
        return
    sources = {source["name"]: source for source in floor["sources"]}
    assert sources["privacy noise"]["predicted"] > 0
    assert sources["drift"]["measured"] is None
    assert sources["all together"]["measured"] == rows[-1]["grad_norm_sq"]
    assert "What keeps the gradient from zero" in (folder / "report.html").read_text()
