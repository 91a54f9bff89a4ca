"""Rounds and whole trainings without a server: real bytes, made-up gradients."""

import numpy as np
import pytest
from msgspec.structs import replace

from accounting import Adversary, Mode, read_ledger, verify_ledger
from privfed_dpo.engine.checkpoint import load_checkpoint, save_checkpoint
from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.events import PhaseClosed, ReplyRefused
from privfed_dpo.engine.gossip_messages import (
    COMBINE_STEPS,
    GossipStart,
    Parcel,
    Parcels,
)
from privfed_dpo.engine.gossip_round import no_message_lost
from privfed_dpo.engine.messages import (
    COORDINATOR,
    WIRE_VERSION,
    Envelope,
    MalformedEnvelope,
    decode,
    decode_envelope,
    encode,
)
from privfed_dpo.engine.mixing import WEIGHT_UNIT
from privfed_dpo.engine.node_state import unpack_states
from privfed_dpo.wire.faulty_nodes import LinksDown, NodeAbsences
from privfed_dpo.wire.loopback import LoopbackCarrier
from tests.support.fake_federation import DIMENSION, RUN_ID
from tests.support.fake_neighbours import (
    fake_nodes,
    gossip_plan,
    play_round,
    total_of,
    train_nodes,
)


def envelope(step, payload=b"", round_number=1, **changes):
    fields = {
        "version": WIRE_VERSION,
        "run_id": RUN_ID,
        "round": round_number,
        "step": step,
        "sender": COORDINATOR,
        "payload": payload,
    }
    return encode(Envelope(**{**fields, **changes}))


def start_of(plan):
    return encode(GossipStart(bytes.fromhex(plan.plan_hash)))


@pytest.mark.parametrize("order", ["atc", "cta"])
@pytest.mark.parametrize("local_steps", [1, 3])
def test_the_mean_moves_by_the_mean_of_the_nodes_own_steps(order, local_steps):
    """Mixing neither adds nor loses anything: only local steps move the sum, bit for bit."""
    plan = gossip_plan(f"gossip.order={order}", f"federation.local_steps={local_steps}")
    nodes, alone = fake_nodes(plan), fake_nodes(plan)
    moved = total_of(alone)
    for node in alone.values():
        own = node.state.values / (plan.grid().steps_per_unit * WEIGHT_UNIT)
        steps = node._contributor.contribute(1, own.astype(np.float32))[:DIMENSION]
        moved = [a + int(b) * WEIGHT_UNIT for a, b in zip(moved, steps, strict=True)]
    result = play_round(plan, nodes, 1)
    assert total_of(nodes) == moved
    assert result.present == tuple(range(6))
    assert len(result.used) == 6
    assert (result.drift is None) == (local_steps == 1)


@pytest.mark.parametrize("topology", ["path", "ring", "star", "torus", "exponential", "complete"])
@pytest.mark.parametrize("order", ["atc", "cta"])
def test_mixing_contracts_by_rho_squared_and_keeps_the_sum(topology, order):
    plan = gossip_plan(f"gossip.topology={topology}", f"gossip.order={order}")
    nodes = fake_nodes(plan)
    play_round(plan, nodes, 1)
    result = play_round(plan, nodes, 2)
    before, after = (
        np.stack([published[n].astype(object) for n in range(6)])
        for published in (result.before, result.after)
    )
    assert before.sum(axis=0).tolist() == after.sum(axis=0).tolist()
    rho = plan.gossip.describe()["rho"]
    error = [
        float(((v - v.mean(axis=0)) ** 2).sum())
        for v in (before.astype(float), after.astype(float))
    ]
    assert error[1] <= rho**2 * error[0] * (1 + 1e-3) + 1e20


def test_nodes_that_are_away_stay_as_they_are_and_return():
    plan = gossip_plan()
    nodes = fake_nodes(plan)
    absences = NodeAbsences(0.3, 5)
    carrier = LoopbackCarrier({n: node.handle for n, node in nodes.items()}, absences)
    away_ever = set()
    for number in range(1, 6):
        away = {n for n in nodes if absences.vanished(number, n, "any step")}
        held = {n: nodes[n].state.values.copy() for n in away}
        result = play_round(plan, nodes, number, carrier=carrier)
        assert set(result.present) == set(nodes) - away
        assert all(np.array_equal(nodes[n].state.values, held[n]) for n in away)
        assert not any(away & set(edge) for edge in result.used)
        assert not any(node.state.open for node in nodes.values())
        away_ever |= away
    assert len(away_ever) > 1


def test_links_that_are_down_are_dropped_by_both_ends():
    plan = gossip_plan("gossip.topology=complete")
    nodes, down = fake_nodes(plan), LinksDown(0.5, 3)
    result = play_round(plan, nodes, 1, lost=down)
    expected = [e for e in plan.gossip.graph.of_round(1).edges if not down(1, "any", *e)]
    assert list(result.used) == expected
    assert 0 < len(expected) < 15
    assert result.dropped == {"links": 15 - len(expected)}


