"""Frames: whole ones only, of this version only, never above the limit; sockets for the owner only."""

import os
import socket
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.wire.client_socket import Declined, answer_one
from privfed_dpo.wire.frames import (
    HEADER_BYTES,
    MARK,
    Answer,
    Ask,
    BadFrame,
    Deliver,
    Failed,
    Finish,
    FrameReader,
    LocalSocketError,
    Look,
    Looked,
    Members,
    Refusal,
    Returned,
    ask_client,
    encode_frame,
    listen,
)
from tests.support.deep_nesting import with_a_deep_field

TEXT, DATA = st.text(max_size=20), st.binary(max_size=200)
TICKETS = st.integers(0, 2**63 - 1)
FRAMES = st.one_of(
    st.builds(Members, st.lists(TEXT, max_size=3).map(tuple)),
    st.builds(Look, st.integers(0, 2**40)),
    st.builds(Looked, st.integers(0, 2**40), st.lists(TEXT, max_size=3).map(tuple)),
    st.builds(Deliver, TICKETS, TEXT, st.floats(0, 1e6), st.integers(0, 2**31), DATA),
    st.builds(Returned, TICKETS, DATA),
    st.builds(Failed, TICKETS, TEXT),
    st.just(Finish()),
    st.builds(Ask, DATA),
    st.builds(Answer, DATA),
    st.builds(Refusal, TEXT),
)


@given(frames=st.lists(FRAMES, max_size=4), cuts=st.lists(st.integers(1, 40), min_size=1))
def test_frames_survive_any_cutting_of_the_stream(frames, cuts):
    stream, found, reader = b"".join(map(encode_frame, frames)), [], FrameReader()
    place = step = 0
    while place < len(stream):
        size = cuts[step % len(cuts)]
        found += reader.feed(stream[place : place + size])
        place, step = place + size, step + 1
    assert found == frames


@given(data=st.binary(max_size=60))
def test_any_bytes_are_frames_or_refused(data):
    try:
        list(FrameReader(1000).feed(data))
    except BadFrame:
        return


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"PFD2" + bytes(8), "version"),
        (b"GET / HTTP/1.1\r\n", "version"),
        (MARK + (1001).to_bytes(8, "big"), "1001 bytes are above the limit of 1000"),
        (MARK + (1).to_bytes(8, "big") + b"\xc1", "not a message"),
        (MARK + (2).to_bytes(8, "big") + b"\x91\x63", "not a message"),
        (MARK + (4).to_bytes(8, "big") + b"\x92\x06\xc4\x00"[:4], "not a message|non-canonical"),
        (MARK + (5).to_bytes(8, "big") + b"\x92\x06\xc5\x00\x00", "non-canonical"),
    ],
)
def test_what_is_no_frame_is_refused_and_long_ones_before_they_are_read(stream, why):
    if b"\xc4\x00" in stream:
        assert list(FrameReader(1000).feed(stream)) == [Ask(b"")]
        return
    with pytest.raises(BadFrame, match=why):
        list(FrameReader(1000).feed(stream))


def test_a_header_alone_is_not_yet_a_frame():
    frame = encode_frame(Ask(b"x"))
    assert list(FrameReader().feed(frame[:HEADER_BYTES])) == []


