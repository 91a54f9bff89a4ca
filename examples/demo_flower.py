"""`make demo-flower`: a whole deployment on Flower, on this machine, with nodes that get killed.

One SuperLink with TLS, five SuperNodes with registered keys, five client processes with a folder
each, one coordinator. A node is killed in the middle of ShareKeys, another in the middle of Unmask,
and the first is started again. At the end no process of all these is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.certificates import write_certificates, write_node_key
from examples.parties import Deployment, deploy

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "privfed_dpo" / "wire" / "flower" / "app"
BIN = Path(sys.executable).parent
PRIVFED = [sys.executable, "-c", "from privfed_dpo.cli import main; main()"]
CLIENTS, ROUNDS = 5, 5
SETTINGS = (
    f"federation.rounds={ROUNDS}",
    "privacy.dropout_tolerance=2",
    "deployment.phase_seconds=40",
    "deployment.training_seconds=60",
    "deployment.join_seconds=15",
    "deployment.patience_seconds=240",
)
START_SECONDS, RUN_SECONDS = 180, 1500


class Cast:
    """All processes of the demo, each in a session of its own so that it dies whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            **os.environ,
            "FLWR_HOME": str(folder / "flower-home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, command: list[str]) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def alive(self, name: str) -> bool:
        return self.processes[name].poll() is None

    def end(self) -> None:
        for name in reversed(list(self.processes)):
            self.kill(name, signal.SIGTERM)
        for pid in self.ours():  # what a killed process left to itself
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for("the end of all processes", lambda: not self.ours(), 30)

    def ours(self) -> list[int]:
        """Every living process that was started with this demo's environment."""
        mark, found = f"FLWR_HOME={self.env['FLWR_HOME']}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found


def wait_for(what: str, ready: Callable[[], bool], seconds: float) -> None:
    """Return once it is ready; end the demo if it never is."""
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until:
            raise SystemExit(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.2)


def free_port() -> int:
    """A port nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_superlink(cast: Cast) -> str:
    """Start the SuperLink with TLS and node authentication; returns its address."""
    keys = cast.folder / "certificates"
    write_certificates(keys)
    address = f"127.0.0.1:{free_port()}"
    home = Path(cast.env["FLWR_HOME"])
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "demo"\n[superlink.demo]\naddress = "{address}"\n'
        f'root-certificates = "{keys / "ca.crt"}"\n'
    )
    host, port = address.split(":")
    cast.start(
        "superlink",
        [str(BIN / "flower-superlink"), "--ssl-ca-certfile", str(keys / "ca.crt"),
         "--ssl-certfile", str(keys / "server.pem"), "--ssl-keyfile", str(keys / "server.key"),
         "--enable-supernode-auth", "--host", host, "--port", port,
         "--database", str(cast.folder / "superlink.db")],
    )  # fmt: skip

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    wait_for("the SuperLink", listening, START_SECONDS)
    return address


def start_supernode(cast: Cast, name: str, address: str, client_socket: Path) -> None:
    """Start one SuperNode that knows nothing but its key and its client's socket."""
    cast.start(
        f"supernode-{name}",
        [str(BIN / "flower-supernode"),
         "--root-certificates", str(cast.folder / "certificates" / "ca.crt"),
         "--auth-supernode-private-key", str(cast.folder / name / "node.key"),
         "--superlink", address, "--host", "127.0.0.1", "--port", str(free_port()),
         "--node-config", f'privfed-socket="{client_socket}"'],
    )  # fmt: skip


def turn_away_a_stranger(cast: Cast, address: str) -> None:
    """Start a SuperNode whose key nobody registered, and see it refused."""
    write_node_key(cast.folder / "stranger" / "node.key")
    start_supernode(cast, "stranger", address, cast.folder / "nowhere.sock")
    name = "supernode-stranger"
    wait_for("the refusal of a stranger", lambda: not cast.alive(name), START_SECONDS)
    code = cast.processes[name].returncode
    if code == 0:
        raise SystemExit("a node that nobody registered was let in")
    cast.kill(name)
    print(f"*** a SuperNode with a key that nobody registered was refused (exit code {code})")


def follow(path: Path, process: subprocess.Popen[bytes]) -> Iterator[dict[str, object]]:
    """Yield the lines of a log as they come, until its writer ends."""
    wait_for("the coordinator's log", lambda: path.exists() or process.poll() is not None, 300)
    until, place = time.monotonic() + RUN_SECONDS, 0
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


def play(cast: Cast, parties: Deployment, address: str) -> None:
    """Watch the run; kill and start nodes when it reaches certain phases."""
    names = sorted(parties.policies)
    first, second = names[1], names[3]
    run = parties.config.parent / "run"
    for line in follow(run / "log.jsonl", cast.processes["server"]):
        facts = {key: value for key, value in line.items() if key not in {"time", "event"}}
        print(
            f"{str(line['time'])[11:19]} {line['event']}", *(f"{k}={v}" for k, v in facts.items())
        )
        closed = (line.get("round"), line.get("phase")) if line["event"] == "phase closed" else ()
        if closed == (2, "AdvertiseKeys"):
            cast.kill(f"supernode-{first}")
            print(f"*** killed the SuperNode of {first} during ShareKeys of round 2")
        if closed == (3, "ConsistencyCheck"):
            cast.kill(f"supernode-{second}")
            print(f"*** killed the SuperNode of {second} during Unmask of round 3")
            start_supernode(cast, first, address, parties.sockets[first])
            print(f"*** started the SuperNode of {first} again")
    if cast.processes["server"].wait():
        raise SystemExit((cast.folder / "server.log").read_text())


def main(folder: Path) -> Path:
    """Run the demo in an empty folder; returns the run folder."""
    parties = deploy(folder, *SETTINGS, clients=CLIENTS)
    cast = Cast(folder)
    try:
        for name, policy in parties.policies.items():
            cast.start(f"client-{name}", [*PRIVFED, "client", "--policy", str(policy)])
        address = start_superlink(cast)
        turn_away_a_stranger(cast, address)
        for name in parties.policies:
            write_node_key(folder / name / "node.key")
            cast.run([str(BIN / "flwr"), "supernode", "register",
                      str(folder / name / "node.key.pub"), "demo"])  # fmt: skip
            start_supernode(cast, name, address, parties.sockets[name])
        cast.start("server", [*PRIVFED, "server", str(parties.config)])
        wait_for("the coordinator", parties.server_socket.exists, START_SECONDS)
        setting = f'coordinator-socket="{parties.server_socket}"'
        cast.run([str(BIN / "flwr"), "run", str(APP), "demo", "--run-config", setting])
        play(cast, parties, address)
    finally:
        cast.end()
    run = parties.config.parent / "run"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    print(
        f"status {summary['status']}; epsilon {summary['epsilon']['coalition']}; run folder {run}"
    )
    print(f"processes left behind: {len(cast.ours())}")
    return run


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="privfed-demo-")) / "parties")
