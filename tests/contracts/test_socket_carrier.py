"""Coordinator, relay and clients as processes of their own would be: the contract holds."""

import contextlib
import itertools
import socket
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.exchange import Exchange
from privfed_dpo.engine.messages import START
from privfed_dpo.server_update import ServerState, ServerUpdate
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.client_socket import Declined
from privfed_dpo.wire.frames import (
    HEADER_BYTES,
    MARK,
    Failed,
    FrameReader,
    Members,
    Returned,
    encode_frame,
    listen,
)
from privfed_dpo.wire.loopback import LoopbackCarrier
from privfed_dpo.wire.relay import Relay
from privfed_dpo.wire.relay_carrier import RelayCarrier
from tests.contracts.carrier_contract import CarrierContract
from tests.support.deep_nesting import with_a_deep_field
from tests.support.fake_federation import (
    DIMENSION,
    fake_clients,
    fake_ledger,
    fake_plan,
    fake_training,
)
from tests.support.relayed import LIMIT_BYTES, client_sockets, relayed, socket_carrier
from tests.support.socket_post import SocketPost


class TestSocketCarrier(CarrierContract):
    def open_carrier(self, handlers):
        return socket_carrier(handlers)


def trained(plan, path, open_carrier):
    """Weights after all rounds, and the ledger's bytes; keys and noise are the same every time."""
    clients, roster = fake_clients(plan)
    totals = []
    training = fake_training(
        plan,
        roster,
        fake_ledger(plan, path),
        update=ServerUpdate(kind="sgd", learning_rate=0.1, momentum=0.5),
        save=lambda checkpoint: totals.append(checkpoint.state.weights.tobytes()),
    )
    weights = np.zeros(DIMENSION, dtype=np.float32)
    start = Checkpoint(0, ServerState.start(weights), (), plan.plan_hash, "d", 0.0)
    with open_carrier({n: c.handle for n, c in clients.items()}) as carrier:
        result = drive(training.script(start), carrier)
    assert result.status == "finished"
    return totals, path.read_bytes()


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_a_training_is_the_same_to_the_bit_over_sockets_and_in_one_process(mode, tmp_path):
    plan = fake_plan("federation.rounds=4", f"privacy.mode={mode}")
    near = trained(
        plan, tmp_path / "near", lambda handlers: contextlib.nullcontext(LoopbackCarrier(handlers))
    )
    far = trained(plan, tmp_path / "far", socket_carrier)
    assert near == far


def test_whoever_misses_the_deadline_is_lost_and_its_late_answer_is_nobody_s():
    """The slow client's answer to the first message must not count as one to the second."""
    may_answer = threading.Event()
    notes = []

    def slow(data):
        may_answer.wait()
        return b"late " + data

    handlers = {0: lambda data: data, 1: slow}
    with socket_carrier(handlers, seconds=0.5, note=notes.append) as carrier:
        first = carrier.exchange(Exchange(1, START, {0: b"a", 1: b"a"}))
        assert dict(first) == {0: b"a"}
        may_answer.set()
        second = carrier.exchange(Exchange(1, "ShareKeys", {0: b"b"}))
        assert dict(second) == {0: b"b"}
    lost = [note for note in notes if note.lost]
    assert [(n.client, n.step, n.lost) for n in lost] == [(1, START, "no answer in time")]
    assert lost[0].seconds >= 0.5


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (lambda data: bytes(2048), "above the limit"),
        (
            lambda data: (_ for _ in ()).throw(Declined("my policy forbids it")),
            "my policy forbids it",
        ),
    ],
    ids=["an oversized answer", "a refusal"],
)
def test_one_bad_client_is_named_and_the_others_are_heard(handle, reason):
    notes = []
    handlers = {0: lambda data: data, 1: handle, 2: lambda data: data}
    with socket_carrier(handlers, note=notes.append, limit=1024) as carrier:
        replies = carrier.exchange(Exchange(1, START, dict.fromkeys(handlers, b"x")))
    assert dict(replies) == {0: b"x", 2: b"x"}
    assert [(note.client, reason in note.lost) for note in notes if note.lost] == [(1, True)]


def test_every_message_is_in_the_books():
    notes = []
    with socket_carrier({0: lambda data: data * 2}, note=notes.append) as carrier:
        carrier.exchange(Exchange(3, "Unmask", {0: b"abc", 9: b"nobody is there"}))
    facts = [(n.round, n.step, n.client, n.sent_bytes, n.received_bytes, n.lost) for n in notes]
    assert facts == [(3, "Unmask", 0, 3, 6, ""), (3, "Unmask", 9, 15, 0, "not connected")]


