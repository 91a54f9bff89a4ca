"""What a deployment on Flower costs: `python -m benchmarks.flower idle --write`, and `load`.

`idle`: a SuperLink with TLS, a few SuperNodes, clients and coordinator as processes of their own,
on a model so small that a round is nothing but its overhead. `load`: a hundred clients, each behind
a local socket; their nodes are virtual ones of Flower's simulation engine over Flower's link state
(`examples/virtual_nodes.py`), a fifth of them going away in each round at a random message; the
coordinator is `privfed-dpo server`, a process of its own, so that its memory is its own. All else
is read from the run folder. `--write` replaces the part's section of the report.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Message

from examples.demo_flower import follow, start_parties
from examples.flower_processes import PRIVFED, START_SECONDS, Cast, start_relay, wait_for
from examples.parties import Deployment, deploy
from examples.virtual_nodes import virtual_nodes
from privfed_dpo.config.client_policy import load_policy
from privfed_dpo.deployment.client_process import serve_client
from privfed_dpo.deployment.joining import is_offer
from privfed_dpo.engine.messages import decode_envelope
from privfed_dpo.wire.flower.records import from_records
from privfed_dpo.wire.flower.server_app import GridPost
from privfed_dpo.wire.loopback import Dropouts
from privfed_dpo.wire.relay import Relay

REPORT = Path(__file__).with_suffix(".md")
IDLE_SETTINGS = (
    "federation.rounds=4",
    "evaluation.curvature_products=0",
    "deployment.phase_seconds=120",
    "deployment.training_seconds=180",
    "deployment.patience_seconds=300",
)
LOAD_SETTINGS = (
    "privacy.target_epsilon=null",
    "privacy.noise_multiplier=1.0",
    "privacy.colluders=1",
    "evaluation.curvature_products=0",
    "deployment.phase_seconds=300",
    "deployment.training_seconds=1800",
    "deployment.join_seconds=30",
)
DROPOUT_RATE = 0.2
STEPS = ("Start", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")
WARM_UP_ROUNDS = 4
"""Rounds after which a process holds whatever it allocates once."""
LIBRARIES = ("flwr.clientapp", "privfed_dpo.wire.flower.client_app")


@dataclass
class Watched:
    """What is seen of a run from outside, by round."""

    coordinator_bytes: list[int] = field(default_factory=list)
    flower_bytes: list[int] = field(default_factory=list)


def resident_bytes(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def idle(clients: int) -> Iterator[str]:
    """Rounds over real processes."""
    with tempfile.TemporaryDirectory() as place:
        parties = deploy(Path(place) / "parties", *IDLE_SETTINGS, clients=clients)
        run = parties.config.parent / "run"
        cast = Cast(parties.folder)
        try:
            start_parties(cast, parties)
            cast.start("server", [*PRIVFED, "server", str(parties.config)])
            wait_for("the coordinator", parties.server_socket.exists, START_SECONDS)
            start_relay(cast, parties.server_socket)
            for _ in follow(run / "log.jsonl", cast.processes["server"]):
                pass
        finally:
            cast.end()
        yield f"{clients} SuperNodes, {clients} clients, TLS, all on this machine:\n"
        yield from table(run)
    yield ""
    for name in LIBRARIES:
        yield f"- `import {name}` in a fresh process: {import_seconds(name):.2f} s"


def import_seconds(name: str) -> float:
    """Best of five; Flower pays it for every message on every node."""
    program = f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", program]
    return min(
        float(subprocess.run(command, capture_output=True, check=True).stdout)  # noqa: S603
        for _ in range(5)
    )


def load(clients: int, rounds: int) -> Iterator[str]:
    """A hundred clients, a fifth of them lost in each round."""
    with tempfile.TemporaryDirectory() as place:
        settings = (
            *LOAD_SETTINGS,
            f"federation.rounds={rounds}",
            f"privacy.dropout_tolerance={2 * clients // 5}",
        )
        parties = deploy(Path(place) / "parties", *settings, clients=clients, max_epsilon=10_000.0)
        watched = play(parties)
        run = parties.config.parent / "run"
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        statuses = [row["status"] for row in rows[1:]]
        vanished = [sum(row["dropped"].values()) for row in rows[1:]]
        yield f"{clients} clients, {rounds} rounds, {DROPOUT_RATE:.0%} lost at a random message:\n"
        yield from table(run)
        yield ""
        yield f"- rounds released: {statuses.count('released')} of {len(statuses)}"
        few, many = min(vanished), max(vanished)
        yield f"- clients lost in a round: {np.mean(vanished):.1f} ({few} to {many})"
        yield from memory("the coordinator", watched.coordinator_bytes)
        yield from memory(f"relay and Flower's link state, {clients} nodes", watched.flower_bytes)


def memory(what: str, resident: Sequence[int]) -> Iterator[str]:
    settled = resident[min(WARM_UP_ROUNDS, len(resident) - 1)]
    yield (
        f"- resident memory of {what}: {resident[0] / 2**20:.0f} MiB after round 1, "
        f"{settled / 2**20:.0f} after round {min(WARM_UP_ROUNDS + 1, len(resident))}, "
        f"{resident[-1] / 2**20:.0f} after the last"
    )


def play(parties: Deployment) -> Watched:
    """Run coordinator, clients and nodes to the run's end."""
    names = sorted(parties.policies)
    losses = Dropouts(DROPOUT_RATE, seed=5)

    def goes_away(client: int, message: Message) -> bool:
        data = from_records(message.content)
        if is_offer(data):
            return False
        envelope = decode_envelope(data)
        return losses.vanished(envelope.round, client, envelope.step)

    everybody = multiprocessing.get_context("spawn").Process(
        target=serve_clients, args=([parties.policies[name] for name in names],), daemon=True
    )
    everybody.start()
    watched, run = Watched(), parties.config.parent / "run"
    sockets = {number: parties.sockets[name] for number, name in enumerate(names)}
    wait_for("the clients", lambda: all(path.exists() for path in sockets.values()), 1200)
    log = (parties.folder / "server.log").open("wb")
    command = [*PRIVFED, "server", str(parties.config)]
    server = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603
    try:
        with virtual_nodes(sockets, goes_away, workers=1) as flower:
            relay = Relay(GridPost(flower.grid), parties.server_socket)
            threading.Thread(target=relay.run, daemon=True).start()
            for line in follow(run / "log.jsonl", server):
                if line["event"] == "round finished" and line["round"]:
                    flower.bring_back()
                    watched.coordinator_bytes.append(resident_bytes(server.pid))
                    watched.flower_bytes.append(resident_bytes())
                    print(line["round"], line["status"], f"{line['seconds']:.1f} s", flush=True)
        if server.wait():
            raise SystemExit((parties.folder / "server.log").read_text())
    finally:
        server.kill()
        everybody.kill()
        log.close()
    return watched


