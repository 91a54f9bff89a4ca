"""Averaging over links that lose messages, and neighbours that send what they must not."""

import hashlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.engine.gossip_messages import (
    GossipStart,
    NeighbourMessage,
    Parcel,
    Parcels,
    Refusal,
)
from privfed_dpo.engine.messages import MalformedEnvelope, decode, encode
from privfed_dpo.engine.mixing import WEIGHT_UNIT, integer_weights, mixing_matrix
from privfed_dpo.engine.neighbour_exchange import MessageRefused, NeighbourExchange, NodeAddress
from privfed_dpo.engine.node_state import NodeState, OpenExchange, pack_states, unpack_states
from privfed_dpo.topology import Topology
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy

RUN_ID, PLAN_HASH = b"r" * 16, b"p" * 32
LIMIT = 1 << 43
IDENTITIES = [IdentityKey.generate(counted_entropy(f"node-{i}")) for i in range(6)]
ROSTER = {number: identity.public for number, identity in enumerate(IDENTITIES)}


def exchange_of(number, round_, state, graph):
    address = NodeAddress(RUN_ID, PLAN_HASH, round_, number, IDENTITIES[number], ROSTER)
    weights = {
        i + j - number: w for (i, j), w in integer_weights(graph).items() if number in (i, j)
    }
    return NeighbourExchange(address, weights, state, limit_steps=LIMIT)


def mix(states, round_, graph, lost):
    """One round among all nodes; `lost(phase, sender, receiver)` loses single messages."""
    nodes = {n: exchange_of(n, round_, state, graph) for n, state in enumerate(states)}

    def carry(phase, sent):
        boxes = {n: [] for n in nodes}
        for sender, parcels in sent.items():
            for parcel in parcels.parcels:
                if not lost(phase, sender, parcel.peer):
                    boxes[parcel.peer].append(Parcel(sender, parcel.data))
        return {n: tuple(box) for n, box in boxes.items()}

    offers = carry("offer", {n: node.offer() for n, node in nodes.items()})
    acks = carry("ack", {n: node.acknowledge(offers[n]) for n, node in nodes.items()})
    return {n: node.combine(acks[n]) for n, node in nodes.items()}


def total(states):
    return [int(v) for v in np.sum([s.values.astype(object) for s in states], axis=0)]


def in_doubt(states):
    """What open exchanges will still move, once the other end has averaged."""
    moved = np.zeros(states[0].values.size, dtype=object)
    for node, state in enumerate(states):
        for peer, waiting in state.open.items():
            if states[peer].last_used.get(node) == waiting.round:
                moved = moved + waiting.flow.astype(object)
    return [int(v) for v in moved]


def states_of(rng, nodes, dimension=3):
    return [NodeState(rng.integers(-(2**58), 2**58, size=dimension)) for _ in range(nodes)]


def no_loss(phase, sender, receiver):
    return False


GRAPH = Topology.of(5, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 2)])


def test_without_losses_it_is_multiplication_by_the_mixing_matrix():
    states = states_of(np.random.default_rng(0), 5)
    before, kept = np.stack([s.values for s in states]), total(states)
    reports = mix(states, 1, GRAPH, no_loss)
    sent, rest = before >> 16, before & (WEIGHT_UNIT - 1)
    weights = (mixing_matrix(GRAPH) * WEIGHT_UNIT).astype(np.int64)
    assert np.array_equal(np.stack([s.values for s in states]), weights @ sent + rest)
    assert total(states) == kept
    assert [r.used for r in reports.values()] == list(GRAPH.neighbours)
    assert not any(state.open for state in states)


@given(seed=st.integers(0, 10**6), losses=st.lists(st.floats(0, 1), min_size=1, max_size=6))
@settings(max_examples=60)
def test_the_sum_is_kept_to_the_bit_whatever_messages_are_lost(seed, losses):
    """Every single message may vanish on its own; a quiet round then leaves nothing open."""
    rng = np.random.default_rng(seed)
    states = states_of(rng, 5)
    kept = total(states)
    for round_, rate in enumerate(losses, 1):
        mix(states, round_, GRAPH, lambda *_, rate=rate: rng.random() < rate)
        owed = in_doubt(states)
        assert [a + b for a, b in zip(total(states), owed, strict=True)] == kept
        states = unpack_states(pack_states(states))
    mix(states, len(losses) + 1, GRAPH, no_loss)
    assert total(states) == kept
    assert not any(state.open for state in states)