def test_a_garbling_neighbour_is_named_and_costs_its_links_only():
    plan = gossip_plan("gossip.topology=complete")
    nodes = fake_nodes(plan)
    honest = nodes[2].handle

    def garbling(data):
        reply = decode_envelope(honest(data))
        if reply.step == "Offer":
            first, *others = decode(reply.payload, Parcels).parcels
            spoilt = Parcel(first.peer, first.data[:-9] + bytes(9))
            reply = replace(reply, payload=encode(Parcels((spoilt, *others))))
        return encode(reply)

    seen = []
    handlers = {n: node.handle for n, node in nodes.items()} | {2: garbling}
    result = play_round(plan, nodes, 1, observer=seen.append, carrier=LoopbackCarrier(handlers))
    (refused,) = [event for event in seen if isinstance(event, ReplyRefused)]
    assert refused.client == 2
    assert refused.reason == (
        "node 0 refuses its message: the signature of its offer does not verify"
    )
    assert result.dropped == {"links": 1}
    assert set(plan.gossip.graph.of_round(1).edges) - set(result.used) == {(0, 2)}


def test_a_node_that_answers_nonsense_is_left_out():
    plan = gossip_plan()
    nodes = fake_nodes(plan)
    seen = []
    handlers = {n: node.handle for n, node in nodes.items()} | {4: lambda data: b"nonsense"}
    result = play_round(plan, nodes, 1, observer=seen.append, carrier=LoopbackCarrier(handlers))
    assert result.present == (0, 1, 2, 3, 5)
    closed = next(event for event in seen if isinstance(event, PhaseClosed))
    assert (closed.phase, closed.missing) == ("Adapt", 1)
    assert {e.client for e in seen if isinstance(e, ReplyRefused)} == {4}


def test_a_node_refuses_other_runs_plans_rounds_and_orders():
    plan = gossip_plan()
    node = fake_nodes(plan)[0]
    with pytest.raises(ClientRefused, match="another run"):
        node.handle(envelope("Adapt", start_of(plan), run_id=b"x" * 16))
    with pytest.raises(ClientRefused, match="another plan"):
        node.handle(envelope("Adapt", encode(GossipStart(bytes(32)))))
    with pytest.raises(ClientRefused, match="not what comes next"):
        node.handle(envelope("Offer"))
    node.handle(envelope("Adapt", start_of(plan)))
    with pytest.raises(ClientRefused, match="each round once"):
        node.handle(envelope("Adapt", start_of(plan)))
    with pytest.raises(ClientRefused, match="not what comes next"):
        node.handle(envelope("Combine", encode(Parcels())))
    with pytest.raises(MalformedEnvelope):
        node.handle(b"garbage")
    again = fake_nodes(plan, last_round=1)[0]
    with pytest.raises(ClientRefused, match="each round once"):
        again.handle(envelope("Adapt", start_of(plan)))


def test_a_node_answers_the_rounds_of_its_plan_and_no_other():
    """Whoever keeps the rounds in step cannot have a node release more than was priced."""
    plan = gossip_plan("federation.rounds=3")
    nodes = fake_nodes(plan)
    for number in (0, -1, 4, 12):
        with pytest.raises(ClientRefused, match="the plan has rounds 1 to 3"):
            nodes[0].handle(envelope("Adapt", start_of(plan), number))
    for number in range(1, 4):
        assert len(play_round(plan, nodes, number).present) == len(nodes)
    with pytest.raises(ClientRefused, match="the plan has rounds 1 to 3"):
        nodes[0].handle(envelope("Adapt", start_of(plan), 4))


def test_nothing_leaves_a_node_before_its_noise_is_in():
    """Two nodes that differ in noise only send different offers; without noise, the same."""
    for mode, differ in (("gossip", True), ("none", False)):
        rate = "privacy.sample_rate=1"
        plan = gossip_plan(rate, mode=mode)
        bodies = []
        for seed in ("a", "b"):
            node = fake_nodes(plan, seed)[0]
            node.handle(envelope("Adapt", start_of(plan)))
            node.handle(envelope("Offer"))
            bodies.append(node.state.values.tolist())
        assert (bodies[0] != bodies[1]) == differ


