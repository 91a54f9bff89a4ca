"""Rounds and trainings with masked sums, over the carrier, with made-up gradients."""

import numpy as np
import pytest
from msgspec.structs import replace

from accounting import Adversary, read_ledger, verify_ledger
from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.events import ReplyRefused
from privfed_dpo.engine.gossip_messages import (
    EVERYBODY,
    PUBLISH,
    NeighbourMessage,
    Parcel,
    Parcels,
)
from privfed_dpo.engine.masked_messages import HELLO, MASKED_STEPS, NOTICE_STEPS, VOTE
from privfed_dpo.engine.messages import (
    COORDINATOR,
    WIRE_VERSION,
    Envelope,
    decode,
    decode_envelope,
    encode,
)
from privfed_dpo.errors import ContradictoryConfig, PlanRefused
from privfed_dpo.wire.faulty_nodes import LinksDown, NodeAbsences
from privfed_dpo.wire.loopback import LoopbackCarrier
from tests.support.fake_federation import RUN_ID
from tests.support.fake_neighbours import (
    fake_nodes,
    gossip_plan,
    play_round,
    train_nodes,
)

MASKED = ("gossip.masked=true", "gossip.topology=expander", "gossip.degree=4")


def masked_plan(*overrides, clients=8):
    return gossip_plan(*MASKED, *overrides, clients=clients)


def sums_around(result):
    return [
        np.sum([v.astype(object) for v in published.values()], axis=0).tolist()
        for published in (result.before, result.after)
    ]


def test_masked_and_plain_averaging_give_the_same_adapters():
    plain = gossip_plan("gossip.topology=expander", "gossip.degree=4", clients=8)
    masked = masked_plan()
    assert plain.plan_hash != masked.plan_hash
    found = []
    for plan in (plain, masked):
        nodes = fake_nodes(plan)
        for number in (1, 2):
            result = play_round(plan, nodes, number)
            assert len(result.used) == 16
        found.append([node.state.values.tolist() for node in nodes.values()])
    assert found[0] == found[1]


def test_masking_does_not_change_epsilon():
    plain = gossip_plan("gossip.topology=expander", "gossip.degree=4", clients=8)
    assert masked_plan().epsilons == plain.epsilons


@pytest.mark.parametrize("masked", ["true", "false"])
@pytest.mark.parametrize("graph", [(), ("gossip.redraw_rounds=1",)])
def test_links_and_nodes_that_come_and_go_leave_the_mean_alone(graph, masked):
    plan = masked_plan(*graph, f"gossip.masked={masked}", clients=10)
    nodes = fake_nodes(plan)
    down = LinksDown(0.1, 2)
    absences = NodeAbsences(0.1, 4)
    carrier = LoopbackCarrier({n: node.handle for n, node in nodes.items()}, absences)
    used, away = [], set()
    for number in range(1, 7):
        result = play_round(plan, nodes, number, lost=down, carrier=carrier)
        before, after = sums_around(result)
        assert before == after
        used.append(len(result.used))
        away |= set(nodes) - set(result.present)
        planned = plan.gossip.graph.of_round(number)
        assert set(result.used) <= set(planned.edges)
        assert not any(down(number, "any", *edge) for edge in result.used)
    assert away
    assert max(used) > 0
    assert min(used) < 20


def test_lost_votes_over_the_carrier_are_settled_in_the_next_round():
    plan = masked_plan()
    nodes = fake_nodes(plan)
    result = play_round(plan, nodes, 1, lost=lambda r, step, s, t: (step, t) == (VOTE, 3))
    before, after = sums_around(result)
    assert before != after
    assert result.dropped["links"] == 4, "the four links of the node in doubt"
    again = play_round(plan, nodes, 2)
    assert len(again.used) == 16
    assert not any(v.outcome == "open" for n in nodes.values() for v in n.state.votes.values())
    moved = np.sum([v.astype(object) for v in again.after.values()], axis=0) - np.sum(
        [v.astype(object) for v in again.before.values()], axis=0
    )
    owed = np.array(before, dtype=object) - np.array(after, dtype=object)
    assert moved.tolist() == owed.tolist()


def two_faced(node, step):
    """A node that adds a second signed notice, for one other node only, to its own."""

    def handle(data):
        reply = decode_envelope(node.handle(data))
        if reply.step != step:
            return encode(reply)
        said = decode(reply.payload, Parcels).parcels
        notice = replace(decode(said[0].data, NeighbourMessage), last_used=1)
        signed = encode(notice.signed_by(node._identity))
        forged = (Parcel(1, signed), *said, Parcel(EVERYBODY, signed))
        return encode(replace(reply, payload=encode(Parcels(forged))))

    return handle


