"""A disk that fills up at any file: a clear sentence, nothing lost, and the run goes on later."""

import contextlib
import json
import resource
import sys

import pytest

from accounting import Ledger
from examples.parties import deploy
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.observe.run_folder import read_rows
from privfed_dpo.verification import verify_run
from tests.support.command_line import caller, own_data, write_inputs
from tests.support.real_processes import (
    ClientProcess,
    RecordingPost,
    relay_to,
    start_doomed,
    step_of,
)


@pytest.fixture
def run(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("full"))


class Disk:
    """From the N-th time on that a file is opened to be written, the kernel lets none grow."""

    def __init__(self):
        self.name, self.left = "", 0
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        sys.addaudithook(self._look)

    def _look(self, event, arguments):
        if self.left and event == "open" and str(arguments[0]).endswith(self.name):
            if arguments[1] in {"r", "rb"}:
                return
            self.left -= 1
            if not self.left:
                self.fill(str(arguments[0]))

    def fill(self, path):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            size = file.seek(0, 2)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, self.limits[1]))
            return
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, self.limits[1]))

    @contextlib.contextmanager
    def full_at(self, name, times):
        """`name` ends the path of the file."""
        self.name, self.left = name, times
        try:
            yield
        finally:
            self.left = 0
            resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


@pytest.fixture(scope="module")
def disk():
    return Disk()


def told(ended, *parts):
    """It ended with 1 and said all of this, whatever rounds it had reported before."""
    assert ended.code == 1, ended.err
    said = " ".join(ended.err.split())
    for part in ("the disk is full", "File too large", "Free space", *map(str, parts)):
        assert part in said


def spends(folder):
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    return [line["body"]["round"] for line in lines if line["kind"] == "spend"]


@pytest.mark.parametrize(
    ("name", "times", "lost"),
    [
        ("ledger.jsonl", 3, set()),  # the spend of round 2, torn: not booked, played later
        ("ledger.jsonl", 4, {2}),  # its outcome
        ("state.npz.new", 4, {2}),
        ("metrics.jsonl", 3, set()),
        ("ledger.jsonl", 5, set()),  # the close
        ("summary.json.new", 2, set()),
        ("report.html.new", 1, set()),
    ],
)
def test_a_run_stops_where_there_is_no_room_and_goes_on_when_there_is(
    run, home, tmp_path, disk, name, times, lost
):
    folder = tmp_path / "run"
    with disk.full_at(name, times):
        ended = run("train", *own_data(home, "federation.rounds=2"), "--run-dir", folder)
    where, resume = f"{folder}/", f"privfed-dpo resume {folder}"
    told(ended, where, name.removesuffix(".new"), "what was spent is in the ledger", resume)
    booked = spends_of_whole_lines(folder)
    resumed = run("resume", folder)
    assert resumed.code == 0, resumed.err
    assert spends(folder) == [1, 2]
    assert spends(folder)[: len(booked)] == booked
    rows = read_rows(folder / "metrics.jsonl")
    assert {row["round"] for row in rows if row["status"] == "lost"} == lost
    assert [row["round"] for row in rows] == [0, 1, 2]
    verdict = verify_run(folder)
    assert verdict.ok, verdict.as_text()
    assert (folder / "report.html").is_file()


def spends_of_whole_lines(folder):
    content = (folder / "ledger.jsonl").read_bytes()
    whole = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
    lines = [json.loads(line) for line in whole]
    return [line["body"]["round"] for line in lines if line["kind"] == "spend"]


def test_an_adapter_that_does_not_fit_is_saved_later(run, home, tmp_path, disk, monkeypatch):
    """safetensors writes without Python, and has errors of its own."""
    folder, save = tmp_path / "run", Adapter.save

    def no_room(adapter, directory):
        disk.fill("/nowhere/at-all")
        save(adapter, directory)

    with monkeypatch.context() as patched, disk.full_at("", 0):
        patched.setattr(Adapter, "save", no_room)
        ended = run("train", *own_data(home, "federation.rounds=1"), "--run-dir", folder)
    told(ended, f"the run in {folder}", f"privfed-dpo resume {folder}")
    assert run("resume", folder).code == 0
    assert verify_run(folder).ok


