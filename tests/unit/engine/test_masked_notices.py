"""What masked nodes tell everybody: the same to all, and no more than there is to say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.engine.gossip_messages import EVERYBODY, NeighbourMessage, Parcel
from privfed_dpo.engine.masked_exchange import MaskedExchange
from privfed_dpo.engine.masked_links import MaskingRules, links_digest, live_links
from privfed_dpo.engine.masked_messages import (
    AGREE,
    HELLO,
    LINKS,
    VOTE,
    AgreeNotice,
    Answer,
    LinksNotice,
    OpenVote,
    VoteNotice,
)
from privfed_dpo.engine.messages import decode, encode
from privfed_dpo.engine.mixing import integer_weights
from privfed_dpo.topology import Topology
from secure_agg import Phase
from tests.support.entropy import counted_entropy
from tests.support.masked_mixing import RULES, address_of, mix_masked, states_of, total

PAIR = MaskingRules(fewest_neighbours=3, colluders=2)
A, B = 8, 9
HONEST = frozenset(range(8))
TEN = Topology.of(
    10,
    [
        *((0, j) for j in (2, 5, 7, A, B)),
        *((1, j) for j in (2, 3, 5, 6, A)),
        *((2, j) for j in (6, 7, A)),
        *((3, j) for j in (4, 5, 7, A)),
        *((4, j) for j in (6, 7, A, B)),
        *((5, j) for j in (6, B)),
        *((6, B), (7, B)),
    ],
)
"""Ten nodes with five neighbours each; two that pool all they see find no single adapter."""

DEAF = {1: {A: {4}, B: {6, 7}}, 2: {A: {0}, B: {0, 7}}}
"""View -> whom the two colluders say they do not hear."""

VIEW = {0: 1, 1: 1, 2: 1, 3: 1, 7: 1, A: 1, 4: 2, 5: 2, 6: 2, B: 2}
"""Node -> the view it is given; each colluder takes the one it wants for its own sum."""


def heard_in(view):
    deaf = DEAF[view]
    return {n: frozenset(TEN.neighbours[n]) - deaf.get(n, set()) for n in range(10)}


def links_in(view):
    return live_links(TEN, heard_in(view), PAIR, released=True)


def written(sender, kind, body, round_=1):
    return address_of(sender, round_).write(kind, EVERYBODY, encode(body))


def two_faced(step, sender, receiver, data):
    """The colluders sign each notice twice, and each receiver gets the one of its view."""
    view = VIEW[receiver]
    if sender in (A, B) and step == LINKS:
        return written(sender, "links", LinksNotice(tuple(sorted(heard_in(view)[sender]))))
    if sender in (A, B) and step == AGREE:
        return written(sender, "agree", AgreeNotice(links_digest(links_in(view))))
    return data


def not_heard(step, sender, receiver):
    """Each colluder is deaf as its own view has it."""
    return step == HELLO and receiver in (A, B) and sender in DEAF[VIEW[receiver]][receiver]


def test_two_views_that_are_safe_may_not_be_safe_together():
    """The mean, less one sum of each view, is node 7's adapter."""
    for view in (1, 2):
        assert PAIR.safe(TEN, links_in(view), released=True)
        assert links_in(view).edges, "all nodes would take part"
    first, second = set(links_in(1).neighbours[A]), set(links_in(2).neighbours[B])
    assert len(set(integer_weights(TEN).values())) == 1, "all weights are equal"
    assert not first & second
    assert HONEST - first - second == {7}


def test_to_find_an_adapter_from_the_mean_two_nodes_tell_two_halves_other_links():
    states = states_of(0, 10)
    before = [s.values.copy() for s in states]
    sent = []
    reports = mix_masked(
        states,
        1,
        TEN,
        rules=PAIR,
        released=True,
        lost=not_heard,
        lies=two_faced,
        seen=lambda step, sender, *_: sent.append((step, sender)),
    )
    inputs = {sender for step, sender in sent if step == Phase.MASKED_INPUT.value}
    assert not inputs, "no honest node gives an input on links that another did not find"
    assert not any(s.votes for s in states), "neither of the two opened its sum"
    assert all(np.array_equal(s.values, b) for s, b in zip(states, before, strict=True))
    for node in HONEST:
        others = {n for n in HONEST if VIEW[n] != VIEW[node]}
        assert {r.peer for r in reports[node].refusals} == others
        assert {r.reason for r in reports[node].refusals} == {"it found other links"}


@pytest.mark.parametrize("view", [1, 2])
def test_one_view_told_to_all_is_averaged_over(view):
    """What is refused is the second view, not that two nodes do not hear everybody."""
    states = states_of(1, 10)
    kept = total(states)

    def lost(step, sender, receiver):
        return step == HELLO and sender in DEAF[view].get(receiver, ())

    reports = mix_masked(states, 1, TEN, rules=PAIR, released=True, lost=lost)
    assert [r.used for r in reports.values()] == list(links_in(view).neighbours)
    assert total(states) == kept