@pytest.mark.parametrize("step", sorted(NOTICE_STEPS))
def test_the_script_passes_on_one_notice_of_each_node_and_to_all(step):
    plan = masked_plan()
    nodes = fake_nodes(plan)
    handlers = {n: node.handle for n, node in nodes.items()} | {0: two_faced(nodes[0], step)}
    events = []
    result = play_round(plan, nodes, 1, observer=events.append, carrier=LoopbackCarrier(handlers))
    refused = [event for event in events if isinstance(event, ReplyRefused)]
    assert [(event.phase, event.client) for event in refused] == [(step, 0), (step, 0)]
    assert "tells single nodes" in refused[0].reason
    assert "two things" in refused[1].reason
    assert len(result.used) == 16, "the one notice that all got is taken"


def test_the_script_passes_on_no_message_for_all_in_place_of_one_for_a_neighbour():
    plan = masked_plan()
    nodes = fake_nodes(plan)

    def shouting(data):
        reply = decode_envelope(nodes[0].handle(data))
        if reply.step != HELLO:
            return encode(reply)
        said = decode(reply.payload, Parcels).parcels
        shouted = Parcels(tuple(replace(parcel, peer=EVERYBODY) for parcel in said))
        return encode(replace(reply, payload=encode(shouted)))

    handlers = {n: node.handle for n, node in nodes.items()} | {0: shouting}
    events = []
    result = play_round(plan, nodes, 1, observer=events.append, carrier=LoopbackCarrier(handlers))
    refused = [event for event in events if isinstance(event, ReplyRefused)]
    assert [(event.phase, event.client) for event in refused] == [(HELLO, 0)] * 4
    assert not any(0 in edge for edge in result.used)


def test_a_masked_node_tells_nobody_its_adapter():
    plan = masked_plan()
    node = fake_nodes(plan)[0]
    question = Envelope(WIRE_VERSION, RUN_ID, 1, PUBLISH, COORDINATOR, b"")
    with pytest.raises(ClientRefused, match="nobody is given"):
        node.handle(encode(question))


def test_a_training_with_masked_sums_books_finishes_and_predicts(tmp_path):
    plan = masked_plan("federation.rounds=3")
    result = train_nodes(plan, fake_nodes(plan), tmp_path / "ledger.jsonl")
    assert result.status == "finished"
    for row in result.checkpoint.rows:
        assert row.consensus_error < row.consensus_error_before
        assert row.upload_bytes == result.checkpoint.rows[0].upload_bytes
        assert row.upload_bytes / 8 == pytest.approx(plan.upload_bytes, rel=0.1)
    verdict = verify_ledger(read_ledger(tmp_path / "ledger.jsonl"))
    assert verdict.ok, verdict.problems
    assert verdict.epsilon[Adversary.COALITION].pld == pytest.approx(
        plan.epsilons[Adversary.COALITION].pld
    )


def test_steps_of_a_masked_round():
    steps = masked_plan().gossip.steps
    assert steps == ("Adapt", *MASKED_STEPS)


@pytest.mark.parametrize("topology", ["ring", "path", "star"])
def test_graphs_whose_neighbourhoods_hide_nobody_are_refused(topology):
    with pytest.raises(PlanRefused, match="hides too little"):
        gossip_plan("gossip.masked=true", f"gossip.topology={topology}")


def test_graphs_on_which_sums_give_single_adapters_away_are_refused():
    with pytest.raises(PlanRefused, match="together find the adapter of node"):
        gossip_plan(*MASKED, clients=6)
    wide = gossip_plan("gossip.masked=true", "gossip.topology=complete", "gossip.colluders=3")
    assert wide.gossip.masking.least_degree == 4


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (("gossip.order=cta",), "needs gossip.order=atc"),
        (("gossip.masked=false", "gossip.colluders=2"), "gossip.colluders is about masked sums"),
        (("gossip.masked=false", "gossip.fewest_neighbours=4"), "is about masked sums"),
    ],
)
def test_settings_that_contradict_masking_are_refused(wanted, reason):
    with pytest.raises(ContradictoryConfig, match=reason):
        gossip_plan(*MASKED, *wanted)