def test_a_relay_that_dies_loses_what_was_under_way_and_another_takes_over():
    class DeadPost(SocketPost):
        def push(self, letters):
            raise OSError("the transport is gone")

    handlers = {0: lambda data: data}
    with client_sockets(handlers) as sockets:
        post = DeadPost({"0": sockets[0]})
        with relayed(post, handlers) as carrier:
            assert dict(carrier.exchange(Exchange(1, START, {0: b"a"}))) == {}
            post.push = SocketPost.push.__get__(post)
            while "0" not in carrier.members:
                carrier.wait(1.0)
            assert dict(carrier.exchange(Exchange(2, START, {0: b"b"}))) == {0: b"b"}


@pytest.mark.parametrize(("first_ticket", "taken"), [(9, b"to living"), (7000, b"to dead")])
def test_a_relay_that_outlives_a_coordinator_brings_the_answers_of_the_dead(first_ticket, taken):
    """Numbers that no two coordinators share keep them apart; with equal ones it would go wrong."""
    may_answer = threading.Event()

    def slow(data):
        may_answer.wait()
        return b"to " + data

    class Post(SocketPost):
        def push(self, letters):
            failed = super().push(letters)
            if letters[0].data == b"living":
                may_answer.set()
            return failed

    with contextlib.ExitStack() as stack:
        sockets = stack.enter_context(client_sockets({0: slow}))
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "coordinator.sock"
        relay = Relay(Post({"0": sockets[0]}), path, poll_seconds=0.002)
        thread = threading.Thread(target=relay.run, daemon=True)
        thread.start()
        assert _life(path, 7000, b"dead", clock=itertools.count(step=1e6).__next__) == {}
        found = _life(path, first_ticket, b"living", clock=time.monotonic)
        thread.join()
    assert found == {"0": taken}


def _life(path, first_ticket, data, *, clock):
    """One coordinator's: it asks once and ends; only the living one says that the run is over."""
    with contextlib.closing(listen(path)) as listener:
        carrier = RelayCarrier(
            listener,
            deadline_seconds=lambda _step: 20.0,
            max_reply_bytes=LIMIT_BYTES,
            first_ticket=first_ticket,
            clock=clock,
        )
        while not carrier.members:
            carrier.wait(1.0)
        replies = carrier.send({"0": data}, round_number=1, step=START, numbers={})
        if data == b"living":
            carrier.finish()
        carrier.close()
    return replies


def test_a_relay_that_hangs_reaches_nobody_whatever_it_said_before():
    """A transport that died may block its relay for minutes; the connection stays up."""
    may_go_on = threading.Event()

    class HangingPost(SocketPost):
        hangs = False

        def members(self):
            if self.hangs:
                may_go_on.wait()
            return super().members()

    handlers = {0: lambda data: data}
    with client_sockets(handlers) as sockets:
        post = HangingPost({"0": sockets[0]})
        with relayed(post, handlers) as carrier:
            carrier.look(20.0)
            assert carrier.members == {"0"}
            post.hangs = True
            carrier.look(0.2)
            assert carrier.members == frozenset()
            post.hangs = False
            may_go_on.set()
            while not carrier.members:
                carrier.look(20.0)
            assert dict(carrier.exchange(Exchange(1, START, {0: b"a"}))) == {0: b"a"}


def test_the_place_of_a_relay_is_taken_for_good(tmp_path):
    """Whoever is replaced ends; the two do not take turns."""
    path = tmp_path / "coordinator.sock"
    with contextlib.closing(listen(path)) as listener:
        carrier = RelayCarrier(listener, deadline_seconds=lambda _step: 9.0, max_reply_bytes=1024)
        threads = []
        for name in ("old", "new"):
            relay = Relay(SocketPost({name: path}), path, poll_seconds=0.002)
            threads.append(threading.Thread(target=relay.run, daemon=True))
            threads[-1].start()
            while carrier.members != {name}:
                carrier.wait(1.0)
        threads[0].join(timeout=20)
        assert not threads[0].is_alive()
        assert threads[1].is_alive()
        carrier.finish()
        threads[1].join(timeout=20)
        carrier.close()


