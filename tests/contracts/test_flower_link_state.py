"""Through Flower's own tables and simulation engine: bad nodes are lost and named, others heard."""

import contextlib

import pytest

from privfed_dpo.engine.exchange import Exchange
from privfed_dpo.engine.messages import START
from tests.contracts.test_socket_carrier import trained
from tests.support.fake_federation import fake_plan
from tests.support.relayed import client_sockets, relayed, socket_carrier

pytestmark = pytest.mark.flower


@contextlib.contextmanager
def link_state_carrier(handlers, before_answer=None, **settings):
    """A carrier to nodes of Flower's engine; `before_answer` says whether a node goes away."""
    from examples.virtual_nodes import virtual_nodes
    from privfed_dpo.wire.flower.server_app import GridPost

    with (
        client_sockets(handlers) as sockets,
        virtual_nodes(sockets, before_answer) as flower,
        relayed(GridPost(flower.grid), handlers, address=flower.address, **settings) as carrier,
    ):
        carrier.flower = flower
        yield carrier


def test_a_training_is_the_same_to_the_bit_over_flower_s_link_state(tmp_path):
    plan = fake_plan("federation.rounds=2")
    assert trained(plan, tmp_path / "flower", link_state_carrier) == trained(
        plan, tmp_path / "sockets", socket_carrier
    )


def test_of_each_bad_node_the_log_says_why_and_the_others_are_heard():
    """1 goes away, 2 raises, 3 answers twice, 4 answers too much."""
    from flwr.app import Message
    from flwr.clientapp.client_app import ClientAppException

    from privfed_dpo.wire.flower.records import to_records

    notes = []

    def before_answer(client, message):
        if client == 2:
            raise ClientAppException("secret in a traceback")
        if client == 3:
            store(carrier.flower, Message(to_records(b"first"), reply_to=message))
        return client == 1

    handlers = {n: (lambda data, n=n: bytes([n])) for n in range(6)}
    handlers[4] = lambda data: bytes(5000)
    with link_state_carrier(handlers, before_answer, note=notes.append, limit=1024) as carrier:
        first = dict(carrier.exchange(Exchange(1, START, dict.fromkeys(handlers, b"x"))))
        second = dict(carrier.exchange(Exchange(1, "ShareKeys", {0: b"y", 5: b"y"})))
    assert first == {0: b"\0", 3: b"first", 5: b"\x05"}
    assert second == {0: b"\0", 5: b"\x05"}
    lost = {note.client: note.lost for note in notes if note.lost}
    assert set(lost) == {1, 2, 4}
    assert (lost[1], lost[2]) == ("the node is gone", "its ClientApp failed")
    assert "above the limit of 1024" in lost[4]


def store(flower, reply):
    """Put a reply into Flower's tables, as a node does that speaks to the SuperLink itself."""
    reply.metadata.__dict__["_message_id"] = f"stray-{id(reply)}"
    flower.state.store_message_res(reply)
