"""FedProx: a pull back to where the round began, by hand, in every mode that takes local steps."""

import numpy as np
import pytest
import torch

from accounting import Adversary
from privfed_dpo.engine.contribution import Contributor, PrivateShard
from privfed_dpo.errors import ConfigError
from privfed_dpo.mechanism.keystream import StreamIssuer
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import fake_plan

MODES = {
    "local": (),
    "user": ("privacy.max_update_norm=50",),
    "none": ("privacy.noise_multiplier=null",),
    "gossip": (
        "secure_agg.enabled=false",
        "privacy.dropout_tolerance=0",
        "privacy.colluders=0",
    ),
}
RATE, PULL, STEPS = 0.1, 3.0, 4


def mode_plan(mode, *overrides):
    """Full batches, no pair clipped; four local steps of 0.1."""
    return fake_plan(
        f"privacy.mode={mode}",
        *MODES[mode],
        "privacy.max_grad_norm=10",
        "privacy.sample_rate=1",
        f"federation.local_steps={STEPS}",
        f"federation.local_learning_rate={RATE}",
        *overrides,
        dimension=2,
    )


class Slope:
    """Every pair pulls toward its own tokens: gradient w - (chosen, rejected)."""

    def load(self, weights):
        self.weights = weights.astype(np.float64)

    def pair_gradients(self, pairs, reference):
        del reference
        yield torch.tensor(self.weights - np.array(pairs, dtype=np.float64))

    def clipped_sum(self, pairs, reference, clipper):
        return clipper.clip_all(self.pair_gradients(pairs, reference), 2)


def issuer():
    return StreamIssuer(counted_entropy("client-0"))


def sent_by(plan, start):
    """What client 0 sends, its share of noise taken off where it is added at the end."""
    pairs = ((1.0, -2.0),) * 10
    shard = PrivateShard(pairs=pairs, reference=np.zeros((10, 2), np.float32))
    sent = Contributor(plan, 0, shard, Slope(), issuer()).contribute(1, start)
    if plan.user_updates is not None:
        noise = plan.share_noise().draw(sent.size, issuer().issue("round-1/noise"))
        sent = sent - noise
    return sent / plan.grid().steps_per_unit


def by_hand(plan, start, pull):
    """The same steps in six lines, with the very noise that the client draws."""
    noisy = plan.share_noise() is not None and plan.user_updates is None
    own, place, drift = issuer(), start.astype(np.float64), 0.0
    for step in range(STEPS):
        gradient = place - [1.0, -2.0] + pull * (place - start)
        if noisy:
            stream = own.issue(f"round-1/step-{step}/noise")
            steps = plan.share_noise().draw(2, stream)
            gradient = gradient + steps / (plan.gradient_steps_per_unit() * 10)
        place = place - RATE * gradient
        drift += ((place - start) ** 2).sum() / STEPS
    return place - start, drift


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pull", [0.0, PULL])
def test_every_local_step_is_pulled_back_to_the_rounds_start(mode, pull):
    plan = mode_plan(mode, f"federation.proximal={pull}")
    start = np.array([0.25, 0.5], dtype=np.float32)
    change, drift = by_hand(plan, start, pull)
    sent = sent_by(plan, start)
    assert sent[:2] == pytest.approx(change, abs=1e-5)
    if plan.ring.carries_updates:
        assert sent[2] == pytest.approx(drift, abs=1e-5)
    other, _ = by_hand(plan, start, PULL - pull)
    assert np.abs(sent[:2] - other).max() > 1e-2, "with the other strength it would be elsewhere"


def test_two_steps_without_data_noise_by_hand():
    """Gradient (w - 1), w = 0, eta 0.1, mu 3: 0.1, then 0.1 + 0.1 (0.9 - 0.3) = 0.16."""
    plan = mode_plan("none", "federation.proximal=3", "federation.local_steps=2")
    assert sent_by(plan, np.zeros(2, np.float32))[0] == pytest.approx(0.16, abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_pull_costs_no_privacy_and_is_part_of_the_plan(mode):
    plain, held = (mode_plan(mode, f"federation.proximal={pull}") for pull in (0.0, PULL))
    assert plain.schedule == held.schedule
    assert all(plain.epsilons[adversary] == held.epsilons[adversary] for adversary in Adversary)
    assert plain.plan_hash != held.plan_hash, "clients refuse a round with another strength"
    assert held.describe()["drift_control"]["proximal"] == PULL


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (("federation.local_steps=1",), "does nothing with federation.local_steps=1"),
        (("federation.local_learning_rate=0.5",), "would overshoot"),
        (("federation.proximal=-1",), "greater than or equal to 0"),
    ],
)
def test_a_pull_that_cannot_work_is_refused(overrides, part):
    with pytest.raises(ConfigError) as refused:
        mode_plan("local", f"federation.proximal={PULL}", *overrides)
    assert any(part in problem for problem in refused.value.problems)
