"""What secure aggregation costs: `OMP_NUM_THREADS=1 python -m benchmarks.secure_agg --write`.

Every figure is CPU time of one thread (`time.process_time`, best of several) unless it says wall;
every ratio comes from one process. The peer is Flower's SecAgg+ where `flwr` can be imported; its
column is missing where it cannot. `--quick` shrinks everything to see that the file still runs.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cryptography
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from benchmarks.secure_agg_peer import Peer, load_peer
from benchmarks.secure_agg_rounds import enrol
from secure_agg import ClientId, Neighbourhood, Phase, plan_neighbourhood, rehearse
from secure_agg.mask import CHUNK_BYTES, apply_masks
from secure_agg.packing import FieldLayout, choose_layout
from secure_agg.rotation import Rotation
from secure_agg.shamir import combine, split
from secure_agg.unmasking import recover

REPORT = Path(__file__).with_suffix(".md")

LAW = """
A client's cost is that of its vector, paid once, plus its neighbours'; and k stays below 20 log2 n
at every n, and follows it from about 3,000 clients on. Smaller cohorts get by with less than that
law: where all colluders together hold fewer shares than the threshold, no graph is unsafe for their
sake, so that k rises faster than log n up to the law, never above it. A complete graph would have
n - 1 neighbours."""


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    what: str
    figure: str
    target: str = ""
    met: bool | None = None

    def markdown(self) -> str:
        """The line as part of a table."""
        verdict = {None: "", True: "yes", False: "**no**"}[self.met]
        return f"| {self.what} | {self.figure} | {self.target} | {verdict} |"


def best(action: Callable[[], object], repeats: int = 5) -> float:
    """Least CPU seconds of several runs."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        seconds.append(time.process_time() - started)
    return min(seconds)


