"""Questions about earlier votes: everybody answers to everybody, so they are few and well formed."""

import pytest

from privfed_dpo.engine.gossip_messages import EVERYBODY, NeighbourMessage, Parcel
from privfed_dpo.engine.masked_exchange import MaskedExchange
from privfed_dpo.engine.masked_messages import (
    AGREE,
    HELLO,
    LINKS,
    VOTE,
    Answer,
    LinksNotice,
    OpenVote,
    VoteNotice,
)
from privfed_dpo.engine.messages import decode, encode
from privfed_dpo.topology import Topology
from tests.support.entropy import counted_entropy
from tests.support.masked_mixing import RULES, address_of, mix_masked, states_of, total

FOUR = Topology.of(4, [(i, j) for i in range(4) for j in range(i)])
DIGEST = b"d" * 32


def written(sender, notice, round_):
    return address_of(sender, round_).write("links", EVERYBODY, encode(notice))


def asked_by_1(doubts, round_=5):
    """Node 0 in a round in which node 1 asks about votes; returns its answers and its refusals."""
    node = MaskedExchange(
        address_of(0, round_),
        FOUR,
        states_of(3, 4)[0],
        rules=RULES,
        entropy=counted_entropy("asked"),
    )
    node.step(HELLO, ())
    node.step(LINKS, ())
    notice = LinksNotice((0, 2, 3), tuple(OpenVote(*doubt) for doubt in doubts))
    node.step(AGREE, (Parcel(1, written(1, notice, round_)),))
    message = decode(node.step(VOTE, ()).parcels[0].data, NeighbourMessage)
    report = node.step("Combine", ())
    return decode(message.body, VoteNotice).answers, report.refusals


def test_one_question_about_each_earlier_round_is_answered():
    doubts = [(number, DIGEST) for number in range(1, 5)]
    answers, refusals = asked_by_1(doubts)
    assert answers == tuple(Answer(number, DIGEST, "never") for number in range(1, 5))
    assert not refusals


@pytest.mark.parametrize(
    "doubts",
    [
        pytest.param([(0, DIGEST)], id="before the first round"),
        pytest.param([(-1, DIGEST)], id="a negative round"),
        pytest.param([(5, DIGEST)], id="this round"),
        pytest.param([(6, DIGEST)], id="a later round"),
        pytest.param([(2, DIGEST), (2, b"e" * 32)], id="two votes in one round"),
        pytest.param([(3, DIGEST), (2, DIGEST)], id="out of order"),
        pytest.param([(2, DIGEST[:31])], id="a short digest"),
        pytest.param([(2, b"")], id="no digest"),
        pytest.param([(2, DIGEST + b"d")], id="a long digest"),
        pytest.param([(number, b"") for number in range(2000)], id="thousands"),
    ],
)
def test_to_flood_everybody_with_answers_a_node_asks_what_nobody_can_be_in_doubt_about(doubts):
    answers, refusals = asked_by_1(doubts)
    assert answers == ()
    assert [(r.peer, r.reason) for r in refusals] == [
        (1, "it asks about votes that nobody can have cast")
    ]


def test_whoever_asks_too_much_is_left_out_by_all_alike():
    """All refuse the same notice, so that the rest find the same links and average."""
    states = states_of(4, 10)
    kept = total(states)
    ten = Topology.of(10, [(i, j) for i in range(10) for j in range(i)])
    flood = LinksNotice(tuple(range(1, 10)), tuple(OpenVote(n, b"") for n in range(1000)))
    sizes = {LINKS: 0, VOTE: 0}

    def lies(step, sender, receiver, data):
        return written(0, flood, 1) if (step, sender) == (LINKS, 0) else data

    def seen(step, sender, receiver, data):
        if step in sizes and sender != 0:
            sizes[step] = max(sizes[step], len(data))

    reports = mix_masked(states, 1, ten, lies=lies, seen=seen)
    assert sizes[VOTE] < 300, "no answer is given"
    assert all(reports[n].used == tuple(m for m in range(1, 10) if m != n) for n in range(1, 10))
    assert all({r.peer for r in reports[n].refusals} == {0} for n in range(1, 10))
    assert total(states) == kept
