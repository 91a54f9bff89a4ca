"""The coordinator dies in every phase and around a checkpoint, a client in between; all go on."""

import json

import pytest

from examples.parties import deploy
from privfed_dpo import coordination
from privfed_dpo.config import load_config
from privfed_dpo.deployment.coordinator import resume_deployed, serve
from privfed_dpo.engine.events import PhaseClosed
from privfed_dpo.errors import ResumeMismatch
from privfed_dpo.observe.run_folder import read_rows
from privfed_dpo.verification import verify_run
from secure_agg import Phase
from tests.support.deployed import Stage

pytestmark = pytest.mark.slow

PHASES = [phase.value for phase in Phase]
ROUNDS = len(PHASES) + 3
BACK = "user-001"


class Killed(BaseException):
    """Nothing catches it: the process is gone."""


class Fate:
    """Ends the coordinator once at each planned place."""

    def __init__(self, save):
        self.save, self.met = save, set()
        self.places = [(n, phase) for n, phase in enumerate(PHASES, 1)]
        self.places += [(6, "before the checkpoint"), (7, "after the checkpoint")]

    def __call__(self, event):
        if isinstance(event, PhaseClosed):
            self.reached((event.round, event.phase))

    def saving(self, folder, checkpoint):
        self.reached((checkpoint.round, "before the checkpoint"))
        self.save(folder, checkpoint)
        self.reached((checkpoint.round, "after the checkpoint"))

    def reached(self, place):
        if place in self.places and place not in self.met:
            self.met.add(place)
            raise Killed


@pytest.fixture(scope="module")
def survived(tmp_path_factory):
    deployment = deploy(
        tmp_path_factory.mktemp("crashes") / "d",
        f"federation.rounds={ROUNDS}",
        "deployment.phase_seconds=60",
        "deployment.join_seconds=120",
        "deployment.patience_seconds=300",
    )
    folder = deployment.folder / "server" / "run"
    with pytest.MonkeyPatch.context() as patched, Stage(deployment) as stage:
        fate = Fate(coordination.save_checkpoint)
        patched.setattr(coordination, "save_checkpoint", fate.saving)
        deaths = 0
        while True:
            try:
                if deaths == 0:
                    serve(load_config(deployment.config), journal=stage.journal, observers=[fate])
                else:
                    resume_deployed(folder, journal=stage.journal, observers=[fate])
                break
            except Killed:
                deaths += 1
            if deaths == 3:
                stage.stop(BACK)
                stage.start(BACK)
    assert deaths == len(fate.places)
    return deployment, folder


def test_the_run_ends_as_it_would_have_but_for_the_lost_rounds(survived):
    _, folder = survived
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["round"] for row in rows] == list(range(ROUNDS + 1))
    statuses = [row["status"] for row in rows]
    assert statuses == ["start", *["lost"] * 6, "released", "released"]
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"


def test_every_round_is_booked_once_and_the_books_hold(survived):
    _, folder = survived
    verdict = verify_run(folder)
    assert verdict.ok, verdict.as_text()
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    spends = [line["body"]["round"] for line in lines if line["kind"] == "spend"]
    assert spends == list(range(1, ROUNDS + 1))


def test_the_client_that_came_back_took_part_in_every_later_round(survived):
    deployment, _ = survived
    books = {}
    for name in deployment.policies:
        (ledger,) = (deployment.folder / name / "state" / "runs").glob("*/ledger.jsonl")
        lines = [json.loads(line) for line in ledger.read_text().splitlines()]
        books[name] = [line["body"]["round"] for line in lines if line["kind"] == "spend"]
    assert set(map(tuple, books.values())) == {tuple(range(1, ROUNDS + 1))}


def test_a_damaged_checkpoint_or_config_is_refused_and_nothing_is_lost(survived):
    _, folder = survived
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
