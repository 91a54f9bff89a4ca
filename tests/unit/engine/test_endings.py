"""How training ends: what it leaves behind is measured, and a diverged run spends no more."""

import math

import numpy as np
import pytest

from privfed_dpo.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.engine.training import bad_end, lost_rows
from privfed_dpo.errors import RunAborted, RunDiverged
from privfed_dpo.server_update import ServerState, ServerUpdate
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.faulty_nodes import NodeAbsences
from privfed_dpo.wire.loopback import LoopbackCarrier
from tests.support.fake_federation import (
    DIMENSION,
    fake_clients,
    fake_ledger,
    fake_plan,
    fake_training,
)
from tests.support.fake_neighbours import fake_nodes, gossip_plan, train_nodes

ZERO = np.zeros(DIMENSION, dtype=np.float32)


def plan_with_budget_for(rounds, *overrides, planned=5, make=fake_plan):
    """A plan whose ledger refuses more rounds than `rounds`."""
    plan = make(f"federation.rounds={rounds}", *overrides)
    object.__setattr__(plan, "rounds", planned)
    return plan


def size_of(weights):
    return {"loss": float(np.abs(weights).sum()), "reward_accuracy": 0.5}


class LossIsLostAfter:
    """A measure that is finite for so many calls."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self, weights):
        self.calls -= 1
        return {"loss": math.nan if self.calls < 0 else 0.5, "reward_accuracy": 0.0}


def start_of(plan):
    return Checkpoint(0, ServerState.start(ZERO), (), plan.plan_hash, "d", 0.0)


def play(plan, tmp_path, *, start=None, ledger=None, carrier=None, **changes):
    clients, roster = fake_clients(plan)
    ledger = ledger or fake_ledger(plan, tmp_path / "ledger.jsonl")
    training = fake_training(plan, roster, ledger, **changes)
    carrier = carrier or LoopbackCarrier({n: c.handle for n, c in clients.items()})
    return drive(training.script(start or start_of(plan)), carrier), ledger


@pytest.mark.parametrize("nobody", [False, True])
def test_the_last_round_is_measured_also_when_training_ends_early(tmp_path, nobody):
    plan = fake_plan("federation.rounds=9") if nobody else plan_with_budget_for(3)
    saved, told = [], []
    result, _ = play(
        plan, tmp_path, measure=size_of, measure_every=4 if nobody else 10,
        save=saved.append, observer=told.append, carrier=LoopbackCarrier({}, NodeAbsences(1.0, 0)) if nobody else None,
    )  # fmt: skip
    assert (result.status, len(result.checkpoint.rows)) == (
        ("aborted", 5) if nobody else ("budget_spent", 3)
    )
    assert [row.loss is None for row in result.checkpoint.rows[:3]] == [True, True, nobody]
    last = result.checkpoint.rows[-1]
    assert last.loss == size_of(result.checkpoint.state.weights.astype(np.float32))["loss"]
    assert saved[-1] == result.checkpoint
    assert [e.row for e in told if isinstance(e, RoundFinished)][-1] == last


def test_nothing_is_measured_twice_where_the_last_round_was_measured(tmp_path):
    calls = []
    plan = fake_plan("federation.rounds=3")
    result, _ = play(plan, tmp_path, measure=lambda w: calls.append(w) or {}, measure_every=10)
    assert result.status == "finished"
    assert len(calls) == 1


def test_a_round_that_an_interruption_destroyed_is_measured_when_it_was_the_last(tmp_path):
    plan = fake_plan("federation.rounds=3")
    saved = []
    play(plan, tmp_path, save=saved.append, measure=size_of, measure_every=10)
    (tmp_path / "again").mkdir()
    ledger = fake_ledger(plan, tmp_path / "again" / "ledger.jsonl")
    for number in (1, 2, 3):
        ledger.spend(number, plan.facts.client_names)
        if number < 3:
            ledger.outcome(number, "released", plan.facts.client_names)
    before = saved[1]
    lost = lost_rows(ledger, 2)
    start = Checkpoint(3, before.state, (*before.rows, *lost), plan.plan_hash, "d", 0.0)
    result, _ = play(plan, tmp_path, start=start, ledger=ledger, measure=size_of, measure_every=10)
    last = result.checkpoint.rows[-1]
    assert (result.status, last.round, last.status) == ("finished", 3, "lost")
    assert last.loss == size_of(before.state.weights.astype(np.float32))["loss"]


def test_a_loss_that_is_no_number_ends_training_before_the_next_round_is_booked(tmp_path):
    plan = fake_plan("federation.rounds=9")
    saved = []
    result, ledger = play(plan, tmp_path, measure=LossIsLostAfter(1), save=saved.append)
    assert (result.status, ledger.last_round) == ("diverged", 2)
    assert "after round 2: federation.learning_rate is too large" in result.reason
    # A process that dies now goes on from null, which is what JSON makes of it.
    save_checkpoint(tmp_path / "checkpoint", saved[-1])
    read = load_checkpoint(tmp_path / "checkpoint", plan_hash=plan.plan_hash, data_fingerprint="d")
    assert read.rows[-1].loss is None
    result, ledger = play(plan, tmp_path, start=read, ledger=ledger, measure=LossIsLostAfter(9))
    assert (result.status, ledger.last_round) == ("diverged", 2)


@pytest.mark.parametrize("planned", [3, 5])
def test_a_late_measurement_finds_divergence_too(tmp_path, planned):
    plan = plan_with_budget_for(3, planned=planned)
    result, _ = play(plan, tmp_path, measure=LossIsLostAfter(0), measure_every=10)
    assert (result.status, len(result.checkpoint.rows)) == ("diverged", 3)


def test_a_step_that_overflows_is_not_taken_and_ends_training(tmp_path):
    plan = fake_plan("federation.rounds=9")
    update = ServerUpdate(kind="sgd", learning_rate=1e60, momentum=0.0)
    result, ledger = play(plan, tmp_path, update=update, measure=size_of, measure_every=4)
    assert (result.status, ledger.last_round) == ("diverged", 1)
    assert "the one before it is kept" in result.reason
    assert np.array_equal(result.checkpoint.state.weights, ZERO)
    assert result.checkpoint.rows[-1].loss == 0.0, "of the adapter that is kept"


def test_a_base_that_gives_no_loss_costs_nothing_and_is_named(tmp_path):
    plan = fake_plan("federation.rounds=9")
    result, ledger = play(plan, tmp_path, measure=size_of)
    first = result.checkpoint.rows[0]
    broken = type(first)(round=0, status="start", loss=math.nan, reward_accuracy=0.0)
    (tmp_path / "again").mkdir()
    ledger = fake_ledger(plan, tmp_path / "again" / "ledger.jsonl")
    start = Checkpoint(0, ServerState.start(ZERO), (broken,), plan.plan_hash, "d", 0.0)
    result, _ = play(plan, tmp_path, start=start, ledger=ledger)
    assert (result.status, ledger.last_round) == ("diverged", None)
    assert "model.dtype" in result.reason


def test_without_a_server_the_last_round_is_measured_and_divergence_ends_training(tmp_path):
    plan = plan_with_budget_for(3, make=gossip_plan)
    nodes = fake_nodes(plan)
    seen = []
    result = train_nodes(
        plan, nodes, tmp_path / "early.jsonl", measure=size_of, measure_every=10,
        measure_nodes=lambda own: seen.append(own) or {"client_accuracy_min": 0.25},
    )  # fmt: skip
    last = result.checkpoint.rows[-1]
    assert (result.status, last.round, last.client_accuracy_min) == ("budget_spent", 3, 0.25)
    assert last.loss == size_of(result.checkpoint.state.weights.astype(np.float32))["loss"]
    assert len(seen) == 1
    plan = gossip_plan("federation.rounds=9")
    result = train_nodes(plan, fake_nodes(plan), tmp_path / "nan.jsonl", measure=LossIsLostAfter(1))
    assert (result.status, len(result.checkpoint.rows)) == ("diverged", 2)
    assert "federation.local_learning_rate is too large" in result.reason


def test_bad_ends_have_errors_of_their_own():
    assert bad_end("finished", "") is bad_end("budget_spent", "") is None
    assert isinstance(bad_end("aborted", "x"), RunAborted)
    error = bad_end("diverged", "x")
    assert isinstance(error, RunDiverged)
    assert error.exit_code == 1
