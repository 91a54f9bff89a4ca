"""Handlers behind real local sockets: coordinator, relay and clients, each at its own end."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from pathlib import Path

from privfed_dpo.wire.client_socket import answer_one
from privfed_dpo.wire.frames import listen
from privfed_dpo.wire.relay import Relay
from privfed_dpo.wire.relay_carrier import RelayCarrier
from tests.support.socket_post import SocketPost

LIMIT_BYTES = 1 << 24


@contextlib.contextmanager
def client_sockets(handlers):
    """Serve each handler at a socket of its own; yields the sockets by client number."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sockets = {number: folder / f"{number}.sock" for number in handlers}
        for number, path in sockets.items():
            listener = listen(path)
            stack.callback(listener.close)
            threading.Thread(target=_serve, args=(listener, handlers[number]), daemon=True).start()
        yield sockets


def _serve(listener, handle):
    with contextlib.suppress(OSError):
        while True:
            answer_one(listener, handle, max_bytes=LIMIT_BYTES)


@contextlib.contextmanager
def relayed(
    post, numbers, *, address=str, seconds=20.0, note=lambda _delivery: None, limit=LIMIT_BYTES
):
    """A carrier whose relay runs over `post`; `address` leads from a client's number to its node."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coordinator.sock"
        listener = listen(path)
        carrier = RelayCarrier(
            listener, deadline_seconds=lambda _step: seconds, max_reply_bytes=limit, note=note
        )
        relay = Relay(post, path, poll_seconds=0.002)
        thread = threading.Thread(target=relay.run, daemon=True)
        thread.start()
        addresses = {number: address(number) for number in numbers}
        try:
            while not carrier.members >= set(addresses.values()):
                carrier.wait(1.0)
            carrier.addresses.update(addresses)
            yield carrier
        finally:
            carrier.finish()
            thread.join()
            carrier.close()
            listener.close()


@contextlib.contextmanager
def socket_carrier(handlers, **settings):
    """A carrier to handlers behind sockets, without Flower."""
    with client_sockets(handlers) as sockets:
        post = SocketPost({str(number): path for number, path in sockets.items()})
        with relayed(post, handlers, **settings) as carrier:
            yield carrier
