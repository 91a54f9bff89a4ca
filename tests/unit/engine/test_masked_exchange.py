"""Masked averaging: nobody sees one adapter, and no loss moves the mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.engine.gossip_messages import EVERYBODY, Parcel, Parcels
from privfed_dpo.engine.masked_exchange import MaskedExchange
from privfed_dpo.engine.masked_links import MaskingRules, links_digest, live_links
from privfed_dpo.engine.masked_messages import (
    AGREE,
    HELLO,
    LINKS,
    MASKED_STEPS,
    PARCEL_STEPS,
    VOTE,
    Answer,
    LinksNotice,
    VoteNotice,
    closing,
)
from privfed_dpo.engine.masked_sums import MaskedSums
from privfed_dpo.engine.messages import encode
from privfed_dpo.engine.mixing import WEIGHT_UNIT, mixing_matrix
from privfed_dpo.engine.node_state import pack_states, unpack_states
from privfed_dpo.topology import Topology
from secure_agg import Phase
from tests.support.entropy import counted_entropy
from tests.support.masked_mixing import (
    RULES,
    address_of,
    mix_masked,
    owed,
    states_of,
    total,
)

FOUR = Topology.of(4, [(i, j) for i in range(4) for j in range(i)])
EIGHT = Topology.of(8, [(i, (i + k) % 8) for i in range(8) for k in (1, 2)])
TWO_PARTS = Topology.of(8, [*FOUR.edges, *((i + 4, j + 4) for i, j in FOUR.edges), (3, 4)])
STEPS = sorted(PARCEL_STEPS, key=MASKED_STEPS.index)


def test_without_losses_it_is_multiplication_by_the_mixing_matrix():
    states = states_of(0, 8)
    before = np.stack([s.values for s in states])
    reports = mix_masked(states, 1, EIGHT)
    sent, rest = before >> 16, before & (WEIGHT_UNIT - 1)
    weights = (mixing_matrix(EIGHT) * WEIGHT_UNIT).astype(np.int64)
    assert np.array_equal(np.stack([s.values for s in states]), weights @ sent + rest)
    assert [r.used for r in reports.values()] == list(EIGHT.neighbours)
    assert not any(r.refusals for r in reports.values())
    assert {v.outcome for s in states for v in s.votes.values()} == {"done"}


def test_no_message_holds_an_adapter_or_its_weighted_form():
    """Whoever reads all messages finds no node's values, and each sum is masked anew."""
    states = states_of(1, 4, dimension=16)
    hidden = [s.values >> 16 for s in states]
    messages = []
    mix_masked(states, 1, FOUR, seen=lambda *message: messages.append(message))
    weight = WEIGHT_UNIT // 4
    for sender in range(4):
        for shown in (hidden[sender], weight * hidden[sender]):
            needle = shown.astype("<i8").tobytes()[:16]
            assert not any(needle in data for _, _, _, data in messages)
    inputs = [(s, r, d) for step, s, r, d in messages if step == Phase.MASKED_INPUT.value]
    assert len(inputs) == 12, "one for each neighbour"
    words = np.stack([np.frombuffer(d[-128:], dtype="<u8") for _, _, d in inputs])
    assert len(np.unique(words)) == words.size, "equal inputs to different sums look different"


@given(
    seed=st.integers(0, 10**6),
    rounds=st.lists(
        st.tuples(
            st.sampled_from([*STEPS, "any", "votes", "votes"]),
            st.floats(0.02, 1),
            st.sampled_from(["message", "node"]),
        ),
        min_size=1,
        max_size=3,
    ),
)
@settings(max_examples=30, deadline=None)
def test_the_sum_is_kept_to_the_bit_whatever_is_lost(seed, rounds):
    """Single messages vanish, or nodes from some step on; two quiet rounds leave no doubt."""
    rng = np.random.default_rng(seed)
    states = states_of(seed, 4)
    kept = total(states)
    for round_, (where, rate, what) in enumerate(rounds, 1):
        struck = {"any": STEPS, "votes": [VOTE, LINKS]}.get(where, [where])
        first = {n: struck[rng.integers(len(struck))] for n in range(4) if rng.random() < rate}

        def lost(step, sender, receiver, struck=struck, rate=rate):
            return step in struck and rng.random() < rate

        def gone(step, node, first=first):
            place = MASKED_STEPS.index
            return node in first and place(step) > place(first[node])

        losses = {"lost": lost} if what == "message" else {"gone": gone}
        mix_masked(states, round_, FOUR, **losses)
        assert [a + b for a, b in zip(total(states), owed(states), strict=True)] == kept
        states = unpack_states(pack_states(states))
    for round_ in (len(rounds) + 1, len(rounds) + 2):
        mix_masked(states, round_, FOUR)
    assert total(states) == kept
    assert not any(v.outcome == "open" for s in states for v in s.votes.values())
    by_round = {}
    for state in states:
        for number, vote in state.votes.items():
            by_round.setdefault((number, vote.digest), set()).add(vote.outcome)
    assert all(len(outcomes) == 1 for outcomes in by_round.values()), "all averaged, or nobody"