LEFT, RIGHT = frozenset({0, 1, 2, 3}), frozenset({4, 5, 6, 7})
TWO_PARTS = Topology.of(
    10,
    [
        *((0, 1), (1, 2), (2, 3), (0, 3)),
        *((4, 5), (5, 6), (6, 7), (4, 7)),
        *((c, n) for c in (A, B) for n in HONEST),
    ],
)
"""Two rings that only the colluders join; without them everybody has too few neighbours."""


def contributors(graph, deaf, *, released=False, silenced=frozenset()):
    """Colluders tell each receiver what they like, and agree with everybody.

    Args:
        graph: planned links.
        deaf: receiver -> colluder -> whom it claims not to hear.
        released: whether it is the last round.
        silenced: (sender, receiver) whose notice about links is kept back.

    Returns:
        Honest node that opened sums -> the links it opened them on.
    """
    named, opened = {}, set()

    def view_of(receiver):
        heard = {
            n: frozenset(graph.neighbours[n]) - deaf[receiver].get(n, set()) for n in range(10)
        }
        told = {n: h for n, h in heard.items() if (n, receiver) not in silenced or n == receiver}
        return live_links(graph, told, PAIR, released=released)

    def lies(step, sender, receiver, data):
        if sender not in (A, B) or receiver in (A, B):
            return data
        if step == LINKS:
            heard = set(graph.neighbours[sender]) - deaf[receiver].get(sender, set())
            return written(sender, "links", LinksNotice(tuple(sorted(heard))))
        if step == AGREE:
            return written(sender, "agree", AgreeNotice(links_digest(view_of(receiver))))
        return data

    def seen(step, sender, receiver, data):
        if step == AGREE and sender in HONEST:
            named[sender] = decode(decode(data, NeighbourMessage).body, AgreeNotice).digest
        elif step == Phase.ADVERTISE_KEYS.value and sender in HONEST:
            opened.add(sender)

    mix_masked(
        states_of(2, 10),
        1,
        graph,
        rules=PAIR,
        released=released,
        lost=lambda step, *link: step == LINKS and link in silenced,
        lies=lies,
        seen=seen,
    )
    views = {node: view_of(node) for node in opened}
    assert all(named[node] == links_digest(view) for node, view in views.items())
    return views


def touched(view):
    return {node for link in view.edges for node in link} & HONEST


@given(
    graph=st.sampled_from([TEN, TWO_PARTS]),
    released=st.booleans(),
    said=st.lists(
        st.dictionaries(st.sampled_from([A, B]), st.sets(st.integers(0, 7)), max_size=2),
        min_size=1,
        max_size=3,
    ),
    given_to=st.lists(st.integers(0, 2), min_size=10, max_size=10),
    silenced=st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_nodes_that_open_sums_on_other_links_are_not_on_each_others(
    graph, released, said, given_to, silenced
):
    """What sums on two sets of links tell is then about other nodes: nothing can be subtracted.

    Where the mean is released it is about all nodes, and so there is one set of links only.
    """
    deaf = {n: said[pick % len(said)] for n, pick in enumerate(given_to)}
    views = contributors(graph, deaf, released=released, silenced=frozenset(silenced))
    for view in views.values():
        assert {n for n in views if views[n] == view} == touched(view) & views.keys()
        assert touched(view) == HONEST or not released
    assert len(set(views.values())) <= (1 if released else 2)


def test_two_parts_may_open_sums_on_links_of_their_own():
    deaf = {n: {A: RIGHT, B: RIGHT} if n in LEFT else {A: LEFT, B: LEFT} for n in range(10)}
    views = contributors(TWO_PARTS, deaf)
    assert views.keys() == HONEST
    assert touched(views[0]) == LEFT
    assert touched(views[4]) == RIGHT
    assert contributors(TWO_PARTS, deaf, released=True) == {}


FOUR = Topology.of(4, [(i, j) for i in range(4) for j in range(i)])
DIGEST = b"d" * 32


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
    node.step(AGREE, (Parcel(1, written(1, "links", notice, round_)),))
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
        return written(0, "links", flood) if (step, sender) == (LINKS, 0) else data

    def seen(step, sender, receiver, data):
        if step in sizes and sender != 0:
            sizes[step] = max(sizes[step], len(data))

    reports = mix_masked(states, 1, ten, lies=lies, seen=seen)
    assert sizes[VOTE] < 300, "no answer is given"
    assert all(reports[n].used == tuple(m for m in range(1, 10) if m != n) for n in range(1, 10))
    assert all({r.peer for r in reports[n].refusals} == {0} for n in range(1, 10))
    assert total(states) == kept