def test_a_relay_whose_transport_fails_does_not_take_another_s_place(tmp_path):
    class DeadPost(SocketPost):
        def members(self):
            raise PermissionError("Flower knows this run no more")

    with contextlib.closing(listen(tmp_path / "coordinator.sock")) as listener:
        with pytest.raises(PermissionError):
            Relay(DeadPost({}), tmp_path / "coordinator.sock").run()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_of_any_number_of_answers_only_the_first_that_was_asked_for_counts(tmp_path):
    """One answer to one letter: strangers' tickets, a second answer, a failure after it are nothing."""
    path = tmp_path / "coordinator.sock"

    def flood(connection):
        reader, asked = FrameReader(), None
        connection.sendall(encode_frame(Members(("node",))))
        while asked is None:
            asked = next(reader.feed(connection.recv(1 << 16)), None)
        strays = (Returned(asked.ticket + n, b"stray") for n in range(-1000, 1000) if n)
        answers = [Returned(asked.ticket, b"first"), Returned(asked.ticket, b"second")]
        for frame in (*strays, *answers, Failed(asked.ticket, "third")):
            connection.sendall(encode_frame(frame))

    notes = []
    with contextlib.closing(listen(path)) as listener, socket.socket(socket.AF_UNIX) as relay:
        carrier = RelayCarrier(
            listener, deadline_seconds=lambda _s: 20.0, max_reply_bytes=64, note=notes.append
        )
        relay.connect(str(path))
        thread = threading.Thread(target=flood, args=(relay,), daemon=True)
        thread.start()
        carrier.wait(20.0)
        carrier.addresses[0] = "node"
        assert dict(carrier.exchange(Exchange(1, START, {0: b"a"}))) == {0: b"first"}
        thread.join(timeout=20)
        carrier.close()
    assert [(note.received_bytes, note.lost) for note in notes] == [(5, "")]


@pytest.mark.parametrize("deliver", ["send", "finish"])
def test_a_relay_that_stops_reading_is_hung_up_on_at_the_deadline(tmp_path, deliver, monkeypatch):
    """It is connected and stopped, so that nothing fails and its buffer fills up."""
    monkeypatch.setattr("privfed_dpo.wire.relay_carrier._FAREWELL_SECONDS", 0.2)
    path, notes = tmp_path / "coordinator.sock", []
    with (
        contextlib.closing(listen(path)) as listener,
        socket.socket(socket.AF_UNIX) as relay,
        socket.socket(socket.AF_UNIX) as other,
    ):
        carrier = RelayCarrier(
            listener, deadline_seconds=lambda _s: 0.2, max_reply_bytes=1024, note=notes.append
        )
        relay.connect(str(path))
        relay.sendall(encode_frame(Members(("node",))))
        while not carrier.members:
            carrier.wait(20.0)
        if deliver == "send":
            letter = {"node": bytes(1 << 24)}
            assert carrier.send(letter, round_number=1, step=START, numbers={}) == {}
            assert [note.lost for note in notes] == ["the relay stopped reading"]
            assert carrier.members == frozenset()
        else:
            carrier._relay.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while carrier._relay.send(bytes(1 << 16)):
                    pass
        other.connect(str(path))
        other.sendall(encode_frame(Members(("other",))))
        while carrier.members != {"other"}:
            carrier.wait(20.0)
        carrier.close()


def test_waiting_ends_when_enough_has_come():
    """The late answer of a node that was not waited for is nobody's."""
    may_answer, notes = threading.Event(), []

    def slow(data):
        may_answer.wait()
        return data

    with socket_carrier({0: lambda data: data, 1: slow}, note=notes.append) as carrier:
        replies = carrier.send(
            {"0": b"a", "1": b"a"},
            round_number=0,
            step="Join",
            numbers={},
            seconds=3600.0,
            enough=lambda replies: "0" in replies,
        )
        may_answer.set()
        assert replies == {"0": b"a"}
        assert dict(carrier.exchange(Exchange(1, START, {0: b"b"}))) == {0: b"b"}
    assert [note.lost for note in notes if note.lost] == ["not waited for any longer"]


def test_a_reason_of_any_length_is_cut_to_what_people_read():
    def refuse(data):
        raise Declined("no " * 100_000)

    notes = []
    with socket_carrier({0: refuse, 1: lambda data: data}, note=notes.append) as carrier:
        assert dict(carrier.exchange(Exchange(1, START, {0: b"x", 1: b"x"}))) == {1: b"x"}
    lost = [note.lost for note in notes if note.lost]
    assert lost == [("no " * 334)[:1000]]


def test_a_relay_that_talks_nonsense_is_cut_off_and_another_is_heard(tmp_path):
    """Nonsense that nests deep is nonsense like any other."""
    body = with_a_deep_field(encode_frame(Members(()))[HEADER_BYTES:])
    deep = MARK + len(body).to_bytes(8, "big") + body
    path = tmp_path / "coordinator.sock"
    with contextlib.closing(listen(path)) as listener:
        carrier = RelayCarrier(listener, deadline_seconds=lambda _s: 20.0, max_reply_bytes=1024)
        for said, members in ((deep, set()), (encode_frame(Members(("node",))), {"node"})):
            with socket.socket(socket.AF_UNIX) as relay:
                relay.connect(str(path))
                relay.sendall(said)
                carrier.wait(20.0)
                carrier.wait(20.0)
                assert carrier.members == members
        carrier.close()
