"""All parties of a small deployment in this process, the coordinator excepted."""

from __future__ import annotations

import contextlib
import threading

from privfed_dpo.config.client_policy import load_policy
from privfed_dpo.deployment.client_process import serve_client
from privfed_dpo.wire.frames import LocalSocketError, ask_client
from privfed_dpo.wire.relay import Relay
from tests.support.socket_post import SocketPost


class Stage:
    """The deployment's clients and relay, each in a thread; the coordinator is the test's."""

    def __init__(self, deployment, lose=lambda letter: False):
        self.deployment, self.told, self.over = deployment, [], False
        self.post = SocketPost(deployment.sockets, lose)

    def __enter__(self):
        self.threads = [
            self._start(self._client, path) for path in self.deployment.policies.values()
        ]
        relay = Relay(self.post, self.deployment.server_socket, poll_seconds=0.01)
        self.threads.append(self._start(relay.run))
        return self

    def __exit__(self, *_):
        self.over = True
        for path in self.deployment.sockets.values():
            with contextlib.suppress(LocalSocketError):
                ask_client(path, b"", seconds=5)
        for thread in self.threads:
            thread.join(timeout=30)
            assert not thread.is_alive()

    def journal(self, event, **facts):
        self.told.append({"event": event, **facts})

    def events(self, name):
        return [line for line in self.told if line["event"] == name]

    def _client(self, path):
        serve_client(load_policy(path), journal=self.journal, go_on=lambda: not self.over)

    def _start(self, target, *arguments):
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        return thread
