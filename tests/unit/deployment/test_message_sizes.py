"""A plan whose messages would be refused on their way is refused itself, before anybody books."""

import numpy as np
import pytest

from privfed_dpo.config.deployment import DeploymentConfig
from privfed_dpo.deployment.message_sizes import (
    invitation_bytes,
    reply_bytes,
    require_deliverable,
)
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.control_variates import ControlVariate
from privfed_dpo.engine.messages import MAX_ENVELOPE_BYTES, START
from privfed_dpo.errors import PlanRefused
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.server_update import ServerState
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import LoopbackCarrier
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import fake_clients, fake_ledger, fake_plan, fake_training

LOCAL = ("privacy.mode=local", "federation.rounds=2")
SECRET = (
    "privacy.mode=user",
    "privacy.max_update_norm=0.25",
    "privacy.dropout_tolerance=1",
    "privacy.colluders=0",
    "federation.cohort_sampling=poisson",
    "federation.cohort=5",
    "federation.max_participations=2",
    "federation.rounds=2",
)
IN_CLEAR = ("secure_agg.enabled=false", *LOCAL)


class WeighingCarrier(LoopbackCarrier):
    """Notes the longest invitation and the longest reply."""

    invitation = reply = 0

    def exchange(self, exchange):
        if exchange.step == START:
            self.invitation = max(self.invitation, *map(len, exchange.messages.values()))
        replies = super().exchange(exchange)
        self.reply = max(self.reply, *map(len, replies.values()))
        return replies


@pytest.mark.parametrize("dimension", [12, 5000])
@pytest.mark.parametrize(
    ("overrides", "clients"),
    [
        (("federation.rounds=2",), 8),
        (("federation.rounds=2", "federation.cohort=40"), 40),
        (LOCAL, 8),
        (IN_CLEAR, 8),
        ((*LOCAL, "federation.drift_control=scaffold", "federation.local_steps=2"), 8),
        (SECRET, 9),
    ],
    ids=["shared noise", "many clients", "own noise", "in clear", "scaffold", "secret cohorts"],
)
def test_no_message_of_a_round_is_longer_than_was_foretold(
    tmp_path, overrides, clients, dimension, monkeypatch
):
    monkeypatch.setattr("tests.support.fake_federation.DIMENSION", dimension)
    plan = fake_plan(*overrides, clients=clients, dimension=dimension)
    controls = [ControlVariate.start(dimension) for _ in range(clients)]
    members, roster = fake_clients(plan, controls=controls if plan.drift.scaffold else ())
    carrier = WeighingCarrier({n: member.handle for n, member in members.items()})
    training = fake_training(
        plan,
        roster,
        fake_ledger(plan, tmp_path / "ledger.jsonl"),
        issuer=StreamIssuer(counted_entropy("coins")) if plan.secret_cohorts else None,
    )
    zero = ServerState.start(np.zeros(dimension, np.float32))
    result = drive(training.script(Checkpoint(0, zero, (), plan.plan_hash, "d", 0.0)), carrier)
    assert result.status == "finished"
    assert carrier.invitation > 4 * dimension
    assert carrier.invitation <= invitation_bytes(plan) <= carrier.invitation + 1500
    assert carrier.reply <= reply_bytes(plan)
    if dimension == 5000:
        assert reply_bytes(plan) <= carrier.reply + 1500


def test_a_reply_above_the_coordinator_s_limit_is_refused_with_both_numbers():
    """80 million parameters at 64 bits are 640 MB; 256 MiB are taken, if nothing else is set."""
    plan = fake_plan(*LOCAL, "privacy.noise_multiplier=2", dimension=80_000_000)
    assert plan.upload_bytes > 640_000_000
    wanted = reply_bytes(plan)
    assert plan.upload_bytes - 2000 < wanted < plan.upload_bytes + 2000
    with pytest.raises(PlanRefused, match="max_reply_bytes=268435456") as caught:
        require_deliverable(plan, DeploymentConfig())
    assert f"{wanted} bytes" in str(caught.value)
    assert f"deployment.max_reply_bytes={wanted}" in caught.value.advice
    assert "model.adapter.rank" in caught.value.advice
    require_deliverable(plan, DeploymentConfig(max_reply_bytes=wanted))
    with pytest.raises(PlanRefused):
        require_deliverable(plan, DeploymentConfig(max_reply_bytes=wanted - 1))


@pytest.mark.parametrize(
    ("overrides", "dimension", "longest"),
    [
        (("federation.rounds=2",), 536_871_000, "invitation"),
        (LOCAL, 268_435_500, "reply"),
    ],
)
def test_a_message_that_no_setting_lets_through_is_refused_whatever_is_set(
    overrides, dimension, longest
):
    plan = fake_plan(*overrides, dimension=dimension)
    sizes = {"invitation": invitation_bytes(plan), "reply": reply_bytes(plan)}
    assert sizes[longest] > MAX_ENVELOPE_BYTES
    with pytest.raises(PlanRefused, match=f"more than {MAX_ENVELOPE_BYTES}") as caught:
        require_deliverable(plan, DeploymentConfig(max_reply_bytes=MAX_ENVELOPE_BYTES))
    assert str(sizes[longest]) in str(caught.value)
    assert caught.value.advice.startswith("Train fewer parameters")


def test_an_ordinary_plan_passes():
    require_deliverable(fake_plan(), DeploymentConfig())
