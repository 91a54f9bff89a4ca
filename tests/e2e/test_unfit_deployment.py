"""A deployment that could only waste its clients' budgets is refused by plan and server."""

import pytest

from examples.parties import deploy
from privfed_dpo.config import load_config
from privfed_dpo.deployment.coordinator import plan_deployed, serve
from privfed_dpo.errors import PlanRefused
from privfed_dpo.observe.run_folder import LEDGER_FILE


def test_a_limit_that_refuses_every_input_is_seen_before_anything_is_spent(tmp_path):
    deployment = deploy(tmp_path / "d", "deployment.max_reply_bytes=1024")
    config, told = load_config(deployment.config), []
    with pytest.raises(PlanRefused, match="max_reply_bytes=1024") as planned:
        plan_deployed(config)
    run = tmp_path / "run"
    with pytest.raises(PlanRefused, match="max_reply_bytes=1024") as served:
        serve(config, journal=lambda event, **facts: told.append(event), folder=run)
    assert str(planned.value) == str(served.value)
    assert told == [], "nobody was asked"
    assert not (run / LEDGER_FILE).exists()
    (advice,) = [part for part in planned.value.advice.split() if "max_reply_bytes" in part]
    enough = load_config(deployment.config, [advice.rstrip(",")])
    assert plan_deployed(enough).upload_bytes > 1024
