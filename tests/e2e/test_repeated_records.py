"""Data in which one record stands at several clients: refused, or paid for and verified."""

import json
import shutil

import pytest

from accounting import Adversary
from privfed_dpo.config import parse_config
from privfed_dpo.ending import KEYS_FILE
from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.enrolment import Enrolment
from privfed_dpo.errors import ConfigError, DataError
from privfed_dpo.lifecycle import plan, train
from privfed_dpo.verification import verify_run
from tests.support import forged_ledgers as forge
from tests.support import preference_files as files
from tests.support.checkpoints import write_checkpoint

CONFIG = """
data: {partition: iid, clients: 5}
model: {adapter: {rank: 2}}
dpo: {beta: 0.5}
privacy: {noise_multiplier: 1.0, sample_rate: 0.5}
federation: {rounds: 2, learning_rate: 0.02}
"""
ROWS = files.preference_rows(users=5, per_user=6)
UNNAMED = files.without(ROWS, "user", "topic")
AGAIN = [*UNNAMED, UNNAMED[0]]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    write_checkpoint(folder / "base", "llama", files.texts_of(ROWS))
    return folder


@pytest.fixture
def config_for(home, tmp_path):
    def make(rows, *overrides):
        source = files.write_jsonl(tmp_path / "train.jsonl", rows)
        fixed = (
            f"run.dir={tmp_path / 'run'}",
            f"run.cache_dir={home / 'cache'}",
            f"model.base={home / 'base'}",
            f"data.train={source}",
        )
        return parse_config(CONFIG, [*fixed, *overrides])

    return make


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_a_second_copy_is_refused_before_anything_is_spent(config_for, tmp_path, mode):
    config = config_for(AGAIN, f"privacy.mode={mode}")
    for ask in (plan, train):
        with pytest.raises(DataError, match="stand more than once") as caught:
            ask(config)
        assert "privacy.record_copies=2" in caught.value.advice
    assert not (tmp_path / "run" / "ledger.jsonl").exists()


def test_a_baseline_without_privacy_takes_any_data_unless_labels_are_promised_something(config_for):
    baseline = ("privacy.mode=none", "privacy.noise_multiplier=null")
    plan(config_for(AGAIN, *baseline))
    with pytest.raises(DataError, match="stand more than once"):
        plan(config_for(AGAIN, *baseline, "privacy.label_epsilon=1"))


def test_votes_of_different_people_on_one_pair_are_no_copies(config_for):
    """As in configs/users.yaml: several workers judged the same two arguments alike."""
    votes = [{**UNNAMED[place], "user": f"u{n}"} for n in range(4) for place in range(3)]
    found = plan(config_for(votes, "data.partition=natural", "data.clients=null"))
    assert found.describe()["record_copies"] == 1
    with pytest.raises(DataError, match="one of them 4 times"):
        plan(config_for(files.without(votes, "user")))


def test_a_user_s_pairs_at_two_clients_are_refused_in_user_mode(config_for):
    user = ("privacy.mode=user", "privacy.max_update_norm=1", "federation.cohort=4")
    with pytest.raises(DataError, match="users have pairs at more than one client"):
        plan(config_for(ROWS, *user))
    named = (*user, "data.partition=natural")
    assert plan(config_for(ROWS, *named)).describe()["unit"] == "user"
    with pytest.raises(ConfigError, match="counts copies of a pair"):
        config_for(ROWS, *named, "privacy.record_copies=2")


def test_a_stated_bound_is_paid_for_and_verified(config_for, tmp_path):
    def steal(event):
        if isinstance(event, RoundFinished):
            shutil.copy(tmp_path / "run" / "checkpoint" / KEYS_FILE, tmp_path / "stolen")

    config = config_for(AGAIN, "privacy.record_copies=2")
    promised, single = plan(config), plan(config_for(UNNAMED))
    for adversary in (Adversary.SERVER, Adversary.COALITION):
        assert promised.epsilons[adversary].pld > 1.5 * single.epsilons[adversary].pld
    config_for(AGAIN)  # the file with the copy again
    folder = train(config, observers=[steal])
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    assert verdict.epsilon == promised.epsilons
    summary = json.loads((folder / "summary.json").read_text())
    assert "with all its copies, of which there are at most 2" in summary["statement"]
    assert summary["plan"]["record_copies"] == 2

    keys = Enrolment.load(tmp_path / "stolen", 5)
    lines = forge.lines_of(folder)
    del lines[0]["body"]["schedule"]["record_copies"]
    forge.write_lines(folder, forge.rechained(lines, keys))
    problems = " ".join(verify_run(folder).problems)
    assert "disagree about schedule" in problems
    assert "it books another release than the plan's" in problems


def test_copies_in_local_mode_add_up_and_may_not_sit_at_one_client(config_for):
    local = ("privacy.mode=local", "privacy.record_copies=2")
    doubled, single = plan(config_for(AGAIN, *local)), plan(config_for(UNNAMED, local[0]))
    (spend,), (one,) = (p.schedule.view(Adversary.COALITION) for p in (doubled, single))
    assert (spend.event.sample_rate, spend.count) == (0.5, 2 * one.count)
    assert doubled.noise.releases == 2 * single.noise.releases
    natural = ("data.partition=natural", "data.clients=null")
    with pytest.raises(DataError, match="a client holds one record 2 times"):
        plan(config_for([*ROWS, ROWS[0]], *local, *natural))
