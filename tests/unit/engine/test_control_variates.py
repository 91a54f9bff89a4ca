"""SCAFFOLD and late clients: by hand, through lost rounds, over an interruption, and refused."""

import numpy as np
import pytest

from accounting import Adversary, Ledger
from privfed_dpo.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.control_variates import (
    ControlVariate,
    ControlVariateLost,
    Correction,
    pack_controls,
    unpack_controls,
)
from privfed_dpo.engine.messages import (
    ControlStart,
    MalformedEnvelope,
)
from privfed_dpo.errors import ConfigError
from privfed_dpo.server_update import ServerState
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import Dropouts, LoopbackCarrier
from tests.support.fake_federation import (
    DIMENSION,
    fake_clients,
    fake_contributor,
    fake_ledger,
    fake_plan,
    fake_start,
    fake_training,
    invitation,
)

RATE, STEPS, ROUNDS = 0.1, 3, 8
LOCAL = (
    "privacy.sample_rate=1",
    "privacy.dropout_tolerance=2",
    "privacy.colluders=0",
    f"federation.rounds={ROUNDS}",
    f"federation.local_steps={STEPS}",
    f"federation.local_learning_rate={RATE}",
)
PLAIN = (
    "privacy.mode=none",
    "privacy.noise_multiplier=null",
    "privacy.max_grad_norm=null",
    "secure_agg.enabled=false",
    *LOCAL,
)
SCAFFOLD = "federation.drift_control=scaffold"
LATE = "federation.max_staleness=2"


class Run:
    """A training without a language model that can be cut and taken up again."""

    def __init__(self, folder, plan, *, dropout=0.0):
        self.folder, self.plan, self.dropout = folder, plan, dropout
        folder.mkdir()
        fake_ledger(plan, folder / "ledger.jsonl")
        zero = np.zeros(DIMENSION, np.float32)
        self.checkpoint = Checkpoint(0, ServerState.start(zero), (), plan.plan_hash, "d", 0.0)
        self.controls = []

    def play(self, *, until=None):
        """Train to the end, or until a round is saved, as if the process died then."""
        self.controls = unpack_controls(self.checkpoint.drift, self.plan)
        clients, roster = fake_clients(self.plan, controls=self.controls)
        training = fake_training(
            self.plan,
            roster,
            Ledger.open(self.folder / "ledger.jsonl"),
            save=lambda checkpoint: self._save(checkpoint, until),
            snapshot=lambda: pack_controls(self.controls),
        )
        lost = Dropouts(self.dropout, 3) if self.dropout else None
        carrier = LoopbackCarrier({n: c.handle for n, c in clients.items()}, lost)
        try:
            drive(training.script(self.checkpoint), carrier)
        except KeyboardInterrupt:
            self.checkpoint = load_checkpoint(
                self.folder, plan_hash=self.plan.plan_hash, data_fingerprint="d"
            )
        return self

    def _save(self, checkpoint, until):
        self.checkpoint = checkpoint
        save_checkpoint(self.folder, checkpoint)
        if checkpoint.round == until:
            raise KeyboardInterrupt


def test_the_new_control_variate_is_the_mean_of_the_gradients_that_were_used():
    """Gradients 3 and 5, c_i = 1, c = 2, eta = 0.1: moved -0.1 (4 + 6) = -1, so c_i+ = 4."""
    correction = Correction(server=np.array([2.0]), own=np.array([1.0]))
    moved = -0.1 * sum(correction.corrected(np.array([g])) for g in (3.0, 5.0))
    assert moved == pytest.approx(-1.0)
    assert 1.0 + correction.change(moved, local_steps=2, rate=0.1) == pytest.approx(4.0)


