"""A transport across one machine: letters go straight to the clients' local sockets."""

from __future__ import annotations

import queue
import threading

from privfed_dpo.wire.frames import (
    Answer,
    Failed,
    LocalSocketError,
    Returned,
    ask_client,
)

ONE_AT_A_TIME = threading.Lock()
"""Clients of a test share a process, and model libraries load one model at a time."""


class SocketPost:
    """What Flower does, without Flower; `sockets` maps addresses to the clients' sockets."""

    def __init__(self, sockets, lose=lambda letter: False):
        self.sockets, self.lose = dict(sockets), lose
        self.answers = queue.SimpleQueue()
        self.turn = ONE_AT_A_TIME

    def members(self):
        return tuple(self.sockets)

    def push(self, letters):
        lost = [letter for letter in letters if self.lose(letter)]
        for letter in letters:
            if letter not in lost:
                threading.Thread(target=self._carry, args=(letter,), daemon=True).start()
        return [Failed(letter.ticket, "the node is gone") for letter in lost]

    def pull(self):
        found = []
        while not self.answers.empty():
            found.append(self.answers.get())
        return found

    def arrived(self, letter, data):
        """What a client answered; for tests that look at it."""

    def _carry(self, letter):
        try:
            with self.turn:
                reply = ask_client(
                    self.sockets[letter.address],
                    letter.data,
                    seconds=letter.seconds,
                    max_bytes=letter.max_reply_bytes,
                )
        except LocalSocketError as error:
            self.answers.put(Failed(letter.ticket, str(error)))
            return
        if isinstance(reply, Answer):
            self.arrived(letter, reply.data)
            self.answers.put(Returned(letter.ticket, reply.data))
        else:
            self.answers.put(Failed(letter.ticket, reply.reason))