@pytest.mark.parametrize("step", [s for s in STEPS if s not in (HELLO, LINKS, VOTE)])
def test_one_lost_message_inside_a_sum_and_nobody_averages(step):
    states = states_of(2, 4)
    before = [s.values.copy() for s in states]
    edge = []

    def lost(at, sender, receiver):
        if at == step and not edge:
            edge.append((sender, receiver))
        return at == step and (sender, receiver) == edge[0]

    reports = mix_masked(states, 1, FOUR, lost=lost)
    assert edge
    assert all(np.array_equal(s.values, b) for s, b in zip(states, before, strict=True))
    assert all(r.used == () for r in reports.values())
    assert {v.outcome for s in states for v in s.votes.values()} <= {"undone"}


def test_a_lost_vote_leaves_one_node_in_doubt_until_it_asks():
    states = states_of(3, 4)
    kept = total(states)
    mix_masked(states, 1, FOUR, lost=lambda *m: m == (VOTE, 0, 1))
    assert states[1].votes[1].outcome == "open"
    assert states[1].votes[1].missing == (0,)
    assert total(states) != kept, "three have averaged and one has not"
    assert [a + b for a, b in zip(total(states), owed(states), strict=True)] == kept
    reports = mix_masked(states, 2, FOUR)
    assert reports[1].used == (0, 2, 3), "doubt about one round does not keep a node from the next"
    assert states[1].votes[1].outcome == "done"
    assert total(states) == kept


def test_votes_that_nobody_saw_still_count_when_they_are_told():
    """No node knows all votes; answers bring them together."""
    states = states_of(4, 4)
    kept = total(states)
    mix_masked(states, 1, FOUR, lost=lambda step, *_: step == VOTE)
    assert {s.votes[1].outcome for s in states} == {"open"}
    assert total(states) == kept
    mix_masked(states, 2, FOUR)
    assert {s.votes[1].outcome for s in states} == {"done"}
    assert total(states) == kept


def test_a_node_that_never_voted_says_so_and_the_others_give_the_round_up():
    states = states_of(5, 4)
    before = [s.values.copy() for s in states]

    def gone(step, node):
        return node == 2 and MASKED_STEPS.index(step) >= MASKED_STEPS.index(VOTE)

    mix_masked(states, 1, FOUR, gone=gone)
    assert [1 in s.votes for s in states] == [True, True, False, True]
    mix_masked(states, 2, FOUR, lost=lambda step, *_: step == HELLO)
    assert {states[n].votes[1].outcome for n in (0, 1, 3)} == {"undone"}
    assert all(np.array_equal(s.values, b) for s, b in zip(states, before, strict=True))


def test_a_node_that_is_away_is_left_out_by_all_and_returns():
    states = states_of(6, 8)
    kept, held = total(states), states[0].values.copy()
    reports = mix_masked(states, 1, EIGHT, gone=lambda step, node: node == 0)
    assert np.array_equal(states[0].values, held)
    assert sorted(reports) == [1, 2, 3, 4, 5, 6, 7]
    assert reports[3].used == (1, 2, 4, 5)
    assert reports[1].used == (2, 3, 7)
    assert total(states) == kept
    assert mix_masked(states, 2, EIGHT)[0].used == (1, 2, 6, 7)
    assert total(states) == kept


