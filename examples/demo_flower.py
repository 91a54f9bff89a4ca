"""`make demo-flower`: a whole deployment on Flower, on this machine, with nodes that get killed.

One SuperLink with TLS, five SuperNodes with registered keys, five client processes with a folder
each, one coordinator. Two nodes that do not belong here are refused. A node is killed in the middle
of ShareKeys, another in the middle of Unmask, and the first is started again. At the end no process
of all these is left.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.flower_processes import (
    PRIVFED,
    START_SECONDS,
    Cast,
    choose_address,
    register_node,
    start_relay,
    start_superlink,
    start_supernode,
    turn_away_a_stranger,
    turn_away_who_trusts_another,
    wait_for,
)
from examples.parties import Deployment, deploy

CLIENTS, ROUNDS = 5, 5
SETTINGS = (
    f"federation.rounds={ROUNDS}",
    "privacy.dropout_tolerance=2",
    "deployment.phase_seconds=120",
    "deployment.training_seconds=180",
    "deployment.join_seconds=15",
    "deployment.patience_seconds=240",
)
RUN_SECONDS = 1500


def follow(path: Path, process: subprocess.Popen[bytes]) -> Iterator[dict[str, object]]:
    """Yield the lines of a log as they come, until its writer ends."""
    wait_for("the coordinator's log", lambda: path.exists() or process.poll() is not None, 300)
    until, place = time.monotonic() + RUN_SECONDS, 0
    if not path.exists():
        return
    while time.monotonic() < until:
        ended = process.poll() is not None
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for line in lines[place:]:
            if line.endswith("\n"):
                place += 1
                yield json.loads(line)
        if ended:
            return
        time.sleep(0.1)
    raise SystemExit(f"the run did not end in {RUN_SECONDS} s")


def told(line: Mapping[str, object], names: list[str]) -> str:
    """One line of the coordinator's log, for people."""

    def client() -> str:
        number = line["client"]
        return names[number] if isinstance(number, int) else str(number)

    match line["event"]:
        case "listening":
            text = f"the coordinator listens; plan {str(line['plan'])[:12]}"
        case "joined":
            text = f"{line['client']} joined"
        case "round started":
            text = f"round {line['round']}"
        case "phase closed":
            missing = f", {line['missing']} missing" if line["missing"] else ""
            text = f"  {line['phase']}: {line['answered']} answered{missing}"
        case "lost":
            text = f"  lost {client()} at {line['step']}: {line['reason']}"
        case "going on without":
            text = f"round {line['round']} goes on without {line['clients']}"
        case "round finished" if line["round"]:
            text = (
                f"  {line['status']}, {line['survivors']} in the sum, "
                f"epsilon {line['epsilon']:.3f}, {line['seconds']:.0f} s"
            )
        case event:
            facts = (f"{k}={v}" for k, v in line.items() if k not in {"time", "event"})
            text = " ".join((str(event), *facts))
    return f"{str(line['time'])[11:19]} {text}"


def play(cast: Cast, parties: Deployment, address: str) -> None:
    """Watch the run; send strangers, kill and start nodes when it reaches certain phases."""
    names = sorted(parties.policies)
    first, second = names[1], names[3]
    run = parties.config.parent / "run"
    for line in follow(run / "log.jsonl", cast.processes["server"]):
        print(told(line, names))
        closed = (line.get("round"), line.get("phase")) if line["event"] == "phase closed" else ()
        if closed == (1, "AdvertiseKeys"):
            print("*** a SuperNode with a key that nobody registered comes, and is refused:")
            print(f"***   {turn_away_a_stranger(cast, address)}")
            print("*** the SuperLink shows a SuperNode a certificate it does not trust; it leaves:")
            print(f"***   {turn_away_who_trusts_another(cast, address)}")
        if closed == (2, "AdvertiseKeys"):
            cast.kill(f"supernode-{first}")
            print(f"*** killed the SuperNode of {first} during ShareKeys of round 2")
        if closed == (3, "ConsistencyCheck"):
            cast.kill(f"supernode-{second}")
            print(f"*** killed the SuperNode of {second} during Unmask of round 3")
            start_supernode(cast, first, address, parties.sockets[first])
            print(f"*** started the SuperNode of {first} again")
    if cast.processes["server"].wait():
        raise SystemExit(cast.log("server").read_text())


def start_parties(cast: Cast, parties: Deployment) -> str:
    """Start clients, SuperLink and SuperNodes; returns the SuperLink's address."""
    for name, policy in parties.policies.items():
        cast.start(f"client-{name}", [*PRIVFED, "client", "--policy", str(policy)])
    address = choose_address(cast)
    start_superlink(cast, address)
    for name in parties.policies:
        register_node(cast, name)
        start_supernode(cast, name, address, parties.sockets[name])
    return address


def main(folder: Path) -> Path:
    """Run the demo in an empty folder; returns the run folder."""
    parties = deploy(folder, *SETTINGS, clients=CLIENTS)
    cast = Cast(folder)
    try:
        address = start_parties(cast, parties)
        cast.start("server", [*PRIVFED, "server", str(parties.config)])
        wait_for("the coordinator", parties.server_socket.exists, START_SECONDS)
        start_relay(cast, parties.server_socket)
        play(cast, parties, address)
    finally:
        cast.end()
    run = parties.config.parent / "run"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    epsilon = summary["epsilon"]["coalition"]["pld"]
    print(f"{summary['status']}; epsilon {epsilon:.4f}; run folder {run}")
    print(f"processes left behind: {len(cast.ours())}")
    return run


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="privfed-demo-")) / "parties")
