"""Whole runs that protect users: trained with drop-outs, checked by a stranger, interrupted."""

import json
import shutil
from collections import Counter

import pytest

from accounting import Adversary, default_delta
from privfed_dpo.ending import KEYS_FILE
from privfed_dpo.engine.events import RoundFinished, RoundStarted
from privfed_dpo.enrolment import Enrolment
from privfed_dpo.lifecycle import plan, resume, train
from privfed_dpo.verification import verify_run
from tests.support import forged_ledgers as forge
from tests.support.tiny_run import tiny_config

USER = (
    "privacy.mode=user",
    "privacy.max_update_norm=0.05",
    "privacy.target_epsilon=null",
    "privacy.noise_multiplier=2",
    "federation.local_steps=2",
    "federation.local_learning_rate=0.5",
    "federation.server_optimizer=sgd",
    "federation.learning_rate=1",
    "federation.cohort=5",
    "data.clients=6",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that loses clients now and then; its keys are stolen before the end."""
    home = tmp_path_factory.mktemp("user-mode")

    def steal(event):
        if isinstance(event, RoundFinished):
            shutil.copy(home / "run" / "checkpoint" / KEYS_FILE, home / "stolen")

    config = tiny_config(home / "run", *USER, "secure_agg.dropout_rate=0.2", "run.seed=9")
    train(config, observers=[steal])
    return config, home / "run", Enrolment.load(home / "stolen", 6)


def test_the_run_is_held_to_users_and_verifies(finished):
    config, folder, _ = finished
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    assert verdict.delta == default_delta(6)
    promised = plan(config).epsilons
    for adversary in Adversary:
        assert verdict.epsilon[adversary] == promised[adversary]
    header = forge.lines_of(folder)[0]["body"]
    assert header["unit"] == "user"
    assert header["schedule"]["local_steps"] == 2
    summary = json.loads((folder / "summary.json").read_text())
    assert "Unit: all preference pairs of one user." in summary["statement"]
    assert "whose whole update is clipped once" in summary["statement"]
    assert summary["plan"]["unit"] == "user"
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "all preference pairs of one user" in report
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert any(row["survivors"] == 4 for row in rows[1:]), "somebody was lost on the way"
    assert rows[-1]["reward_margin"] != 0.0
    assert all(row["drift"] is None for row in rows), "drift is not released in this mode"


def test_a_participation_beyond_the_cap_fails_verification(finished, tmp_path):
    """The coordinator books one client into every round, and signs the lines again."""
    _, run, keys = finished
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("base"))
    lines = forge.lines_of(folder)
    assert lines[0]["body"]["schedule"]["participations"] == 3
    lines[0]["body"]["schedule"]["participations"] = 2
    forge.write_lines(folder, forge.rechained(lines, keys))
    verdict = verify_run(folder)
    assert not verdict.ok
    assert any("took part 3 times, the plan allows 2" in problem for problem in verdict.problems)


def test_a_smaller_norm_or_more_noise_in_the_header_is_found(finished, tmp_path):
    _, run, keys = finished
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("base"))
    lines = forge.lines_of(folder)
    forge.raise_noise_everywhere(lines)
    forge.write_lines(folder, forge.rechained(lines, keys))
    problems = " ".join(verify_run(folder).problems)
    assert "disagree about schedule" in problems


def test_an_interrupted_run_goes_on(tmp_path):
    folder = tmp_path / "run"

    def stop(event):
        if isinstance(event, RoundStarted) and event.round == 2:
            raise KeyboardInterrupt

    config = tiny_config(folder, *USER, "model.warmup_steps=0")
    with pytest.raises(KeyboardInterrupt):
        train(config, observers=[stop])
    resume(folder)
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    assert verdict.rounds == 3
    statuses = [
        json.loads(line)["status"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert statuses == ["start", "released", "lost", "released"]


def test_secret_cohorts_end_to_end_and_across_an_interruption(tmp_path):
    folder = tmp_path / "run"
    secret = ("federation.cohort_sampling=poisson", "federation.max_participations=3")

    def stop(event):
        if isinstance(event, RoundStarted) and event.round == 2:
            raise KeyboardInterrupt

    config = tiny_config(folder, *USER, *secret, "model.warmup_steps=0", "federation.rounds=4")
    with pytest.raises(KeyboardInterrupt):
        train(config, observers=[stop])
    resume(folder)
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    assert verdict.epsilon[Adversary.OUTSIDE].pld == verdict.epsilon[Adversary.SERVER].pld
    lines = forge.lines_of(folder)
    cohorts = [line["body"]["cohort"] for line in lines if line["kind"] == "spend"]
    assert max(Counter(name for cohort in cohorts for name in cohort).values()) <= 3
    claim = lines[0]["body"]["schedule"]["secret_cohort"]
    assert (claim["rate"], claim["rounds"]) == (5 / 6, 4)
    statement = json.loads((folder / "summary.json").read_text())["statement"]
    assert "for which no credit is taken" in statement