def test_a_training_books_before_it_plays_and_predicts_its_disagreement(tmp_path):
    noise = "privacy.noise_multiplier=20"
    plan = gossip_plan(
        "federation.rounds=30", "federation.local_learning_rate=0.01", noise, clients=8
    )
    nodes = fake_nodes(plan)
    ledger = tmp_path / "ledger.jsonl"
    booked_before = []

    def lost(round_number, step, sender, receiver):
        lines = [line for line in read_ledger(ledger).lines if line.kind == "spend"]
        booked_before.append(lines[-1].body["round"] == round_number)
        return False

    result = train_nodes(plan, nodes, ledger, lost=lost)
    assert all(booked_before)
    assert booked_before
    assert result.status == "finished"
    rows = result.checkpoint.rows
    assert len(rows) == 30
    late = rows[10:]
    ratio = np.mean([r.consensus_error_before / r.consensus_predicted for r in late])
    assert 0.8 < ratio < 1.3
    assert all(r.consensus_error < r.consensus_error_before for r in rows)
    assert rows[0].spectral_gap == pytest.approx(plan.gossip.describe()["spectral_gap"], abs=1e-6)
    verdict = verify_ledger(read_ledger(ledger))
    assert verdict.ok, verdict.problems
    assert verdict.participations == 30
    assert verdict.epsilon[Adversary.COALITION].pld == pytest.approx(
        plan.epsilons[Adversary.COALITION].pld
    )
    assert plan.mode is Mode.GOSSIP


def test_the_released_adapter_is_the_mean_over_nodes(tmp_path):
    plan = gossip_plan("federation.rounds=4", "gossip.topology=star")
    nodes = fake_nodes(plan)
    result = train_nodes(plan, nodes, tmp_path / "ledger.jsonl")
    exact = np.array(total_of(nodes), dtype=object) / (
        len(nodes) * int(plan.grid().steps_per_unit) * WEIGHT_UNIT
    )
    found = result.checkpoint.state.weights
    assert np.allclose(found, exact.astype(float), rtol=0, atol=1e-12)


def test_the_baseline_promises_nothing_and_predicts_nothing(tmp_path):
    plan = gossip_plan("federation.rounds=3", mode="none")
    result = train_nodes(plan, fake_nodes(plan), tmp_path / "ledger.jsonl")
    assert plan.noise is None
    assert [row.epsilon for row in result.checkpoint.rows] == [None] * 3
    assert [row.consensus_predicted for row in result.checkpoint.rows] == [None] * 3


def test_training_goes_on_from_a_checkpoint_with_the_nodes_it_holds(tmp_path):
    plan = gossip_plan("federation.rounds=4", "gossip.topology=path")
    whole = train_nodes(plan, fake_nodes(plan), tmp_path / "whole.jsonl")
    saved = []
    train_nodes(plan, fake_nodes(plan), tmp_path / "first.jsonl", save=saved.append)
    save_checkpoint(tmp_path, saved[1])
    found = load_checkpoint(tmp_path, plan_hash=plan.plan_hash, data_fingerprint="d")
    assert np.array_equal(found.nodes["forecast"], saved[1].nodes["forecast"])
    states = unpack_states(found.nodes)
    assert [s.values.tolist() for s in states] == saved[1].nodes["values"].tolist()
    assert states[0].last_used == {1: 2}
    assert np.array_equal(saved[3].state.weights, whole.checkpoint.state.weights)


def test_training_stops_when_nobody_answers(tmp_path):
    plan = gossip_plan("federation.rounds=9")
    carrier = LoopbackCarrier({}, NodeAbsences(1.0, 0))
    result = train_nodes(plan, fake_nodes(plan), tmp_path / "ledger.jsonl", carrier=carrier)
    assert result.status == "aborted"
    assert len(result.checkpoint.rows) == 5
    assert {row.status for row in result.checkpoint.rows} == {"aborted"}


def test_training_stops_before_the_budget_breaks(tmp_path):
    plan = gossip_plan("federation.rounds=5")
    smaller = gossip_plan("federation.rounds=3")
    assert smaller.plan_hash != plan.plan_hash
    object.__setattr__(smaller, "rounds", 5)
    result = train_nodes(smaller, fake_nodes(smaller), tmp_path / "ledger.jsonl")
    assert result.status == "budget_spent"
    assert len(result.checkpoint.rows) == 3


def test_simulated_faults_are_public_and_have_the_asked_rate():
    absences, links = NodeAbsences(0.25, 1), LinksDown(0.25, 1)
    gone = [absences.vanished(r, c, "x") for r in range(100) for c in range(20)]
    down = [links(r, "x", 0, c) for r in range(100) for c in range(1, 21)]
    for found in (gone, down):
        assert abs(np.mean(found) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(found))
        assert abs(np.mean(found) - 0.32) > 4 * np.sqrt(0.25 * 0.75 / len(found))
    assert all(links(r, "a", 3, 4) == links(r, "b", 4, 3) for r in range(50))
    assert not no_message_lost(1, "Offer", 0, 1)


def test_rounds_of_both_orders_have_the_same_parts():
    steps = {o: gossip_plan(f"gossip.order={o}").gossip.steps for o in ("atc", "cta")}
    assert steps["atc"] == ("Adapt", *COMBINE_STEPS)
    assert steps["cta"] == (*COMBINE_STEPS, "Adapt")


def test_published_adapters_and_reports_are_strict():
    with pytest.raises(MalformedEnvelope):
        decode(b"\x93\x0c", GossipStart)