def test_in_local_mode_everything_sent_follows_from_noised_gradients():
    """The change of the control variate is the mean noised gradient of the round, minus c_i."""
    plan = fake_plan("privacy.mode=local", SCAFFOLD, *LOCAL)
    rng = np.random.default_rng(0)
    server, own = rng.normal(size=(2, DIMENSION))
    noised = []

    def watched(contributor):
        original = type(contributor)._mean_gradient

        def record(self, label):
            noised.append(original(self, label))
            return noised[-1]

        return record

    contributor = fake_contributor(plan, 0, "seed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(contributor), "_mean_gradient", watched(contributor))
        start = rng.normal(size=DIMENSION).astype(np.float32)
        sent = contributor.contribute(1, start, Correction(server, own))
    sent = sent / plan.grid().steps_per_unit
    assert sent.size == plan.vector_length == 2 * DIMENSION + 1
    mean = np.mean(noised, axis=0)
    assert sent[:DIMENSION] == pytest.approx(-RATE * STEPS * (mean - own + server), abs=1e-9)
    assert sent[DIMENSION:-1] == pytest.approx(mean - own, abs=1e-9)
    assert np.std(mean) > 0.05, "there is noise in it"


def test_control_variates_cost_nothing_in_local_mode_and_double_the_vector():
    with_them, without = (
        fake_plan("privacy.mode=local", control, *LOCAL)
        for control in (SCAFFOLD, "federation.drift_control=none")
    )
    assert with_them.schedule == without.schedule
    assert all(with_them.epsilons[a] == without.epsilons[a] for a in Adversary)
    assert with_them.plan_hash != without.plan_hash
    assert with_them.vector_length - without.vector_length == DIMENSION
    assert with_them.upload_bytes - without.upload_bytes == 8 * DIMENSION


def test_a_change_counts_only_once_the_sum_was_opened_with_it():
    control = ControlVariate.start(2)
    control.sent(3, np.array([1.0, 2.0]))
    control.settle(0)
    assert control.value.tolist() == [0.0, 0.0], "round 3 was lost, and so is its change"
    control.sent(4, np.array([1.0, 2.0]))
    control.settle(4)
    control.settle(4)
    assert control.value.tolist() == [1.0, 2.0], "once"
    with pytest.raises(ControlVariateLost, match="round 7"):
        control.settle(7)


@pytest.mark.parametrize("mode", ["plain", "local"])
def test_the_servers_mean_is_the_mean_of_the_clients_whoever_is_lost(tmp_path, mode):
    """Cohorts of 5 of 8, a sixth of the messages lost: c agrees to the grid, in every round."""
    modes = {"plain": PLAIN, "local": ("privacy.mode=local", *LOCAL)}
    plan = fake_plan(*modes[mode], SCAFFOLD, "federation.cohort=5", clients=8)
    run = Run(tmp_path / "run", plan, dropout=0.15).play()
    survivors = [row.survivors for row in run.checkpoint.rows]
    assert min(survivors) < 5, "somebody was lost"
    counted = run.checkpoint.drift["counted"]
    for control, last in zip(run.controls, counted, strict=True):
        control.settle(int(last))
    mean = np.mean([control.value for control in run.controls], axis=0)
    assert run.checkpoint.drift["control"] == pytest.approx(mean, abs=1e-9)
    assert np.abs(mean).max() > 1e-2


@pytest.mark.parametrize("overrides", [(SCAFFOLD,), (LATE,), (LATE, "federation.proximal=0.5")])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path, overrides):
    plan = fake_plan(*PLAIN, *overrides, "federation.cohort=5")
    whole = Run(tmp_path / "whole", plan).play()
    cut = Run(tmp_path / "cut", plan).play(until=4)
    assert cut.checkpoint.round == 4
    assert cut.play().checkpoint.round == ROUNDS
    assert cut.checkpoint.state.weights.tolist() == whole.checkpoint.state.weights.tolist()
    for name, array in whole.checkpoint.drift.items():
        assert cut.checkpoint.drift[name].tolist() == array.tolist(), name
    forgetful = Run(tmp_path / "forgetful", plan).play(until=4)
    object.__setattr__(forgetful.checkpoint, "drift", None)
    ended = forgetful.play().checkpoint.state.weights
    assert np.abs(ended - whole.checkpoint.state.weights).max() > 1e-6, "memory matters"


def test_without_drift_control_nothing_is_remembered(tmp_path):
    run = Run(tmp_path / "run", fake_plan(*PLAIN)).play()
    assert run.checkpoint.drift is None
    assert {row.staleness for row in run.checkpoint.rows} == {None}


def test_rows_name_the_mean_age_of_what_clients_set_out_from(tmp_path):
    plan = fake_plan(*PLAIN, LATE)
    rows = Run(tmp_path / "run", plan).play().checkpoint.rows
    expected = [
        np.mean([min(plan.drift.delay(t, client), t - 1) for client in range(8)])
        for t in range(1, ROUNDS + 1)
    ]
    assert [row.staleness for row in rows] == pytest.approx(expected)
    assert rows[0].staleness == 0.0
    assert max(expected) > 0.5


def test_late_clients_cost_what_prompt_ones_do():
    late, prompt = (fake_plan(f"federation.max_staleness={tau}") for tau in (3, 0))
    assert late.schedule == prompt.schedule
    assert all(late.epsilons[a] == prompt.epsilons[a] for a in Adversary)
    assert late.plan_hash != prompt.plan_hash


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"control": None}, MalformedEnvelope),
        ({"control": ControlStart(b"\0" * 4, (0,) * 8)}, MalformedEnvelope),
        ({"control": ControlStart(b"\0" * 4 * DIMENSION, (0,) * 7)}, MalformedEnvelope),
        ({"control": ControlStart(b"\0" * 4 * DIMENSION, (5,) * 8)}, ClientRefused),
    ],
)
def test_an_invitation_with_other_control_variates_is_refused(change, error):
    """The last one counts a round that this client knows nothing of."""
    plan = fake_plan(*PLAIN, SCAFFOLD)
    clients, _ = fake_clients(plan)
    start = fake_start(plan, range(8), np.zeros(DIMENSION), **change)
    with pytest.raises(error):
        clients[0].handle(invitation(start))


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (("privacy.mode=user", "privacy.max_update_norm=1", SCAFFOLD), "only sums are noised"),
        (("privacy.mode=distributed", SCAFFOLD), "has none"),
        (("privacy.mode=gossip", SCAFFOLD), "needs a server"),
        ((*PLAIN, SCAFFOLD, "federation.local_steps=1"), "corrections add up to zero"),
        ((*PLAIN, SCAFFOLD, "federation.proximal=1"), "use one of them"),
        ((*PLAIN, SCAFFOLD, LATE), "belongs to another round"),
        (("privacy.mode=gossip", LATE), "adapters that a server sends"),
        (("federation.max_staleness=50",), "no adapter is that old"),
    ],
)
def test_what_is_not_proved_or_does_nothing_is_refused_with_the_reason(overrides, part):
    with pytest.raises(ConfigError) as refused:
        fake_plan(*overrides)
    assert any(part in problem for problem in refused.value.problems), refused.value.problems
