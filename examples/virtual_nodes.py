"""Many Flower nodes in one process: Flower's simulation engine over its link state, without Ray.

Messages take the path of a real SuperLink with a database: the ServerApp's grid writes them to
Flower's tables, the engine claims them for a node, the ClientApp answers, and its reply is written,
claimed and verified likewise. Only HTTP and the process per message are missing. The engine is
`run_api` of Flower's simulation runtime; Ray, its usual backend, is replaced by a call in a thread.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import HEARTBEAT_INTERVAL_INF, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.compat.client.run_info_store import DeprecatedRunInfoStore
from flwr.server.superlink.fleet.vce.backend import Backend
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.server.superlink.fleet.vce.vce_api import run_api
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from privfed_dpo.wire.flower.client_app import SOCKET_KEY, app

Vanishes = Callable[[int, Message], bool]
"""Whether the client with this number, asked this message, goes away instead of answering."""


class CallBackend(Backend):
    """Runs the ClientApp in the engine's own worker threads.

    Args:
        vanishes: see `Vanishes`; None answers everything.
        clients: client number by node id.
        state: where a node that goes away is marked as gone.
        workers: nodes that answer at the same time.
    """

    def __init__(
        self,
        vanishes: Vanishes | None,
        clients: Mapping[int, int],
        state: LinkState,
        workers: int,
    ) -> None:
        super().__init__({})
        self._workers = workers
        self._vanishes, self._clients, self._state = vanishes, clients, state
        self._app_fn: Callable[[], ClientApp] | None = None

    @property
    def num_workers(self) -> int:
        return self._workers

    def build(self, app_fn: Callable[[], ClientApp]) -> None:
        self._app_fn = app_fn

    def is_worker_idle(self) -> bool:
        return True

    def terminate(self) -> None:
        """Nothing runs but the engine's threads."""

    def process_message(self, message: Message, context: Context) -> tuple[Any, Context]:
        """Answer, or leave: a node that leaves is offline at once and says nothing."""
        node = message.metadata.dst_node_id
        if self._vanishes is not None and self._vanishes(self._clients[node], message):
            self._state.deactivate_node(node)
            return None, context
        return app(message, context), context


@dataclass(frozen=True)
class VirtualNodes:
    """A running engine.

    Attributes:
        grid: what Flower gives to a ServerApp.
        nodes: node id by client number.
        state: Flower's link state.
    """

    grid: InMemoryGrid
    nodes: dict[int, int]
    state: LinkState

    def address(self, number: int) -> str:
        """How the relay names the node of a client."""
        return str(self.nodes[number])

    def bring_back(self) -> None:
        """Start again whoever went away; nothing happens to the others."""
        for node in self.nodes.values():
            self.state.activate_node(node, HEARTBEAT_INTERVAL_INF)


@contextlib.contextmanager
def virtual_nodes(
    sockets: Mapping[int, Path], vanishes: Vanishes | None = None, workers: int = 4
) -> Iterator[VirtualNodes]:
    """Run one node for each client's socket until the block is left.

    Args:
        sockets: where the client processes listen, by client number.
        vanishes: simulated losses.
        workers: nodes that answer at the same time.
    """
    with tempfile.TemporaryDirectory() as folder:
        database = str(Path(folder) / "link-state.db")
        factory = LinkStateFactory(database, NoOpFederationManager(), ObjectStoreFactory(database))
        state = factory.state()
        run_id = state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP
        )
        (run,) = state.get_run_info(run_ids=[run_id])
        TaskIdentity.run_id = run_id
        TaskIdentity.node_id = TaskIdentity.task_id = 1
        nodes = {number: _registered(state) for number in sockets}
        clients = {node: number for number, node in nodes.items()}
        grid = InMemoryGrid(state_factory=factory)
        grid.set_run(run)
        stop = threading.Event()
        backend = CallBackend(vanishes, clients, state, workers)
        engine = threading.Thread(
            target=run_api,
            args=(lambda: app, lambda: backend, clients, factory,
                  _contexts(run_id, nodes, sockets), stop, VceMetrics()),
            daemon=True,
        )  # fmt: skip
        engine.start()
        try:
            yield VirtualNodes(grid, nodes, state)
        finally:
            stop.set()
            engine.join()


def _registered(state: LinkState) -> int:
    node: int = state.create_node(
        NOOP_FLWR_AID,
        NOOP_ACCOUNT_NAME,
        secrets.token_bytes(32),
        heartbeat_interval=HEARTBEAT_INTERVAL_INF,
    )
    state.activate_node(node, HEARTBEAT_INTERVAL_INF)
    return node


def _contexts(
    run_id: int, nodes: Mapping[int, int], sockets: Mapping[int, Path]
) -> dict[int, DeprecatedRunInfoStore]:
    """What each node knows: the socket of its client."""
    stores = {}
    for number, node in nodes.items():
        stores[node] = DeprecatedRunInfoStore(node, {SOCKET_KEY: str(sockets[number])})
        stores[node].register_context(run_id=run_id)
    return stores