@given(seed=st.integers(0, 10**6), rate=st.floats(0, 1))
@settings(max_examples=30)
def test_links_that_fail_both_ways_leave_nothing_in_doubt(seed, rate):
    rng = np.random.default_rng(seed)
    states = states_of(rng, 5)
    kept = total(states)
    for round_ in (1, 2, 3):
        down = {edge for edge in GRAPH.edges if rng.random() < rate}
        reports = mix(states, round_, GRAPH, lambda _, a, b: (min(a, b), max(a, b)) in down)
        assert total(states) == kept
        assert not any(state.open for state in states)
        used = {(n, peer) for n, report in reports.items() for peer in report.used if n < peer}
        assert used == set(GRAPH.edges) - down


def test_a_lost_acknowledgement_is_settled_at_the_next_offer():
    states = states_of(np.random.default_rng(3), 5)
    kept = total(states)
    reports = mix(states, 1, GRAPH, lambda phase, a, b: (phase, a, b) == ("ack", 0, 1))
    assert 1 in reports[0].used
    assert 0 not in reports[1].used
    assert total(states) != kept, "one end averaged and the other did not"
    assert list(states[1].open) == [0]
    reports = mix(states, 2, GRAPH, no_loss)
    assert reports[1].settled == (0,)
    assert total(states) == kept


def test_an_exchange_that_neither_end_used_is_forgotten():
    states = states_of(np.random.default_rng(4), 5)
    kept = total(states)
    lost = {("ack", 0, 1), ("ack", 1, 0)}
    mix(states, 1, GRAPH, lambda *message: message in lost)
    assert total(states) == kept
    reports = mix(states, 2, GRAPH, no_loss)
    assert reports[0].settled == reports[1].settled == ()
    assert total(states) == kept


PAIR = Topology.of(3, [(0, 1)])


def offer_to_node_1(**changes):
    state = NodeState(np.arange(4, dtype=np.int64) << 20)
    message = decode(exchange_of(0, 5, state, PAIR).offer().parcels[0].data, NeighbourMessage)
    changed = msgspec.structs.replace(message, **changes)
    return changed if "signature" in changes else changed.signed_by(IDENTITIES[0])


def refusal_of(data, peer=0):
    """What node 1 says to one parcel; it must change nothing."""
    state = NodeState(np.arange(4, dtype=np.int64))
    node = exchange_of(1, 5, state, PAIR)
    node.offer()
    acks = node.acknowledge((Parcel(peer, data),))
    report = node.combine(())
    assert np.array_equal(state.values, np.arange(4))
    if report.refusals:
        assert acks.parcels == ()
        assert not state.open
    return report.refusals


def test_the_honest_offer_is_taken():
    assert refusal_of(encode(offer_to_node_1())) == ()


HUGE = np.full(4, LIMIT + 1, dtype="<i8").tobytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run_id": b"q" * 16}, "the run of its offer"),
        ({"plan_hash": b"q" * 32}, "the plan of its offer"),
        ({"round": 4}, "the round of its offer"),
        ({"round": 6}, "the round of its offer"),
        ({"kind": "ack"}, "the kind of its offer"),
        ({"sender": 2}, "the sender of its offer"),
        ({"receiver": 2}, "the receiver of its offer"),
        ({"signature": bytes(64)}, "the signature of its offer"),
        ({"signature": b"short"}, "the signature of its offer"),
        ({"body": b"1234567"}, "wrong length"),
        ({"body": bytes(40)}, "wrong length"),
        ({"body": HUGE}, "out of range"),
    ],
)
def test_a_wrong_offer_is_refused_by_name_and_leaves_no_trace(changes, words):
    (refusal,) = refusal_of(encode(offer_to_node_1(**changes)))
    assert refusal.peer == 0
    assert words in refusal.reason


