"""What a simulated federation costs by clients and by cohort: `python -m benchmarks.clients`.

Every point is a process of its own (a fork of one that has loaded everything and holds nothing),
with the product's engine, ledger, messages and secure sums. Only the model is replaced, by one that
costs nothing, so that what is left is the federation's. Memory is the highest resident size during
training above that before any client existed; pairs are counted apart. CPU is `time.process_time`.
`--write` writes the report, `--quick` shrinks everything to see that the file still runs.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from accounting import Adjacency, Ledger, LedgerHeader, PrivacyUnit
from privfed_dpo.config import parse_config
from privfed_dpo.data.tokenize import TokenizedPair, pair_key
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.client import FederatedClient
from privfed_dpo.engine.contribution import Contributor, PrivateShard
from privfed_dpo.engine.federated import FederatedTraining
from privfed_dpo.engine.gossip import GossipTraining
from privfed_dpo.engine.gossip_round import no_message_lost
from privfed_dpo.engine.node import GossipNode
from privfed_dpo.engine.node_state import NodeState, pack_states
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.engine.public_facts import PublicFacts
from privfed_dpo.mechanism.clip import ClippedSum, PairClipper
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.server_update import ServerState, ServerUpdate
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import LoopbackCarrier
from secure_agg import IdentityKey

LAW = """
With a server, memory does not depend on how many clients there are: there is one model, a
client that is not in the round holds its pairs, its key and a few numbers, and adapters pass
through. The cost of a round follows the cohort. Below 64 clients everybody is everybody's
neighbour in the secure sum, so that masks and shares grow with the square; larger cohorts take
a sparse graph, whose costs are in secure_agg.md.

