"""A small deployment on this machine: a folder for each party, and one with what is public."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from privfed_dpo.config import load_config, parse_config
from privfed_dpo.config.client_policy import load_policy
from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.synthetic import synthetic_task
from privfed_dpo.deployment.client_process import enrol_client
from privfed_dpo.deployment.coordinator import enrol_coordinator
from privfed_dpo.policy import load_base

CLIENTS, PAIRS = 4, 12

SERVER = """
run: {threads: 1}
data: {eval: EVAL}
model: {base: BASE, adapter: {rank: 2}}
dpo: {beta: 0.5}
privacy:
  target_epsilon: 8
  sample_rate: 0.3
  dropout_tolerance: 1
federation: {rounds: 3, learning_rate: 0.005}
evaluation: {pairs: 24, gradient_pairs: 12}
deployment:
  phase_seconds: 20
  join_seconds: 20
  patience_seconds: 60
"""


@dataclass(frozen=True)
class Deployment:
    """Where everything is."""

    folder: Path
    config: Path
    policies: dict[str, Path]

    @property
    def sockets(self) -> dict[str, Path]:
        """Each client's local socket, by name."""
        return {name: Path(load_policy(path).socket) for name, path in self.policies.items()}

    @property
    def server_socket(self) -> Path:
        """The coordinator's local socket."""
        return Path(load_config(self.config).deployment.socket)


def deploy(
    folder: Path,
    *overrides: str,
    clients: int = CLIENTS,
    max_epsilon: float = 10.0,
) -> Deployment:
    """Write data, base model, policies, roster and config; make all keys."""
    task = synthetic_task(clients=clients, pairs_per_client=PAIRS, eval_pairs=24, seed=0)
    public = folder / "public"
    public.mkdir(parents=True)
    tiny = ["model.warmup_steps=20", "model.warmup_batch=16", f"run.cache_dir={folder / 'cache'}"]
    load_base(
        parse_config("privacy: {mode: none}\ndata: {clients: 1}", tiny), task, public / "base"
    )
    write_pairs(public / "held_out.jsonl", task.evaluation)
    policies, lines = {}, {}
    for user in sorted({pair.user for pair in task.train}):
        home = folder / user
        home.mkdir()
        write_pairs(home / "pairs.jsonl", [pair for pair in task.train if pair.user == user])
        policies[user] = home / "policy.yaml"
        rules = {
            "name": user,
            "data": "pairs.jsonl",
            "roster": "../public/roster.yaml",
            "model": "../public/base",
            "threads": 1,
            "cache_dir": "cache",
            "limits": {"max_epsilon": max_epsilon},
        }
        policies[user].write_text(yaml.safe_dump(rules))
        lines[user] = enrol_client(load_policy(policies[user]))
    server = folder / "server"
    server.mkdir()
    settings = parse_config(
        SERVER.replace("EVAL", str(public / "held_out.jsonl")).replace(
            "BASE", str(public / "base")
        ),
        [
            f"run.dir={server / 'run'}",
            f"run.cache_dir={server / 'cache'}",
            f"deployment.roster={public / 'roster.yaml'}",
            f"deployment.identity={server / 'coordinator.key'}",
            f"deployment.socket={server / 'coordinator.sock'}",
            *overrides,
        ],
    )
    roster = {"coordinator": enrol_coordinator(settings), "clients": lines}
    (public / "roster.yaml").write_text(yaml.safe_dump(roster))
    config = server / "config.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return Deployment(folder, config, policies)


def write_pairs(path: Path, pairs: Sequence[PreferencePair]) -> None:
    """Write pairs as JSON lines."""
    rows = [
        {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "user": p.user}
        for p in pairs
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
