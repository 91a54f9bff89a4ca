"""Nodes that tell others other links: nobody opens sums on two sets of them that overlap."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.engine.gossip_messages import EVERYBODY, NeighbourMessage
from privfed_dpo.engine.masked_links import MaskingRules, links_digest, live_links
from privfed_dpo.engine.masked_messages import (
    AGREE,
    HELLO,
    LINKS,
    AgreeNotice,
    LinksNotice,
)
from privfed_dpo.engine.messages import decode, encode
from privfed_dpo.engine.mixing import integer_weights
from privfed_dpo.topology import Topology
from secure_agg import Phase
from tests.support.masked_mixing import address_of, mix_masked, states_of, total

PAIR = MaskingRules(fewest_neighbours=3, colluders=2)


def written(sender, kind, body):
    return address_of(sender, 1).write(kind, EVERYBODY, encode(body))


@dataclass(frozen=True)
class Plot:
    """Two colluders, a and b, and what they tell whom in the last round.

    Attributes:
        graph: planned links; on all of them no two nodes find a single adapter.
        deaf: view -> colluder -> whom it says it does not hear.
        views: node -> the view it is given; each colluder takes the one it wants for its own sum.
        victim: the node whose adapter is the mean less a's sum of one view and b's of the other.
    """

    graph: Topology
    colluders: tuple[int, int]
    deaf: tuple[dict[int, set[int]], dict[int, set[int]]]
    views: dict[int, int]
    victim: int

    @property
    def honest(self):
        return frozenset(range(self.graph.nodes)) - set(self.colluders)

    def heard(self, view):
        nodes = range(self.graph.nodes)
        deaf = self.deaf[view]
        return {n: frozenset(self.graph.neighbours[n]) - deaf.get(n, set()) for n in nodes}

    def links(self, view):
        return live_links(self.graph, self.heard(view), PAIR, released=True)

    def two_faced(self, step, sender, receiver, data):
        """The colluders sign each notice twice, and each receiver gets the one of its view."""
        view = self.views[receiver]
        if sender in self.colluders and step == LINKS:
            return written(sender, "links", LinksNotice(tuple(sorted(self.heard(view)[sender]))))
        if sender in self.colluders and step == AGREE:
            return written(sender, "agree", AgreeNotice(links_digest(self.links(view))))
        return data


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
MESHED = Plot(
    graph=TEN,
    colluders=(A, B),
    deaf=({A: {4}, B: {6, 7}}, {A: {0}, B: {0, 7}}),
    views={0: 0, 1: 0, 2: 0, 3: 0, 7: 0, A: 0, 4: 1, 5: 1, 6: 1, B: 1},
    victim=7,
)
"""Ten nodes with five neighbours each."""

RINGS = Plot(
    graph=Topology.of(
        14,
        [
            *((n, (n + 1) % 6) for n in range(6)),
            *((6 + n, 6 + (n + 1) % 6) for n in range(6)),
            *((n, 12) for n in (*range(6), 11)),
            *((n, 13) for n in (*range(6, 12), 0)),
        ],
    ),
    colluders=(12, 13),
    deaf=({12: {11}, 13: {0}}, {13: {0, 11}}),
    views=dict.fromkeys((*range(6), 12), 0) | dict.fromkeys((*range(6, 12), 13), 1),
    victim=11,
)
"""Two rings that only the colluders join: each ring has one view, and no neighbour has the other."""

PLOTS = pytest.mark.parametrize("plot", [MESHED, RINGS], ids=["meshed", "rings"])


@PLOTS
def test_two_views_that_are_safe_may_not_be_safe_together(plot):
    """The mean, less one sum of each view, is somebody's adapter."""
    assert PAIR.safe(plot.graph, plot.graph, released=True)
    for view in (0, 1):
        assert plot.links(view).edges, "safe, and all nodes would take part"
    weights = integer_weights(plot.graph)
    left = plot.honest
    for node in plot.colluders:
        summed = set(plot.links(plot.views[node]).neighbours[node])
        assert {plot.views[n] for n in summed} == {plot.views[node]}, "the sum would be opened"
        assert len({weights[n, node] for n in summed}) == 1
        assert summed <= left
        left -= summed
    assert left == {plot.victim}


@PLOTS
def test_to_find_an_adapter_from_the_mean_two_nodes_tell_two_halves_other_links(plot):
    states = states_of(0, plot.graph.nodes)
    before = [s.values.copy() for s in states]
    sent = []

    def not_heard(step, sender, receiver):
        deaf = plot.deaf[plot.views[receiver]].get(receiver, ())
        return step == HELLO and sender in deaf

    reports = mix_masked(
        states,
        1,
        plot.graph,
        rules=PAIR,
        released=True,
        lost=not_heard,
        lies=plot.two_faced,
        seen=lambda step, sender, *_: sent.append((step, sender)),
    )
    inputs = {sender for step, sender in sent if step == Phase.MASKED_INPUT.value}
    assert not inputs, "no honest node gives an input on links that another did not find"
    assert not any(s.votes for s in states), "neither of the two opened its sum"
    assert all(np.array_equal(s.values, b) for s, b in zip(states, before, strict=True))
    for node in plot.honest:
        others = {n for n in plot.honest if plot.views[n] != plot.views[node]}
        assert {r.peer for r in reports[node].refusals} == others
        assert {r.reason for r in reports[node].refusals} == {"it found other links"}


@PLOTS
@pytest.mark.parametrize("view", [0, 1])
def test_one_view_told_to_all_is_averaged_over(plot, view):
    """What is refused is the second view, not that two nodes do not hear everybody."""
    states = states_of(1, plot.graph.nodes)
    kept = total(states)

    def lost(step, sender, receiver):
        return step == HELLO and sender in plot.deaf[view].get(receiver, ())

    reports = mix_masked(states, 1, plot.graph, rules=PAIR, released=True, lost=lost)
    assert [r.used for r in reports.values()] == list(plot.links(view).neighbours)
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
@settings(max_examples=20, deadline=None)
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
