"""The same bytes through Flower's records and both shims: the contract holds."""

import contextlib
import subprocess
import sys

import pytest

from privfed_dpo.engine.exchange import Exchange
from privfed_dpo.engine.messages import START
from tests.contracts.carrier_contract import CarrierContract
from tests.contracts.test_socket_carrier import trained
from tests.support.fake_federation import fake_plan
from tests.support.relayed import client_sockets, relayed, socket_carrier

pytestmark = pytest.mark.flower


@contextlib.contextmanager
def flower_carrier(handlers, instead=lambda message: None, **settings):
    from privfed_dpo.wire.flower.server_app import GridPost
    from tests.support.flower_grid import OneProcessGrid

    with client_sockets(handlers) as sockets:
        grid = OneProcessGrid(sockets, instead)
        with relayed(GridPost(grid), handlers, **settings) as carrier:
            yield carrier


class TestFlowerCarrier(CarrierContract):
    def open_carrier(self, handlers):
        return flower_carrier(handlers)


def test_a_training_is_the_same_to_the_bit_over_flower_and_over_sockets(tmp_path):
    plan = fake_plan("federation.rounds=3")
    assert trained(plan, tmp_path / "flower", flower_carrier) == trained(
        plan, tmp_path / "sockets", socket_carrier
    )


def records(name):
    from flwr.app import ArrayRecord, ConfigRecord, Error, RecordDict

    from privfed_dpo.wire.flower.records import to_records

    body = to_records(b"x").array_records["privfed"]["privfed"]
    old = type(body)(dtype="uint8", shape=(2,), stype=body.stype, data=b"\x00x")
    return {
        "the node is gone": Error(code=5, reason="secret path"),
        "its ClientApp failed": Error(code=2, reason="Traceback: secret"),
        "without our bytes": RecordDict({"garbage": ConfigRecord({"a": 1})}),
        "another version": RecordDict({"privfed": ArrayRecord({"privfed": old})}),
        "above the limit": to_records(bytes(5000)),
    }[name]


@pytest.mark.parametrize(
    "why",
    [
        "the node is gone",
        "its ClientApp failed",
        "without our bytes",
        "another version",
        "above the limit",
    ],
)
def test_a_node_that_answers_anything_else_is_lost_and_named(why):
    notes = []
    handlers = {1: lambda data: data, 2: lambda data: data}

    def instead(message):
        return records(why) if message.metadata.dst_node_id == 2 else None

    with flower_carrier(handlers, instead, note=notes.append, limit=1024) as carrier:
        replies = carrier.exchange(Exchange(1, START, dict.fromkeys(handlers, b"x")))
    assert dict(replies) == {1: b"x"}
    lost = [note for note in notes if note.lost]
    assert [(note.client, why in note.lost) for note in lost] == [(2, True)]
    assert "secret" not in lost[0].lost


def test_a_refusal_of_any_length_costs_nobody_else_its_place():
    """Longer than all that a relay may send at once, it would cut the line for everybody."""
    from privfed_dpo.wire.flower.records import to_refusal

    notes = []
    handlers = dict.fromkeys((1, 2, 3), lambda data: data)

    def instead(message):
        return to_refusal("x" * 3_000_000) if message.metadata.dst_node_id == 2 else None

    with flower_carrier(handlers, instead, note=notes.append, limit=1024) as carrier:
        replies = carrier.exchange(Exchange(1, START, dict.fromkeys(handlers, b"x")))
    assert dict(replies) == {1: b"x", 3: b"x"}
    assert [note.lost for note in notes if note.lost] == ["x" * 1000]


def test_a_node_without_its_client_process_is_lost():
    notes = []
    handlers = {1: lambda data: data, 2: lambda data: data}
    with flower_carrier(handlers, note=notes.append) as carrier:
        carrier.addresses[3] = "99"
        replies = carrier.exchange(Exchange(1, START, dict.fromkeys((1, 2, 3), b"x")))
    assert dict(replies) == {1: b"x", 2: b"x"}
    assert [note.lost for note in notes if note.lost] == ["Flower did not take the message"]


def test_the_shim_loads_no_model_library():
    program = (
        "import sys; import privfed_dpo.wire.flower.client_app; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    assert "flwr" in loaded
    assert not loaded & {"torch", "transformers", "peft", "opacus", "datasets"}