def test_only_the_owner_can_connect(tmp_path):
    path = tmp_path / "deep" / "client.sock"
    listener = listen(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    listener.close()
    shared = tmp_path / "shared.sock"
    listener = listen(shared, group=os.getgid())
    assert stat.S_IMODE(shared.stat().st_mode) == 0o660
    listener.close()


def test_a_dead_process_s_socket_is_replaced_and_a_living_one_s_is_not(tmp_path):
    path = tmp_path / "a.sock"
    listen(path).close()
    second = listen(path)
    with pytest.raises(LocalSocketError, match="another process listens"):
        listen(path)
    second.close()
    plain = tmp_path / "notes.txt"
    plain.write_text("mine")
    with pytest.raises(LocalSocketError, match="no socket"):
        listen(plain)
    assert plain.read_text() == "mine"


def serving(path, handle, questions):
    listener, told = listen(path), []

    def serve():
        told.extend(answer_one(listener, handle, max_bytes=10_000) for _ in range(questions))
        listener.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, told


def test_a_client_survives_peers_that_talk_nonsense(tmp_path):
    path = tmp_path / "c.sock"

    def handle(data):
        if data == b"no":
            raise Declined("not with me")
        return data + data

    thread, told = serving(path, handle, 7)
    body = with_a_deep_field(encode_frame(Ask(b"x"))[HEADER_BYTES:])
    deep = MARK + len(body).to_bytes(8, "big") + body
    for nonsense in (b"", b"GET / HTTP/1.1\r\n\r\n", encode_frame(Finish()), deep):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall(nonsense)
            peer.shutdown(socket.SHUT_WR)
            peer.recv(1000)
    assert ask_client(path, b"no", seconds=5) == Refusal("not with me")
    assert "above the limit" in ask_client(path, bytes(20_000), seconds=5).reason
    assert ask_client(path, b"ab", seconds=5) == Answer(b"abab")
    thread.join()
    assert [bool(reason) for reason in told] == [True] * 6 + [False]


class Peer:
    """A connection whose other end follows a script; it is its own listener, and time is its own."""

    def __init__(self, *pieces, takes=0.0, now=0.0):
        self.pieces, self.takes, self.now = list(pieces), takes, now
        self.timeout, self.got, self.closed = None, b"", False

    def accept(self):
        return self, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True

    def settimeout(self, seconds):
        assert seconds > 0
        self.timeout = seconds

    def clock(self):
        return self.now

    def _wait(self, seconds):
        self.now += min(seconds, self.timeout)
        if seconds > self.timeout:
            raise TimeoutError("timed out")

    def recv(self, _):
        seconds, data = self.pieces.pop(0) if self.pieces else (0.0, b"")
        self._wait(seconds)
        return data

    def sendall(self, data):
        self._wait(self.takes)
        self.got = data

    def asks(self, handle=lambda data: data * 2):
        return answer_one(self, handle, max_bytes=10_000, clock=self.clock)


def test_a_peer_has_one_minute_in_all_however_it_cuts_its_question():
    """Each piece alone comes in time; a thousand of them would hold all others for half a day."""
    asked = []
    header = MARK + (1000).to_bytes(8, "big")
    dawdler = Peer((0.0, header), *[(50.0, b"\x00")] * 1000)
    assert dawdler.asks(asked.append) == "the peer took more than 60 s to ask"
    assert dawdler.closed
    assert (dawdler.now, dawdler.got, asked) == (60.0, b"", [])
    late = Peer((59.0, encode_frame(Ask(b"x"))[:-1]), (1.0, encode_frame(Ask(b"x"))[-1:]))
    assert "more than 60 s" in late.asks(asked.append), "whole, but too late for an answer"
    assert asked == []


def test_a_question_in_many_pieces_is_answered_if_all_come_in_time():
    question = encode_frame(Ask(b"ab"))
    slow = Peer(*[(59.0 / len(question), question[i : i + 1]) for i in range(len(question))])
    assert slow.asks() == ""
    assert slow.got == encode_frame(Answer(b"abab"))


def test_the_time_a_client_thinks_is_not_its_peer_s_and_the_time_to_take_the_answer_is():
    def thinks(data):
        peer.now += 600.0
        return data

    peer = Peer((10.0, encode_frame(Ask(b"x"))), takes=49.0)
    assert peer.asks(thinks) == ""
    assert peer.got == encode_frame(Answer(b"x"))
    assert peer.now == 659.0
    peer = Peer((10.0, encode_frame(Ask(b"x"))), takes=51.0)
    assert peer.asks(thinks) == "the peer did not take the answer: timed out"
    assert (peer.now, peer.got) == (660.0, b"")


def test_a_client_that_is_not_there_is_an_error_of_its_own(tmp_path):
    with pytest.raises(LocalSocketError, match="no answer from the client process"):
        ask_client(tmp_path / "nobody.sock", b"x", seconds=1)


def test_what_a_transport_s_processes_load_is_small():
    program = (
        "import sys; import privfed_dpo.wire.relay, privfed_dpo.wire.frames; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "transformers", "peft", "opacus", "numpy", "cryptography", "pydantic"}
    assert not heavy & set(run.stdout.split())
