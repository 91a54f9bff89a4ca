"""Flower's grid without Flower's processes: the real ClientApp, called at once in a thread."""

from __future__ import annotations

import itertools
import queue
import threading

from flwr.app import Context, Error, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.supercore.task_identity import TaskIdentity

from privfed_dpo.wire.flower.client_app import SOCKET_KEY, app

TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
"""What Flower's own processes set before they load an app."""


class OneProcessGrid:
    """The part of Grid that the relay uses; node n has the socket given for n."""

    def __init__(self, sockets, instead=lambda message: None):
        self.sockets, self.instead = sockets, instead
        self.numbers, self.replies = itertools.count(1), queue.SimpleQueue()
        self.kept = {}

    def get_node_ids(self):
        return list(self.sockets)

    def push_messages(self, messages):
        return [self._send(message) for message in messages]

    def pull_messages(self, message_ids):
        while not self.replies.empty():
            key, reply = self.replies.get()
            self.kept[key] = reply
        return [self.kept.pop(key) for key in message_ids if key in self.kept]

    def _send(self, message):
        if message.metadata.dst_node_id not in self.sockets:
            return None
        key = f"message-{next(self.numbers)}"
        message.metadata.__dict__["_message_id"] = key
        threading.Thread(target=self._answer, args=(key, message), daemon=True).start()
        return key

    def _answer(self, key, message):
        other = self.instead(message)
        if isinstance(other, Error | RecordDict):
            self.replies.put((key, FlowerMessage(other, reply_to=message)))
            return
        node = message.metadata.dst_node_id
        context = Context(1, node, {SOCKET_KEY: str(self.sockets[node])}, RecordDict(), {})
        self.replies.put((key, app(message, context)))
