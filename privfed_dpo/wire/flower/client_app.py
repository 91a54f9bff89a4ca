"""Flower's ClientApp: hands a message to the client process of this machine, and its reply back.

Flower starts a process for every message and takes the code it runs from the server. So nothing
that matters is here: data, keys, model and budget are in the process behind the socket.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from privfed_dpo.wire.flower.records import ACTION, NotOurs, from_records, to_records, to_refusal
from privfed_dpo.wire.frames import Answer, LocalSocketError, ask_client

SOCKET_KEY = "privfed-socket"
"""In the node's configuration: --node-config 'privfed-socket="/path/client.sock"'."""


def carry(message: Message, context: Context) -> Message:
    """Pass a message on; whatever goes wrong becomes a refusal."""
    try:
        data = from_records(message.content)
        path = Path(str(context.node_config[SOCKET_KEY]))
        reply = ask_client(path, data, seconds=float(message.metadata.ttl))
    except KeyError:
        return Message(to_refusal(f"the node's configuration lacks {SOCKET_KEY}"), reply_to=message)
    except (LocalSocketError, NotOurs) as error:
        return Message(to_refusal(str(error)), reply_to=message)
    if isinstance(reply, Answer):
        return Message(to_records(reply.data), reply_to=message)
    return Message(to_refusal(reply.reason), reply_to=message)


app = ClientApp()
app.query(ACTION)(carry)
