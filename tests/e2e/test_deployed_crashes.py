"""Real processes, really killed: the coordinator in every phase and around every write, and clients.

The coordinator of one run lives sixteen times; fifteen lives end with SIGKILL. Two clients die in
the middle of a round and are started again. Then everything that is left behind is looked at, and
the run is compared with one that nobody killed.
"""

import contextlib
import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples.parties import Deployment, deploy
from privfed_dpo.config import load_config
from privfed_dpo.deployment.coordinator import resume_deployed, serve
from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.errors import ResumeMismatch
from privfed_dpo.observe.run_folder import read_rows
from privfed_dpo.verification import verify_run
from secure_agg import Phase
from tests.support.deployed import Stage
from tests.support.entropy import counted_entropy
from tests.support.no_reuse import drawn_twice, once_only, replies_of, secrets_of, seen_twice
from tests.support.real_processes import (
    ClientProcess,
    RecordingPost,
    died,
    relay_to,
    start_doomed,
    step_of,
)

pytestmark = pytest.mark.slow

START = "Start"
SHARE, MASKED, CHECK, UNMASK = (phase.value for phase in list(Phase)[1:])
LEDGER = "accounting.ledger:Ledger"

LIVES = [
    ["after", f"{LEDGER}.create", 1],
    (1, START),
    (2, SHARE),
    (3, MASKED),
    ["open", "metrics.jsonl", "a", 1],  # round 4 is in the checkpoint, its row is not written
    (5, CHECK),
    (6, UNMASK),
    ["torn", "spend"],  # of round 7, which is not booked by half a line
    ["before", f"{LEDGER}.outcome", 1],  # round 7: opened, and lost
    ["open", "state.npz.new", "", 2],  # round 8: recovery wrote one checkpoint before
    ["rename", "state.npz.new", 1],  # in the middle of recovery
    ["rename", "state.npz.new", 3],  # recovery, round 9, round 10
    ["before", f"{LEDGER}.close", 1],
    ["after", f"{LEDGER}.close", 1],
    ["rename", "summary.json.new", 1],
    None,
]
"""How each life of the coordinator ends: by itself, at a place in its code, or killed from outside
while the letters of a step are under way, whose answers then meet the next life."""

DIED_ENDING = (LIVES[-3], LIVES[-2])
ENDING = "the ledger is closed, but summary.json is missing"
"""What a stranger is told of a run that died after the last line of its ledger."""

DREW_NOTHING = (["rename", "state.npz.new", 1], *LIVES[-2:])
"""Lives that died before they listened, or had nothing left to do but to end."""

LOST = {1, 2, 3, 5, 6, 7, 8, 10}
ROUNDS = 14
COMPUTING, BOOKED = "user-000", "user-001"
COMPUTING_IN, BOOKED_IN = 11, 13
CLIENTS_DIE = {
    COMPUTING: [
        "before",
        "privfed_dpo.engine.contribution:Contributor.contribute",
        [1, COMPUTING_IN],
    ],
    BOOKED: ["after", "privfed_dpo.deployment.own_ledgers:OwnLedgers.book", [2, BOOKED_IN]],
}
NOTICED = {(COMPUTING_IN, CHECK): COMPUTING, (BOOKED_IN, SHARE): BOOKED}
SETTINGS = (
    f"federation.rounds={ROUNDS}",
    "deployment.phase_seconds=300",
    "deployment.join_seconds=300",
    "deployment.patience_seconds=300",
)


@dataclass
class Survived:
    deployment: Deployment
    untouched: Path
    secrets: Path
    travelled: list
    deaths: int
    lives_of: dict

    @property
    def run(self):
        return self.deployment.folder / "server" / "run"

    def spends(self, ledger):
        lines = [json.loads(line) for line in ledger.read_text().splitlines()]
        return [line["body"]["round"] for line in lines if line["kind"] == "spend"]


class Parties:
    """All clients as processes; who dies is started again."""

    def __init__(self, deployment, secrets):
        self.deployment, self.secrets = deployment, secrets
        self.lives = {
            name: [ClientProcess(policy, CLIENTS_DIE.get(name), secrets)]
            for name, policy in deployment.policies.items()
        }

    def now(self, name):
        return self.lives[name][-1]

    def present(self):
        return tuple(name for name in self.lives if self.now(name).present)

    def revive(self, name):
        assert self.now(name).process.wait() == -signal.SIGKILL
        policy = self.deployment.policies[name]
        self.lives[name].append(ClientProcess(policy, None, self.secrets))

    def end(self):
        for name in self.lives:
            self.now(name).kill()