Without a server every node has an adapter of its own and takes part in every round: CPU time is
linear in the nodes, and so is memory. At its peak the simulation holds, for every node, its
adapter and those on their way to and from neighbours: about 17 integer vectors (8 d bytes each)
on a ring, 28 on a torus. So 1,000 nodes are simulated with small adapters only. A deployed node
holds its own only.
"""

REPORT = Path(__file__).with_suffix(".md")
RUN_ID = b"benchmark-of-run"
PAIRS = 20
_MMAP_THRESHOLD = -3

_SERVER = """
privacy: {{noise_multiplier: 1.0, sample_rate: 0.5, dropout_tolerance: 2, colluders: 1}}
federation: {{rounds: {rounds}, cohort: {cohort}}}
"""
_GRAPH = """
privacy: {{mode: gossip, noise_multiplier: 1.0, sample_rate: 0.5}}
secure_agg: {{enabled: false}}
federation: {{rounds: {rounds}}}
gossip: {{topology: {topology}}}
"""


@dataclass(frozen=True)
class Point:
    """What one process runs.

    Attributes:
        topology: a graph without a server, or `server`.
        clients: all of them.
        cohort: those of a round; all on a graph.
        rounds: how many.
        dimension: weights of the adapter.
    """

    topology: str
    clients: int
    cohort: int
    rounds: int
    dimension: int


@dataclass(frozen=True)
class Figures:
    """What it cost.

    Attributes:
        pair_bytes: pairs of all clients.
        client_bytes: all clients, before the first round.
        peak_bytes: the most during training, pairs left out and clients included.
        setup_seconds: CPU time to make all clients.
        round_seconds: CPU time of a round.
    """

    pair_bytes: int
    client_bytes: int
    peak_bytes: int
    setup_seconds: float
    round_seconds: float


class FreeGradients:
    """A model that costs nothing: every pair has the same gradient, longer than the bound."""

    def __init__(self, dimension: int) -> None:
        self._row = torch.from_numpy(np.random.default_rng(0).normal(size=dimension))

    def load(self, weights: np.ndarray) -> None:
        """There is nothing to load."""
        del weights

    def clipped_sum(
        self, pairs: Sequence[TokenizedPair], reference: np.ndarray, clipper: PairClipper
    ) -> ClippedSum:
        """The clipped gradient, as often as there are pairs."""
        del reference
        one = clipper.clip(self._row[None])
        return ClippedSum(one.total * len(pairs), pairs=len(pairs), non_finite=0)


def measure(point: Point, folder: Path) -> Figures:
    """Train in this process and say what it cost."""
    plan = plan_of(point)
    source = FreeGradients(point.dimension)
    before = resident_bytes()
    shards = [shard_of(client) for client in range(point.clients)]
    with_pairs = resident_bytes()
    started = time.process_time()
    script, carrier, clients = (with_server if point.topology == "server" else without_server)(
        plan, source, shards, folder
    )
    set_up = time.process_time()
    gc.collect()
    with_clients = resident_bytes()
    reset_peak()
    drive(script, carrier)
    ended = time.process_time()
    del clients
    return Figures(
        pair_bytes=with_pairs - before,
        client_bytes=with_clients - with_pairs,
        peak_bytes=peak_bytes() - with_pairs,
        setup_seconds=set_up - started,
        round_seconds=(ended - set_up) / point.rounds,
    )


def plan_of(point: Point) -> RunPlan:
    text = _SERVER if point.topology == "server" else _GRAPH
    config = parse_config(text.format(**asdict(point)), [f"data.clients={point.clients}"])
    facts = PublicFacts(
        client_names=tuple(f"client-{number:05d}" for number in range(point.clients)),
        client_pairs=(PAIRS,) * point.clients,
        dimension=point.dimension,
        model_fingerprint="free",
        model_bytes=0,
    )
    return make_plan(config, facts)


def shard_of(client: int) -> PrivateShard:
    tokens = [((client + 1,), (place + 1,), (place + 2,)) for place in range(PAIRS)]
    pairs = tuple(TokenizedPair(*ids, key=pair_key(*ids)) for ids in tokens)
    return PrivateShard(pairs, np.zeros((PAIRS, 2), dtype=np.float32))


def contributors(plan, source, shards):
    return [
        Contributor(plan, number, shard, source, StreamIssuer(os.urandom))
        for number, shard in enumerate(shards)
    ]


def with_server(plan, source, shards, folder):
    coordinator = IdentityKey.generate(os.urandom)
    identities = [IdentityKey.generate(os.urandom) for _ in shards]
    roster = {number: identity.public for number, identity in enumerate(identities)}
    clients = [
        FederatedClient(
            contributor=contributor,
            run_id=RUN_ID,
            identity=identity,
            roster=roster,
            coordinator=coordinator.public,
            entropy=os.urandom,
        )
        for contributor, identity in zip(
            contributors(plan, source, shards), identities, strict=True
        )
    ]
    training = FederatedTraining(
        plan=plan,
        run_id=RUN_ID,
        roster=roster,
        ledger=ledger_of(plan, folder),
        sign=coordinator.sign,
        update=ServerUpdate(kind="sgd", learning_rate=1.0, momentum=0.9),
        measure=lambda _: {},
        measure_every=plan.rounds,
        seed=0,
        save=lambda _: None,
        observer=lambda _: None,
        clock=time.monotonic,
    )
    handlers = {client.number: client.handle for client in clients}
    return training.script(start_of(plan)), LoopbackCarrier(handlers), clients


def without_server(plan, source, shards, folder):
    identities = [IdentityKey.generate(os.urandom) for _ in shards]
    roster = {number: identity.public for number, identity in enumerate(identities)}
    origin = np.zeros(plan.facts.dimension, dtype=np.float32)
    nodes = [
        GossipNode(
            contributor=contributor,
            gossip=plan.gossip,
            run_id=RUN_ID,
            identity=identity,
            roster=roster,
            state=NodeState.start(origin, plan.grid().steps_per_unit),
        )
        for contributor, identity in zip(
            contributors(plan, source, shards), identities, strict=True
        )
    ]
    training = GossipTraining(
        plan=plan,
        gossip=plan.gossip,
        run_id=RUN_ID,
        ledger=ledger_of(plan, folder),
        measure=lambda _: {},
        measure_nodes=lambda _: {},
        measure_every=plan.rounds,
        snapshot=lambda: pack_states([node.state for node in nodes]),
        save=lambda _: None,
        observer=lambda _: None,
        clock=time.monotonic,
        lost=no_message_lost,
    )
    start = start_of(plan, pack_states([node.state for node in nodes]))
    carrier = LoopbackCarrier({node.number: node.handle for node in nodes})
    return training.script(start), carrier, nodes


def start_of(plan: RunPlan, nodes=None) -> Checkpoint:
    state = ServerState.start(np.zeros(plan.facts.dimension, dtype=np.float32))
    return Checkpoint(0, state, (), plan.plan_hash, "free", 0.0, nodes=nodes)


def ledger_of(plan: RunPlan, folder: Path) -> Ledger:
    header = LedgerHeader(
        run_id=RUN_ID.hex(),
        plan_hash=plan.plan_hash,
        config_hash="free",
        unit=PrivacyUnit.PAIR,
        adjacency=Adjacency.ZERO_OUT,
        budget=plan.budget,
        schedule=plan.schedule,
        clients=len(plan.facts.client_names),
    )
    return Ledger.create(folder / "ledger.jsonl", header)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"this system does not report {field}")


def resident_bytes() -> int:
    return _status("VmRSS")


def peak_bytes() -> int:
    return _status("VmHWM")


def reset_peak() -> None:
    """Let the system count the highest resident size anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measured(point: Point) -> Figures:
    """Run a point in a process of its own."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_run, args=(point, theirs))
    child.start()
    theirs.close()
    found: Figures = ours.recv()
    child.join()
    return found


def _run(point: Point, pipe) -> None:
    # Freed memory goes back at once, or peaks would also count what is no longer used.
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 16)
    with tempfile.TemporaryDirectory() as folder:
        pipe.send(measure(point, Path(folder)))


def table(points: Sequence[Point], varied: str) -> list[str]:
    """Rows with ratios to the first point."""
    names = ("pairs", "clients made", "peak beyond pairs", "a client more", "making them, CPU")
    names = (varied, *names, "a round, CPU", "to the first")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    first: Figures | None = None
    for point in points:
        found = measured(point)
        first = first or found
        cells = (
            f"{getattr(point, varied):,}",
            f"{found.pair_bytes / 2**20:.1f} MiB",
            f"{found.client_bytes / 2**20:.1f} MiB",
            f"{found.peak_bytes / 2**20:.1f} MiB",
            more_bytes(point, found, points[0], first),
            f"{found.setup_seconds:.2f} s",
            f"{found.round_seconds:.3f} s",
            f"{found.round_seconds / first.round_seconds:.2f} x",
        )
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def more_bytes(point: Point, found: Figures, first: Point, least: Figures) -> str:
    """By how much the peak grew for every client more than at the first point."""
    more = point.clients - first.clients
    return f"{(found.peak_bytes - least.peak_bytes) / more / 1024:.1f} KiB" if more else "-"


def report(*, quick: bool) -> str:
    """Run every point and lay out the tables."""
    clients, cohort = ((10, 30), 10) if quick else ((10, 100, 1000), 10)
    dimension, rounds = (2_000, 3) if quick else (20_000, 30)
    lines = [
        f"FedDPO, secure aggregation, cohorts of {cohort}, {rounds} rounds, d = {dimension:,}:",
        "",
        *table([Point("server", n, cohort, rounds, dimension) for n in clients], "clients"),
    ]
    cohorts, of = ((10, 20), 30) if quick else ((10, 20, 40, 80, 160), 1000)
    rounds = 2 if quick else 5
    lines += [
        f"The same by cohort, {of:,} clients, {rounds} rounds:",
        "",
        *table([Point("server", of, s, rounds, dimension) for s in cohorts], "cohort"),
    ]
    rounds = 2
    for topology in ("ring", "torus"):
        nodes = (9, 25) if quick else (16, 64, 256)
        lines += [
            f"DecDPO on a {topology}, {rounds} rounds; every node holds an adapter and takes part:",
            "",
            *table([Point(topology, n, n, rounds, dimension) for n in nodes], "clients"),
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    options = parser.parse_args()
    text = report(quick=options.quick)
    where = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    if options.write:
        command = "OMP_NUM_THREADS=1 python -m benchmarks.clients --write"
        head = f"# What a simulated federation costs\n\n`{command}`\n\n{where}"
        load = os.getloadavg()[0]
        REPORT.write_text(
            f"{head}. Load when it ended: {load:.1f}.\n\n{text}{LAW}", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