def test_parts_that_do_not_meet_vote_together():
    """One failed sum stops the round everywhere, on whatever part of the graph."""
    states = states_of(7, 8)
    before = [s.values.copy() for s in states]
    mix_masked(states, 1, TWO_PARTS, lost=lambda *m: m == (Phase.MASKED_INPUT.value, 0, 1))
    assert all(np.array_equal(s.values, b) for s, b in zip(states, before, strict=True))
    mix_masked(states, 2, TWO_PARTS)
    assert not any(np.array_equal(s.values, b) for s, b in zip(states, before, strict=True))


def test_nodes_that_saw_other_links_take_part_in_no_common_sum():
    """A notice that reaches only some makes two views; no sum is opened over either."""
    states = states_of(8, 8)
    before = [s.values.copy() for s in states]
    steps = set()
    reports = mix_masked(
        states, 1, EIGHT, lost=lambda *m: m == (LINKS, 0, 3), seen=lambda step, *_: steps.add(step)
    )
    assert all(np.array_equal(s.values, b) for s, b in zip(states, before, strict=True))
    assert steps == {HELLO, LINKS, AGREE, VOTE}
    assert [r.reason for r in reports[2].refusals] == ["it found other links"]
    assert [r.peer for r in reports[2].refusals] == [3]
    assert all(r.used == () for r in reports.values())


def test_links_live_where_both_ends_heard_and_enough_are_left():
    heard = {n: frozenset(EIGHT.neighbours[n]) for n in range(8)}
    assert live_links(EIGHT, heard, RULES) == EIGHT
    deaf = heard | {0: heard[0] - {1, 2}}
    assert live_links(EIGHT, deaf, RULES).neighbours[0] == ()
    assert live_links(EIGHT, deaf, RULES).degrees[1:] == (3, 3, 4, 4, 4, 3, 3)
    assert live_links(EIGHT, {n: heard[n] for n in range(3)}, RULES).edges == ()
    asked_too_much = MaskingRules(fewest_neighbours=5, colluders=1)
    assert live_links(EIGHT, heard, asked_too_much).edges == ()


def test_a_round_whose_links_would_show_one_adapter_is_not_averaged():
    """One link of a complete graph is down: two neighbourhoods then differ in one node."""
    complete = Topology.of(6, [(i, j) for i in range(6) for j in range(i)])
    heard = {n: frozenset(complete.neighbours[n]) for n in range(6)}
    down = heard | {0: heard[0] - {5}}
    pair = MaskingRules(fewest_neighbours=3, colluders=2)
    assert live_links(complete, heard, pair) == complete
    assert live_links(complete, down, pair).edges == (), "1's sum less 0's is 5's adapter"
    assert live_links(complete, down, RULES) == complete.without([(0, 5)])


def test_in_the_last_round_the_mean_is_known_too():
    """Six nodes, four neighbours each: the mean over all, less one sum, is the sixth's adapter."""
    six = Topology.of(6, [(i, (i + k) % 6) for i in range(6) for k in (1, 2)])
    heard = {n: frozenset(six.neighbours[n]) for n in range(6)}
    assert live_links(six, heard, RULES) == six
    assert live_links(six, heard, RULES, released=True).edges == ()
    complete = Topology.of(6, [(i, j) for i in range(6) for j in range(i)])
    heard = {n: frozenset(complete.neighbours[n]) for n in range(6)}
    assert live_links(complete, heard, RULES, released=True) == complete
    del heard[5]
    assert live_links(complete, heard, RULES).degrees == (4, 4, 4, 4, 4, 0)
    assert live_links(complete, heard, RULES, released=True).edges == (), "node 5 would be shown"