def serve_clients(policies: Sequence[Path]) -> None:
    """All clients in one process; the engine asks them one at a time, as model libraries want."""

    def journal(event: str, **facts: object) -> None:
        del event, facts

    for path in policies:
        arguments = {"policy": load_policy(path), "journal": journal}
        threading.Thread(target=serve_client, kwargs=arguments, daemon=True).start()
    threading.Event().wait()


def table(run: Path) -> Iterator[str]:
    """Seconds and bytes by step, from `traffic.jsonl`."""
    lines = [json.loads(line) for line in (run / "traffic.jsonl").read_text().splitlines()]
    answered = [line for line in lines if line["round"] and not line["lost"]]
    yield "| step | answers | a message, median | slowest | phase, mean | to a client | from it |"
    yield "|---|---|---|---|---|---|---|"
    whole = 0.0
    for step in STEPS:
        here = [line for line in answered if line["step"] == step]
        by_round = defaultdict(list)
        for line in here:
            by_round[line["round"]].append(line["seconds"])
        phase = float(np.mean([max(seconds) for seconds in by_round.values()]))
        whole += phase
        seconds = [line["seconds"] for line in here]
        sent, received = (
            np.mean([line[name] for line in here]) for name in ("sent_bytes", "received_bytes")
        )
        yield (
            f"| {step} | {len(here)} | {np.median(seconds):.2f} s | {max(seconds):.2f} s "
            f"| {phase:.2f} s | {sent / 1e3:,.1f} kB | {received / 1e3:,.1f} kB |"
        )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows if row["round"]]
    yield (
        f"\nThe phases of a round: {whole:.1f} s (mean). A round: {np.median(seconds):.1f} s "
        f"(median), the first {seconds[0]:.1f} s, the slowest {max(seconds):.1f} s."
    )


def write(part: str, text: str) -> None:
    """Replace one part of the report."""
    marks = f"<!-- {part} -->", f"<!-- end of {part} -->"
    before, rest = REPORT.read_text().split(marks[0])
    _, after = rest.split(marks[1])
    REPORT.write_text(f"{before}{marks[0]}\n{text}{marks[1]}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("idle", "load"))
    parser.add_argument("--clients", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="into the report beside this file")
    asked = parser.parse_args()
    started, before = time.monotonic(), os.getloadavg()[0]
    if asked.part == "idle":
        lines = list(idle(asked.clients or 3))
    else:
        lines = list(load(asked.clients or 100, asked.rounds))
    now, _, earlier = os.getloadavg()
    where = (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}. The "
        f"machine's load: {before:.1f} before, {now:.1f} after, {earlier:.1f} over the last 15 "
        f"minutes; it took {time.monotonic() - started:.0f} s in all."
    )
    text = "\n".join([where, "", *lines, ""])
    print(text)
    if asked.write:
        write(asked.part, text)


if __name__ == "__main__":
    main()