class Watch:
    """Looks at each letter: revives clients that died in time, kills the coordinator if planned."""

    def __init__(self, process, outside, parties):
        self.process, self.outside, self.parties = process, outside, parties
        self.under_way, self.revived = 0, set()

    def __call__(self, steps):
        for step in set(steps) & NOTICED.keys() - self.revived:
            self.revived.add(step)
            self.parties.revive(NOTICED[step])
        if self.outside is None:
            return
        self.under_way += steps.count(self.outside)
        if self.under_way == len(self.parties.lives) and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def survived(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crashes")
    deployment = deploy(folder / "d", *SETTINGS)
    untouched, secrets = folder / "untouched", folder / "secrets.jsonl"
    shutil.copytree(deployment.folder, untouched)
    parties, deaths = Parties(deployment, secrets), 0
    post = RecordingPost(deployment.sockets, present=parties.present)
    post.turn = contextlib.nullcontext()
    run = deployment.folder / "server" / "run"
    try:
        for name in parties.lives:
            parties.now(name).ready.wait()
        with relay_to(deployment.server_socket, post):
            for number, ending in enumerate(LIVES):
                outside = ending if isinstance(ending, tuple) else None
                command = ["resume", run] if number else ["server", deployment.config]
                process = start_doomed(None if outside else ending, *command, secrets=secrets)
                post.on_push = Watch(process, outside, parties)
                deaths += died(process)
                if number:  # a run that died at birth has no plan beside its ledger yet
                    verdict = verify_run(run)
                    unfinished = (ENDING,) if ending in DIED_ENDING else ()
                    assert verdict.problems == unfinished, (ending, verdict.as_text())
    finally:
        parties.end()
    return Survived(deployment, untouched, secrets, post.travelled, deaths, parties.lives)


def test_rounds_are_lost_as_planned_and_no_others(survived):
    assert survived.deaths == len(LIVES) - 1
    rows = read_rows(survived.run / "metrics.jsonl")
    assert [row["round"] for row in rows] == list(range(ROUNDS + 1))
    assert {row["round"] for row in rows if row["status"] == "lost"} == LOST
    released = {row["round"]: row["survivors"] for row in rows if row["status"] == "released"}
    assert released == {4: 4, 9: 4, 11: 3, 12: 4, 13: 3, 14: 4}, "who comes back is in at once"
    summary = json.loads((survived.run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert not [path.name for path in survived.run.rglob("*.new")]


def test_every_round_is_booked_once_and_clients_booked_all_they_released(survived):
    assert survived.spends(survived.run / "ledger.jsonl") == list(range(1, ROUNDS + 1))
    released = {}
    for name, number, step, _ in replies_of(survived.travelled):
        if step == MASKED:
            released.setdefault(name, set()).add(number)
    for name in survived.deployment.policies:
        (ledger,) = (survived.deployment.folder / name / "state" / "runs").glob("*/ledger.jsonl")
        booked = survived.spends(ledger)
        assert booked == list(range(1, ROUNDS + 1))
        assert released[name] <= set(booked)
    everybody = set(range(3, ROUNDS + 1))
    assert released["user-002"] == released["user-003"] == everybody
    assert released[COMPUTING] == everybody - {COMPUTING_IN}
    assert released[BOOKED] == everybody - {BOOKED_IN}


def test_nothing_random_is_used_in_two_rounds_or_two_lives(survived):
    """Keys, commitments, sealed boxes, masked vectors and shares on the wire; every secret drawn."""
    assert seen_twice(survived.travelled) == {}
    lives = secrets_of(survived.secrets)
    clients = [life.process.pid for one in survived.lives_of.values() for life in one]
    assert len(clients) == len(survived.deployment.policies) + 2
    assert set(clients) <= {process for process, _ in lives}
    assert len(lives) == len(clients) + len(LIVES) - len(DREW_NOTHING)
    assert drawn_twice(lives) == {}


def test_a_client_that_draws_the_same_again_would_be_seen(survived):
    """The look-out is awake: a second life with the first one's randomness repeats its keys."""
    lives = secrets_of(survived.secrets)
    again = [*lives, (0, lives[0][1][:1])]
    assert len(drawn_twice(again)) == 1
    replayed = [
        ("from", name, data)
        for direction, name, data in survived.travelled
        if direction == "from" and step_of(data) == (4, MASKED)
    ]
    twice = seen_twice([*survived.travelled, replayed[0]])
    ((vector, times),) = twice.items()
    (_, _, step, payload) = next(replies_of(replayed))
    assert (times, [vector]) == (2, once_only(step, payload))


class Replayed:
    """A client's randomness: the noise roots of its lives, in turn, and anything for the rest."""

    def __init__(self, name, roots):
        self.name, self.roots = name, roots
        self.lives = 0

    def next_life(self):
        root, rest = self.roots[self.lives], counted_entropy(f"{self.name}/{self.lives}")
        self.lives += 1
        first = iter([root])
        return lambda count: next(first, None) or rest(count)


def test_the_run_ends_as_one_that_nobody_killed_and_that_lost_these_rounds(survived):
    """To the bit: clients sample and draw noise from the same roots, and the same rounds fail."""
    drawn = dict(secrets_of(survived.secrets))
    entropies = {
        name: Replayed(name, [drawn[life.process.pid][0] for life in lives])
        for name, lives in survived.lives_of.items()
    }
    server = survived.untouched / "server"
    config = load_config(
        survived.untouched / "server" / "config.yaml",
        [f"run.dir={server / 'run'}", f"deployment.socket={server / 'coordinator.sock'}"],
    )
    policies = {
        name: survived.untouched / path.relative_to(survived.deployment.folder)
        for name, path in survived.deployment.policies.items()
    }
    undisturbed = Deployment(survived.untouched, survived.deployment.config, policies)

    def lose(letter):
        found = step_of(letter.data)
        if found is None:
            return False
        number, step = found
        return (
            number in LOST
            or (letter.address == COMPUTING and (number, step) == (COMPUTING_IN, MASKED))
            or (letter.address == BOOKED and number == BOOKED_IN)
        )

    post = RecordingPost(undisturbed.sockets, lose=lose)
    stage = Stage(undisturbed, post=post, entropies=entropies)
    stage.server_socket = server / "coordinator.sock"

    def restart(event):
        if isinstance(event, RoundFinished) and event.row.round in {COMPUTING_IN, BOOKED_IN}:
            name = COMPUTING if event.row.round == COMPUTING_IN else BOOKED
            stage.stop(name)
            stage.start(name)

    with stage:
        run = serve(config, journal=stage.journal, observers=[restart])
    ours, theirs = (
        [row for row in read_rows(folder / "metrics.jsonl") if row["status"] == "released"]
        for folder in (run, survived.run)
    )
    measured = ("round", "survivors", "epsilon", "loss", "reward_accuracy", "kl", "grad_norm_sq")
    for key in measured:
        assert [row[key] for row in ours] == [row[key] for row in theirs], key
    final = "adapter/adapter_model.safetensors"
    assert (run / final).read_bytes() == (survived.run / final).read_bytes()


def test_a_damaged_checkpoint_or_config_is_refused_and_nothing_is_lost(survived):
    folder = survived.run
    ledger, config = folder / "ledger.jsonl", folder / "config.yaml"
    state = folder / "checkpoint" / "state.npz"
    kept = {path: path.read_bytes() for path in (ledger, config, state)}
    ledger.write_bytes(b"".join(kept[ledger].splitlines(keepends=True)[:-1]))
    opened = ledger.read_bytes()
    state.write_bytes(kept[state][:-1] + b"\0\0")
    with pytest.raises(ResumeMismatch, match="checkpoint"):
        resume_deployed(folder, journal=lambda *_, **__: None)
    state.write_bytes(kept[state])
    config.write_bytes(kept[config] + b"\n# another file\n")
    with pytest.raises(ResumeMismatch, match=r"config\.yaml"):
        resume_deployed(folder, journal=lambda *_, **__: None)
    assert ledger.read_bytes() == opened