def test_a_sum_needs_every_agreed_neighbour():
    """An aggregator that pretends somebody is gone opens nothing."""
    sums = {
        n: MaskedSums(
            address_of(n, 1), FOUR, RULES, dimension=2, entropy=counted_entropy(f"own-{n}")
        )
        for n in range(4)
    }
    adverts = {n: sums[n].advertise() for n in range(4)}
    kept = [Parcel(n, adverts[n][0]) for n in (1, 2)]
    assert sums[0].close(Phase.ADVERTISE_KEYS, kept) == {}
    assert sums[0].total is None
    rosters = sums[1].close(Phase.ADVERTISE_KEYS, [Parcel(n, adverts[n][1]) for n in (0, 2, 3)])
    assert sorted(rosters) == [0, 2, 3]
    assert sums[2].answer(Phase.SHARE_KEYS, [Parcel(1, rosters[3])], lambda _: None) == {}
    assert [r.peer for r in sums[2].refusals] == [1]
    assert sums[2].answer(Phase.SHARE_KEYS, [Parcel(3, b"x")], lambda _: None) == {}


def exchange(number, states, round_=1):
    return MaskedExchange(
        address_of(number, round_),
        FOUR,
        states[number],
        rules=RULES,
        entropy=counted_entropy(f"node-{number}"),
    )


def test_notices_that_are_forged_doubled_or_garbled_are_refused_by_name():
    states = states_of(9, 4)
    node = exchange(0, states)
    node.step(HELLO, ())
    good = address_of(1, 1).write("hello", 0, b"")
    node.step(LINKS, (Parcel(1, good), Parcel(1, good), Parcel(2, good), Parcel(9, good)))
    body = encode(LinksNotice((0,)))
    notice = address_of(1, 1).write("links", EVERYBODY, body)
    to_one = address_of(2, 1).write("links", 0, body)
    garbled = address_of(3, 1).write("links", EVERYBODY, b"\x00")
    sent = node.step(AGREE, (Parcel(1, notice), Parcel(2, to_one), Parcel(3, garbled)))
    assert sent == Parcels()
    assert node.step(Phase.ADVERTISE_KEYS.value, ()) == Parcels()
    node.step(VOTE, ())
    report = node.step(MASKED_STEPS[-1], ())
    assert [r.peer for r in report.refusals] == [1, 2, 9, 2, 3]
    assert "a second hello" in report.refusals[0].reason
    assert "the receiver of its links" in report.refusals[3].reason
    assert report.used == ()


def test_answers_about_other_votes_change_nothing():
    """Only a voter's 'never', and only the digest that was asked about, close a vote."""
    states = states_of(10, 4)
    mix_masked(states, 1, FOUR, lost=lambda step, s, r: step == VOTE and r == 0)
    vote = states[0].votes[1]
    before = states[0].values.copy()
    for digest, verdict in ((b"x" * 32, "done"), (vote.digest, "yes")):
        node = exchange(0, states, round_=2)
        notice = VoteNotice(b"", (Answer(1, digest, verdict), Answer(7, digest, "done")))
        parcel = Parcel(1, address_of(1, 2).write("vote", EVERYBODY, encode(notice)))
        node.step(MASKED_STEPS[-1], (parcel,))
        assert states[0].votes[1].outcome == "open"
        assert np.array_equal(states[0].values, before)
    assert states[0].votes[1].missing == (2, 3)
    node = exchange(0, states, round_=2)
    never = VoteNotice(b"", (Answer(1, vote.digest, "never"),))
    node.step(
        MASKED_STEPS[-1], (Parcel(1, address_of(1, 2).write("vote", EVERYBODY, encode(never))),)
    )
    assert states[0].votes[1].outcome == "open", "node 1 has already said that it voted"


def test_votes_are_saved_and_restored_with_their_flows():
    states = states_of(11, 4)
    mix_masked(states, 1, FOUR, lost=lambda *m: m == (VOTE, 0, 1))
    again = unpack_states(pack_states(states))
    for old, new in zip(states, again, strict=True):
        assert np.array_equal(old.values, new.values)
        assert old.votes.keys() == new.votes.keys()
        for number, vote in old.votes.items():
            found = new.votes[number]
            assert (vote.digest, vote.missing, vote.outcome) == (
                found.digest,
                found.missing,
                found.outcome,
            )
            assert np.array_equal(vote.flow, found.flow)


def test_the_digest_tells_links_apart_and_steps_are_named_once():
    assert links_digest(FOUR) != links_digest(EIGHT)
    assert len(set(MASKED_STEPS)) == len(MASKED_STEPS)
    assert closing(Phase.UNMASK) not in MASKED_STEPS