def raw_keystream_bytes_per_second(total_bytes: int) -> float:
    """AES-256-CTR `update_into` in chunks of 128 KiB: the most a mask can reach."""
    stream = Cipher(AES256(bytes(32)), CTR(bytes(16))).encryptor()
    zeros, target = bytes(CHUNK_BYTES), bytearray(CHUNK_BYTES)

    def run() -> None:
        for _ in range(total_bytes // CHUNK_BYTES):
            stream.update_into(zeros, target)

    return total_bytes / best(run)


def measure_masks(dimension: int, peer: Peer | None) -> list[Row]:
    neighbours = 50
    seeds = [os.urandom(32) for _ in range(neighbours)]
    limit = raw_keystream_bytes_per_second(64 << 20)
    rows = [Row("raw AES-256-CTR, 128 KiB at a time", f"{limit / 1e9:.2f} GB/s")]
    theirs = best(lambda: peer.one_mask(dimension), 3) if peer else None
    if theirs:
        rows.append(Row("peer: one mask made and added", f"{theirs * 1e3:.2f} ms"))
    cases = (
        ("4-byte words", np.uint32, dimension, 6.0),
        ("3 fields of 21 bits in 8 bytes", np.uint64, -(-dimension // 3), 9.0),
        ("2-byte words", np.uint16, dimension, 12.0),
    )
    for name, dtype, words, factor in cases:
        vector = np.zeros(words, dtype)
        mine = best(lambda v=vector: apply_masks(v, add=seeds[:25], subtract=seeds[25:]))
        rate = vector.nbytes * neighbours / mine
        rows.append(
            Row(
                f"{neighbours} masks, d = {dimension:,}, {name}",
                f"{mine / neighbours * 1e3:.3f} ms each, {rate / limit:.0%} of raw",
                ">= 65 %",
                rate / limit >= 0.65,
            )
        )
        if theirs:
            ratio = theirs / (mine / neighbours)
            rows.append(
                Row(f"the same against the peer, {name}", f"{ratio:.1f} x", f">= {factor:g} x",
                    ratio >= factor)
            )  # fmt: skip
    return rows


def measure_client(dimension: int, peer: Peer | None) -> list[Row]:
    """51 clients on the complete graph: 50 neighbours, threshold 34, one lost."""
    rows = []
    values = np.random.default_rng(0).normal(size=dimension).astype(np.float32)
    theirs = best(lambda: peer.client_step(values, 50), 4) if peer else None
    for levels, bits, factor in ((1 << 16, 32, 6.0), (656, 16, 6.0)):
        layout = choose_layout(
            dimension=dimension, low=0, high=levels - 1, clients=51, modulus_bits=bits
        )
        round_ = enrol(51, 34, layout.words, bits)
        round_.play(layout.pack(quantized(values, layout)), None, frozenset({7}))
        share = min(round_.seconds[Phase.SHARE_KEYS])
        step = min(round_.seconds[Phase.MASKED_INPUT])
        step += best(lambda w=layout: w.pack(quantized(values, w)))
        name = f"{bits // 8}-byte words"
        if bits == 32:
            rows.append(Row("ShareKeys of one client, k = 50, t = 34", f"{share * 1e3:.1f} ms",
                            "<= 10 ms", share <= 0.010))  # fmt: skip
        rows.append(Row(f"float32 to masked message, k = 50, {name}", f"{step * 1e3:.1f} ms"))
        if theirs:
            rows.append(Row(f"the same against the peer, {name}", f"{theirs / step:.1f} x",
                            f">= {factor:g} x", theirs / step >= factor))  # fmt: skip
    return rows


def quantized(values: np.ndarray, layout: FieldLayout) -> np.ndarray:
    scaled = values * np.float32(layout.high / 6)
    scaled += np.float32(layout.high / 2)
    np.rint(scaled, out=scaled)
    np.clip(scaled, 0, layout.high, out=scaled)
    return scaled.astype(np.int32)


def measure_server(dimension: int, peer: Peer | None) -> list[Row]:
    near = Neighbourhood(degree=50, share_threshold=34, signature_quorum=90, signature_checks=90)
    round_ = enrol(100, 90, dimension, 32, near)
    lost = frozenset(range(0, 100, 10))
    round_.play(np.arange(dimension, dtype=np.uint32), Phase.UNMASK, lost)
    for client, request in round_.requests.items():
        round_.server.receive(client, round_.clients[client].handle(request))
    state, admitted = round_.server._state, dict(round_.server._admitted)
    secrets = best(lambda: recover(state, admitted), 3)
    unmask = best(round_.server.close_phase, 1)
    expected = np.arange(dimension, dtype=np.uint32) * np.uint32(90)
    assert np.array_equal(round_.server.result.total, expected)
    rows = [
        Row("unmask, n = 100, k = 50, t = 34, 10 lost", f"{unmask:.2f} s", "<= 1.2 s",
            unmask <= 1.2),
        Row("of which restoring and checking secrets", f"{secrets / unmask:.0%}", "<= 15 %",
            secrets / unmask <= 0.15),
    ]  # fmt: skip
    shares = [
        dict(enumerate(split(os.urandom(32), holders=100, threshold=67, entropy=os.urandom), 1))
        for _ in range(100)
    ]
    restore = best(lambda: [combine(one, threshold=67) for one in shares], 3)
    rows.append(Row("restore 100 secrets, 67 of 100 shares", f"{restore * 1e3:.1f} ms", "<= 5 ms",
                    restore <= 0.005))  # fmt: skip
    if peer and peer.has_shamir:
        masks = 90 + sum(len(state.view.graph.neighbours(ClientId(c))) for c in lost)
        theirs = masks * best(lambda: peer.one_mask(dimension), 2)
        theirs += 90 * best(lambda: peer.restore(32, 34, 51), 1)
        theirs += 10 * best(lambda: peer.restore(306, 34, 51), 1)
        rows.append(Row("the same against the peer (its masks and secrets)",
                        f"{theirs / unmask:.0f} x", ">= 50 x", theirs / unmask >= 50))  # fmt: skip
    return rows


def measure_memory(dimension: int) -> list[Row]:
    rows = []
    for clients in (5, 15):
        round_ = enrol(clients, clients, dimension, 32)
        vector = np.zeros(dimension, np.uint32)
        round_.play(vector, Phase.MASKED_INPUT, frozenset())
        size = vector.nbytes
        reply = b""
        client_peak = server_peak = 0
        tracemalloc.start()
        for client, request in round_.requests.items():
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0] - len(reply)
            reply = b""
            reply = round_.clients[client].handle(request, vector=vector)
            client_peak = max(client_peak, tracemalloc.get_traced_memory()[1] - before)
            tracemalloc.reset_peak()
            held = tracemalloc.get_traced_memory()[0] - len(reply)
            round_.server.receive(client, reply)
            server_peak = max(server_peak, tracemalloc.get_traced_memory()[1] - held)
        tracemalloc.stop()
        # The running sum was allocated before tracing began.
        server = (server_peak + size) / size
        if clients == 15:
            rows.append(Row("client peak over the packed vector, message included",
                            f"{client_peak / size:.2f}", "<= 1.3", client_peak / size <= 1.3)
            )  # fmt: skip
        rows.append(Row(f"server peak in vectors, n = {clients}", f"{server:.2f}", "<= 3",
                        server <= 3))  # fmt: skip
    return rows


def measure_wire(dimension: int) -> list[Row]:
    rows = []
    for clients, levels, most in ((1000, 1 << 22, 4.0), (100, 20_972, 2.67), (100, 656, 2.0)):
        layout = choose_layout(dimension=dimension, low=0, high=levels - 1, clients=clients)
        round_ = enrol(3, 2, layout.words, layout.modulus_bits)
        words = layout.pack(np.zeros(dimension, np.int64))
        round_.play(words, Phase.MASKED_INPUT, frozenset())
        client, request = next(iter(round_.requests.items()))
        size = len(round_.clients[client].handle(request, vector=words)) / dimension
        rows.append(Row(f"message per coordinate, {levels:,} levels, n = {clients}",
                        f"{size:.3f} bytes", f"<= {most} (+ frame)", size <= most * 1.001)
        )  # fmt: skip
    return rows


def measure_rotation(bits: tuple[int, ...]) -> list[Row]:
    rows = []
    for block, most in zip(bits, (10.0, 12.0), strict=True):
        values = np.random.default_rng(0).normal(size=1 << block).astype(np.float32)
        rotation = Rotation(1 << block, block, b"bench")
        cost = best(lambda v=values, r=rotation: r.rotate(v), 3) / (1 << block) * 1e9
        rows.append(Row(f"rotate 2^{block} coordinates in one block", f"{cost:.1f} ns each",
                        f"<= {most:g} ns", cost <= most))  # fmt: skip
    return rows


def measure_threads(dimension: int) -> list[Row]:
    seeds = [os.urandom(32) for _ in range(50)]
    vector = np.zeros(dimension, np.uint32)
    wall = []
    for threads in (1, 2):
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            apply_masks(vector, add=seeds, threads=threads)
            seconds.append(time.perf_counter() - started)
        wall.append(min(seconds))
    ratio = wall[0] / wall[1]
    load = os.getloadavg()[0]
    return [Row(f"2 threads against 1, wall time, load {load:.1f}", f"{ratio:.2f} x",
                ">= 1.5 x when idle", ratio >= 1.5)]  # fmt: skip


def cost_table(sizes: tuple[int, ...], dimension: int) -> list[str]:
    lines = [
        f"\nWhole rounds, d = {dimension:,}, 4-byte words, 10 % lost, 5 % colluders:\n",
        "| n | k | k/log2 n | client CPU | /log2 n | sent | received | server | in sum | exact |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for clients in sizes:
        report = rehearse(
            clients=clients, dimension=dimension, dropout_share=0.1, clock=time.process_time
        )
        near = report.plan.neighbourhood
        each = sum(row.client_seconds / max(row.replies, 1) for row in report.phases)
        sent = sum(row.upload_bytes / max(row.replies, 1) for row in report.phases)
        received = sum(row.download_bytes / max(row.requests, 1) for row in report.phases)
        server = sum(row.server_seconds for row in report.phases)
        degree = near.degree if near else clients - 1
        doublings = math.log2(clients)
        lines.append(
            f"| {clients} | {degree} | {degree / doublings:.1f} "
            f"| {each * 1e3:.1f} ms | {each * 1e3 / doublings:.1f} ms "
            f"| {sent / 1e3:.0f} kB | {received / 1e3:.1f} kB | {server:.2f} s "
            f"| {report.survivors} | {report.exact} |"
        )
    return lines


def degree_table() -> list[str]:
    """How many neighbours the bounds ask for, far beyond what is rehearsed here."""
    degrees, rates = [], []
    for clients in (100, 300, 1000, 3000, 10_000, 16_000):
        plan = plan_neighbourhood(
            clients=clients, max_dropped=clients // 10, colluders=clients // 20
        )
        degree = plan.neighbourhood.degree if plan.neighbourhood else clients - 1
        degrees.append(f"{degree}")
        rates.append(f"{degree / math.log2(clients):.1f}")
    return [
        "\nNeighbours for the same shares, each bad event below 2^-40 after 2^40 tries:\n",
        "| n | 100 | 300 | 1,000 | 3,000 | 10,000 | 16,000 |",
        "|---|---|---|---|---|---|---|",
        f"| k | {' | '.join(degrees)} |",
        f"| k / log2 n | {' | '.join(rates)} |",
        LAW,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: does it still run?")
    parser.add_argument("--only", default="", help="one of masks, client, server, memory, ...")
    parser.add_argument("--write", action="store_true", help=f"record in {REPORT.name}")
    options = parser.parse_args()
    dimension = 20_000 if options.quick else 1_000_000
    peer = load_peer()
    blocks = (10, 12) if options.quick else (20, 23)
    parts: dict[str, Callable[[], list[Row]]] = {
        "masks": lambda: measure_masks(dimension, peer),
        "client": lambda: measure_client(dimension, peer),
        "server": lambda: measure_server(dimension, peer),
        "memory": lambda: measure_memory(dimension),
        "wire": lambda: measure_wire(dimension),
        "rotation": lambda: measure_rotation(blocks),
        "threads": lambda: measure_threads(10 * dimension),
    }
    rows = [row for name, part in parts.items() if options.only in name for row in part()]
    sizes, small = ((10, 70), 1000) if options.quick else ((10, 100, 1000, 3000), 100_000)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, numpy "
        f"{np.__version__}, cryptography {cryptography.__version__}; "
        f"peer: {peer.name if peer else 'not installed'}. Load when it ended: "
        f"{os.getloadavg()[1]:.1f}. CPU time of one thread, best of several runs; ratios within "
        "one process.\n"
    )
    lines = [
        "# What secure aggregation costs\n",
        "`OMP_NUM_THREADS=1 python -m benchmarks.secure_agg --write`\n",
        machine,
        "| what | measured | target | met |",
        "|---|---|---|---|",
        *(row.markdown() for row in rows),
        *(() if options.only else cost_table(sizes, small)),
        *(() if options.only else degree_table()),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        REPORT.write_text(text)


if __name__ == "__main__":
    main()
