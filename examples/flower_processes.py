"""Flower's processes on this machine: one SuperLink with TLS, SuperNodes, runs; and their end.

Everything is started with one environment and can be found by it, so that nothing stays behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from examples.certificates import write_certificates, write_node_key

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "privfed_dpo" / "wire" / "flower" / "app"
BIN = Path(sys.executable).parent
PRIVFED = [sys.executable, "-c", "from privfed_dpo.cli import main; main()"]
START_SECONDS = 180


class Cast:
    """All processes of a deployment, each in a session of its own so that it dies whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            **os.environ,
            "FLWR_HOME": str(folder / "flower-home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str]) -> None:
        """Start a process that writes to a log of its name."""
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=log, start_new_session=True
            )

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self.folder / f"{name}.log"

    def run(self, command: list[str]) -> str:
        """Run a command to its end; its failure ends everything."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a process and all that it started."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def crash(self, name: str) -> None:
        """Kill one process; those it started are left to themselves."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def alive(self, name: str) -> bool:
        return self.processes[name].poll() is None

    def end(self) -> None:
        """End everything."""
        for name in reversed(list(self.processes)):
            self.kill(name, signal.SIGTERM)
        for pid in self.ours():  # what a killed process left to itself
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for("the end of all processes", lambda: not self.ours(), 30)

    def ours(self) -> list[int]:
        """Every living process that was started with this cast's environment."""
        mark, found = f"FLWR_HOME={self.env['FLWR_HOME']}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found


def wait_for(what: str, ready: Callable[[], bool], seconds: float) -> None:
    """Return once it is ready; end everything if it never is."""
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


def choose_address(cast: Cast) -> str:
    """Make certificates, and tell Flower's commands where the SuperLink will be."""
    keys = cast.folder / "certificates"
    write_certificates(keys)
    address = f"127.0.0.1:{free_port()}"
    home = Path(cast.env["FLWR_HOME"])
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "demo"\n[superlink.demo]\naddress = "{address}"\n'
        f'root-certificates = "{keys / "ca.crt"}"\n'
    )
    return address


def start_superlink(cast: Cast, address: str) -> None:
    """Start the SuperLink, with TLS and node authentication, and wait until it listens."""
    keys = cast.folder / "certificates"
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


def register_node(cast: Cast, name: str) -> None:
    """Make a SuperNode's key, and have the SuperLink know it."""
    write_node_key(cast.folder / name / "node.key")
    public = str(cast.folder / name / "node.key.pub")
    cast.run([str(BIN / "flwr"), "supernode", "register", public, "demo"])


def start_supernode(
    cast: Cast, name: str, address: str, client_socket: Path, authority: Path | None = None
) -> None:
    """Start one SuperNode that knows nothing but its key and its client's socket.

    Args:
        cast: everybody.
        name: whose folder holds the key.
        address: the SuperLink's.
        client_socket: where the client process listens.
        authority: certificate that it trusts; by default the one of this deployment.
    """
    trusted = authority or cast.folder / "certificates" / "ca.crt"
    cast.start(
        f"supernode-{name}",
        [str(BIN / "flower-supernode"), "--root-certificates", str(trusted),
         "--auth-supernode-private-key", str(cast.folder / name / "node.key"),
         "--superlink", address, "--host", "127.0.0.1", "--port", str(free_port()),
         "--node-config", f'privfed-socket="{client_socket}"'],
    )  # fmt: skip


def start_relay(cast: Cast, coordinator: Path) -> None:
    """Have Flower run the relay; it waits for the coordinator at this socket."""
    setting = f'coordinator-socket="{coordinator}"'
    cast.run([str(BIN / "flwr"), "run", str(APP), "demo", "--run-config", setting])


def turn_away_a_stranger(cast: Cast, address: str) -> str:
    """Start a SuperNode whose key nobody registered; returns how it was refused."""
    write_node_key(cast.folder / "stranger" / "node.key")
    start_supernode(cast, "stranger", address, cast.folder / "nowhere.sock")
    return _refusal(cast, "supernode-stranger", "Failed to activate SuperNode")


def turn_away_who_trusts_another(cast: Cast, address: str) -> str:
    """Start a SuperNode with a registered key for which the SuperLink shows a false certificate.

    Its owner trusts another authority, as whoever meets an impostor does. Returns how it ended.
    """
    write_certificates(cast.folder / "other-authority")
    register_node(cast, "mistrustful")
    other = cast.folder / "other-authority" / "ca.crt"
    start_supernode(cast, "mistrustful", address, cast.folder / "nowhere.sock", other)
    return _refusal(cast, "supernode-mistrustful", "CERTIFICATE_VERIFY_FAILED")


def _refusal(cast: Cast, name: str, word: str) -> str:
    wait_for(f"the end of {name}", lambda: not cast.alive(name), START_SECONDS)
    code = cast.processes[name].returncode
    cast.kill(name)
    said = [line for line in cast.log(name).read_text().splitlines() if word in line]
    if code == 0 or not said:
        raise SystemExit(f"{name} was let in, or ended for another reason than {word}")
    return said[-1]
