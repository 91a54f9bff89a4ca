"""All parties of a small deployment in this process, the coordinator excepted."""

from __future__ import annotations

import contextlib
import secrets
import threading

from privfed_dpo.config.client_policy import load_policy
from privfed_dpo.deployment.client_process import serve_client
from privfed_dpo.wire.frames import LocalSocketError, ask_client
from privfed_dpo.wire.relay import Relay
from tests.support.socket_post import SocketPost


class Stage:
    """The deployment's clients and relay, each in a thread; the coordinator is the test's."""

    def __init__(
        self,
        deployment,
        lose=lambda letter: False,
        post=None,
        entropy=secrets.token_bytes,
        entropies=None,
    ):
        self.deployment, self.told, self.entropy = deployment, [], entropy
        self.server_socket, self.entropies = deployment.server_socket, entropies or {}
        self.post = post or SocketPost(deployment.sockets, lose)
        self.clients = {}

    def __enter__(self):
        for name in self.deployment.policies:
            self.start(name)
        relay = Relay(self.post, self.server_socket, poll_seconds=0.01)
        self.relay = threading.Thread(target=relay.run, daemon=True)
        self.relay.start()
        return self

    def __exit__(self, *_):
        for name in list(self.clients):
            self.stop(name)
        self.relay.join(timeout=30)
        assert not self.relay.is_alive()

    def start(self, name):
        """Start a client's process, as far as its memory is concerned; it listens afterwards."""
        stopped, listens = threading.Event(), threading.Event()

        def journal(event, **facts):
            self.journal(event, **facts)
            if event == "listening":
                listens.set()

        settings = {
            "journal": journal,
            "entropy": self.entropies[name].next_life() if name in self.entropies else self.entropy,
            "go_on": lambda: not stopped.is_set(),
        }
        thread = threading.Thread(
            target=serve_client,
            args=(load_policy(self.deployment.policies[name]),),
            kwargs=settings,
            daemon=True,
        )
        thread.start()
        listens.wait(timeout=60)
        self.clients[name] = (thread, stopped)

    def stop(self, name):
        """End it; everything it did not write down is gone."""
        thread, stopped = self.clients.pop(name)
        stopped.set()
        with contextlib.suppress(LocalSocketError):
            ask_client(self.deployment.sockets[name], b"", seconds=30)
        thread.join(timeout=60)
        assert not thread.is_alive()

    def journal(self, event, **facts):
        self.told.append({"event": event, **facts})

    def events(self, name):
        return [line for line in self.told if line["event"] == name]