@pytest.mark.parametrize("name", ["config.yaml.new", "keys.secret.new", "ledger.jsonl.new"])
def test_no_room_before_the_ledger_means_that_nothing_was_spent(run, home, tmp_path, disk, name):
    folder = tmp_path / "run"
    arguments = [*own_data(home, "federation.rounds=1"), "--run-dir", folder]
    with disk.full_at(name, 1):
        ended = run("train", *arguments)
    told(ended, folder, name.removesuffix(".new"), "nothing was spent", f"Remove {folder} first")
    assert not (folder / "ledger.jsonl").exists()
    if name.startswith("ledger"):
        run("resume", folder).refused("died before training began", f"Remove {folder}")


def test_a_ledger_that_was_taken_away_is_no_birth(run, home, tmp_path):
    folder = tmp_path / "run"
    assert run("train", *own_data(home, "federation.rounds=1"), "--run-dir", folder).code == 0
    (folder / "ledger.jsonl").unlink()
    run("resume", folder).refused("ledger of the run", "is missing", "Put ledger.jsonl back")


def test_a_cache_without_room_stops_the_run_before_anything_is_spent(run, home, tmp_path, disk):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    arguments = own_data(home, "federation.rounds=1", f"run.cache_dir={cache}")
    with disk.full_at(".part", 1):
        ended = run("train", *arguments, "--run-dir", folder)
    told(ended, cache, "nothing was spent")
    assert not [path for path in cache.rglob("*") if path.suffix == ".part"]
    assert run("train", *arguments, "--run-dir", folder).code == 0


@pytest.mark.slow
def test_a_deployment_whose_disks_fill_up(tmp_path):
    """A client's at its own ledger, in round 1; the coordinator's at its rows, in round 2."""
    deployment = deploy(
        tmp_path / "d",
        "deployment.phase_seconds=300",
        "deployment.join_seconds=300",
        "deployment.patience_seconds=300",
    )
    run, unlucky = deployment.folder / "server" / "run", "user-002"
    clients = {
        name: ClientProcess(
            policy,
            ["full", "ledger.jsonl", 1, 10] if name == unlucky else None,
            cwd=policy.parent,
        )
        for name, policy in deployment.policies.items()
    }
    post = RecordingPost(
        deployment.sockets,
        present=lambda: tuple(name for name, client in clients.items() if client.present),
    )
    post.turn = contextlib.nullcontext()

    first = clients[unlucky]

    def meanwhile(steps):
        if (1, "ShareKeys") in steps and clients[unlucky] is first:
            assert first.process.wait() == 1
            first.reader.join()
            said = " ".join(first.said.split())
            for part in ("this client's books", "File too large", "ledger.jsonl", "Free space"):
                assert part in said
            clients[unlucky] = ClientProcess(deployment.policies[unlucky])

    post.on_push = meanwhile
    try:
        for client in clients.values():
            client.ready.wait()
        with relay_to(deployment.server_socket, post):
            full = ["full", "metrics.jsonl", 3, 10]
            server = start_doomed(full, "server", deployment.config, cwd=run.parent)
            _, err = server.communicate()
            assert server.returncode == 1, err
            said = " ".join(err.split())
            for part in ("the disk is full", str(run / "metrics.jsonl"), f"resume {run}"):
                assert part in said
            server = start_doomed(None, "resume", run)
            _, err = server.communicate()
            assert server.returncode == 0, err
    finally:
        for client in clients.values():
            client.kill()
    rows = read_rows(run / "metrics.jsonl")
    assert [row["status"] for row in rows] == ["start", *["released"] * 3]
    assert [row["survivors"] for row in rows[1:]] == [3, 4, 4]
    (own,) = (deployment.folder / unlucky / "state" / "runs").glob("*/ledger.jsonl")
    assert spends(own.parent) == [2, 3], "what left it, and no more"
    answered = {
        step_of(data) for way, name, data in post.travelled if (way, name) == ("from", unlucky)
    }
    assert {found[0] for found in answered if found} == {2, 3}
    assert Ledger.open(own).rounds_spent == 2
    assert verify_run(run).ok
