"""A deployment whose parties are processes that can be killed; the relay is the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from privfed_dpo.engine.messages import MalformedEnvelope, decode_envelope
from privfed_dpo.wire.relay import Relay
from tests.support.socket_post import SocketPost

WAIT_SECONDS = 300
ROOT = Path(__file__).resolve().parents[2]


def start_doomed(die, *arguments, secrets=None, cwd=None):
    """Start `privfed-dpo ARGUMENTS` in a process that dies at a place; see `doomed`."""
    life = json.dumps({"die": die, "secrets": None if secrets is None else str(secrets)})
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.doomed", life, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )


class RecordingPost(SocketPost):
    """Keeps all that travels, and lets the test act just before a letter leaves."""

    def __init__(self, sockets, *, present=None, lose=lambda letter: False):
        super().__init__(sockets, lose)
        self.present = present or (lambda: tuple(sockets))
        self.on_push = lambda steps: None
        self.travelled = []

    def members(self):
        return tuple(self.present())

    def push(self, letters):
        self.on_push([step_of(letter.data) for letter in letters])
        self.travelled += [("to", letter.address, letter.data) for letter in letters]
        return super().push(letters)

    def arrived(self, letter, data):
        self.travelled.append(("from", letter.address, data))


def step_of(data):
    """(round, step) of a message of a round; None for an offer."""
    try:
        envelope = decode_envelope(data)
    except MalformedEnvelope:
        return None
    return envelope.round, envelope.step


@contextlib.contextmanager
def relay_to(path, post):
    """Run a relay over `post` until its coordinator says that the run is over."""
    relay = Relay(post, path, poll_seconds=0.01, members_seconds=0.0)
    thread = threading.Thread(target=relay.run, daemon=True)
    thread.start()
    yield
    thread.join(timeout=WAIT_SECONDS)
    assert not thread.is_alive()


class ClientProcess:
    """`privfed-dpo client` in a process of its own, and what it said."""

    def __init__(self, policy, die=None, secrets=None, cwd=None):
        self.told, self.said, self.ready = [], "", threading.Event()
        self.process = start_doomed(die, "client", "--policy", policy, secrets=secrets, cwd=cwd)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.said += line
            with contextlib.suppress(json.JSONDecodeError):
                self.told.append(json.loads(line))
                if self.told[-1]["event"] == "listening":
                    self.ready.set()

    @property
    def present(self):
        return self.ready.is_set() and self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()


def died(process):
    """Wait for a process's end; says whether SIGKILL was it, and fails if it was an error."""
    out, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode in (0, -signal.SIGKILL), out + err
    return process.returncode == -signal.SIGKILL