@pytest.mark.parametrize("field", ["round", "receiver", "last_used", "body", "sender"])
def test_no_field_can_be_changed_under_a_signature(field):
    honest = offer_to_node_1()
    value = getattr(honest, field)
    forged = msgspec.structs.replace(honest, **{field: bytes(32) if field == "body" else value + 1})
    (refusal,) = refusal_of(encode(forged))
    assert "is not the one expected" in refusal.reason or "signature" in refusal.reason


@pytest.mark.parametrize("data", [b"", b"garbage", encode(GossipStart(b"x")), b"\xc1" * 100])
def test_garbage_is_refused(data):
    (refusal,) = refusal_of(data)
    assert "not a NeighbourMessage" in refusal.reason


def test_bytes_that_are_not_canonical_are_refused():
    honest = encode(offer_to_node_1())
    number = honest.index(b"\x05", 50)
    assert decode(honest, NeighbourMessage).round == 5
    longer = honest[:number] + b"\xcc\x05" + honest[number + 1 :]
    (refusal,) = refusal_of(longer)
    assert "non-canonical" in refusal.reason
    with pytest.raises(MalformedEnvelope):
        decode(honest + b"\x00", Parcels)


def test_a_stranger_and_a_second_offer_are_refused():
    honest = encode(offer_to_node_1())
    assert refusal_of(honest, peer=2) == (Refusal(2, "it is no neighbour in this round"),)
    node = exchange_of(1, 5, NodeState(np.arange(4, dtype=np.int64)), PAIR)
    node.offer()
    assert len(node.acknowledge((Parcel(0, honest), Parcel(0, honest))).parcels) == 1
    assert node.combine(()).refusals == (Refusal(0, "a second offer in one round"),)


def test_acknowledgements_must_confirm_this_very_offer():
    state = NodeState(np.arange(4, dtype=np.int64))
    node = exchange_of(1, 5, state, PAIR)
    offer = node.offer().parcels[0].data
    address = NodeAddress(RUN_ID, PLAN_HASH, 5, 0, IDENTITIES[0], ROSTER)

    def ack(body):
        return Parcel(0, address.write("ack", 1, body, last_used=0))

    honest = hashlib.sha256(offer).digest()
    node.acknowledge(())
    report = node.combine((ack(bytes(32)), ack(honest)))
    assert report.refusals == (Refusal(0, "it confirms another offer than was sent"),)
    assert report.used == (), "without an offer of its own the neighbour cannot have us average"


def test_a_repeated_acknowledgement_moves_nothing_twice():
    states = [NodeState(np.arange(4, dtype=np.int64) << 20) for _ in range(2)]
    states[0].values = states[0].values * 3
    one, two = (exchange_of(n, 5, states[n], PAIR) for n in (0, 1))
    offers = [node.offer().parcels[0].data for node in (one, two)]
    ack = one.acknowledge((Parcel(1, offers[1]),)).parcels[0].data
    two.acknowledge((Parcel(0, offers[0]),))
    report = two.combine((Parcel(0, ack), Parcel(0, ack)))
    assert report.used == (0,)
    assert report.refusals == (Refusal(0, "a second acknowledgement in one round"),)


def test_states_survive_the_checkpoint():
    states = states_of(np.random.default_rng(5), 3)
    states[1].last_used = {0: 7, 2: 3}
    states[2].open = {1: OpenExchange(4, np.array([1, -2, 3]))}
    found = unpack_states(pack_states(states))
    assert all(np.array_equal(a.values, b.values) for a, b in zip(states, found, strict=True))
    assert found[1].last_used == {0: 7, 2: 3}
    assert found[2].open[1].round == 4
    assert found[2].open[1].flow.tolist() == [1, -2, 3]


def test_refusals_are_typed():
    address = NodeAddress(RUN_ID, PLAN_HASH, 5, 1, IDENTITIES[1], ROSTER)
    with pytest.raises(MessageRefused):
        address.read("offer", Parcel(0, b""))
    assert "Identity" not in repr(address)
