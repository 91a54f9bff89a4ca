"""The transition table of the protocol, as data.

Dispatch in `session`, the diagram in docs/SPEC.md and the stateful tests all read `EXCHANGES`;
nothing else in the package knows which message follows which.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from secure_agg.types import Phase


class Kind(IntEnum):
    """Message kinds and their number on the wire; odd ones travel from client to server."""

    ADVERTISE_KEYS = 1
    ROSTER = 2
    SHARE_KEYS = 3
    SHARE_DELIVERY = 4
    MASKED_INPUT = 5
    SURVIVORS = 6
    CONSISTENCY_CHECK = 7
    UNMASK_REQUEST = 8
    UNMASK = 9


class ClientStage(StrEnum):
    """What a client is waiting for."""

    READY = "Ready"
    AWAITING_ROSTER = "AwaitingRoster"
    AWAITING_SHARES = "AwaitingShares"
    AWAITING_SURVIVORS = "AwaitingSurvivors"
    AWAITING_SIGNATURES = "AwaitingSignatures"
    DONE = "Done"
    FAILED = "Failed"


class ServerStage(StrEnum):
    """What the server is collecting."""

    COLLECTING_KEYS = "CollectingKeys"
    COLLECTING_SHARES = "CollectingShares"
    COLLECTING_INPUTS = "CollectingInputs"
    COLLECTING_SIGNATURES = "CollectingSignatures"
    COLLECTING_REVEALS = "CollectingReveals"
    FINISHED = "Finished"
    ABORTED = "Aborted"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its reply.

    Attributes:
        phase: name of the exchange.
        request: server to client; None where the client speaks first.
        reply: client to server.
        client_before: stage in which a client takes the request.
        client_after: its stage once the reply is out.
        server_before: stage in which the server takes replies.
        server_after: its stage once the phase is closed with enough of them.
    """

    phase: Phase
    request: Kind | None
    reply: Kind
    client_before: ClientStage
    client_after: ClientStage
    server_before: ServerStage
    server_after: ServerStage


EXCHANGES: Final[tuple[Exchange, ...]] = (
    Exchange(
        Phase.ADVERTISE_KEYS,
        None,
        Kind.ADVERTISE_KEYS,
        ClientStage.READY,
        ClientStage.AWAITING_ROSTER,
        ServerStage.COLLECTING_KEYS,
        ServerStage.COLLECTING_SHARES,
    ),
    Exchange(
        Phase.SHARE_KEYS,
        Kind.ROSTER,
        Kind.SHARE_KEYS,
        ClientStage.AWAITING_ROSTER,
        ClientStage.AWAITING_SHARES,
        ServerStage.COLLECTING_SHARES,
        ServerStage.COLLECTING_INPUTS,
    ),
    Exchange(
        Phase.MASKED_INPUT,
        Kind.SHARE_DELIVERY,
        Kind.MASKED_INPUT,
        ClientStage.AWAITING_SHARES,
        ClientStage.AWAITING_SURVIVORS,
        ServerStage.COLLECTING_INPUTS,
        ServerStage.COLLECTING_SIGNATURES,
    ),
    Exchange(
        Phase.CONSISTENCY_CHECK,
        Kind.SURVIVORS,
        Kind.CONSISTENCY_CHECK,
        ClientStage.AWAITING_SURVIVORS,
        ClientStage.AWAITING_SIGNATURES,
        ServerStage.COLLECTING_SIGNATURES,
        ServerStage.COLLECTING_REVEALS,
    ),
    Exchange(
        Phase.UNMASK,
        Kind.UNMASK_REQUEST,
        Kind.UNMASK,
        ClientStage.AWAITING_SIGNATURES,
        ClientStage.DONE,
        ServerStage.COLLECTING_REVEALS,
        ServerStage.FINISHED,
    ),
)

PHASES: Final[tuple[Phase, ...]] = tuple(exchange.phase for exchange in EXCHANGES)


def client_exchange(stage: ClientStage) -> Exchange | None:
    """The exchange a client in `stage` answers next; None when it is done or failed."""
    return next((row for row in EXCHANGES if row.client_before is stage), None)


def server_exchange(stage: ServerStage) -> Exchange | None:
    """The exchange whose replies a server in `stage` collects; None when it is over."""
    return next((row for row in EXCHANGES if row.server_before is stage), None)


def diagram() -> str:
    """The table as a Mermaid state diagram; docs/SPEC.md holds exactly this text."""
    lines = ["stateDiagram-v2", "  state Client {", f"    [*] --> {EXCHANGES[0].client_before}"]
    for row in EXCHANGES:
        heard = "start" if row.request is None else row.request.name
        lines.append(f"    {row.client_before} --> {row.client_after}: {heard} / {row.reply.name}")
        if row.request is not None:
            lines.append(f"    {row.client_before} --> {ClientStage.FAILED}: any violation")
    lines += ["  }", "  state Server {", f"    [*] --> {EXCHANGES[0].server_before}"]
    for row in EXCHANGES:
        lines += [
            f"    {row.server_before} --> {row.server_after}: close {row.phase}",
            f"    {row.server_before} --> {ServerStage.ABORTED}: too few {row.reply.name}",
        ]
    return "\n".join([*lines, "  }"])
