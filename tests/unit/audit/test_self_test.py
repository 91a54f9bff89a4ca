"""Every planted bug is caught by the check that is meant for it; the correct build by none."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from privfed_dpo.audit import planted_bugs as planted
from privfed_dpo.audit import self_checks as checks
from privfed_dpo.audit.lane_check import LaneRun, lane_bounds
from privfed_dpo.audit.self_test import CHECKS, FALSE_ALARM_LEVEL, alarms, self_test
from privfed_dpo.audit.server_check import server_step
from privfed_dpo.audit.simulation import CORRECT, Build, Setting, secret
from privfed_dpo.audit.tables import render_self_test
from privfed_dpo.commands import audit as command
from privfed_dpo.engine.plan import RunPlan
from tests.support.command_line import caller

MEANT_FOR = {
    "no noise": checks.noise_variance,
    "one client alone adds a share": checks.noise_variance,
    "one client adds all the noise": checks.noise_variance,
    "share of std z/n": checks.noise_variance,
    "drop-outs and colluders forgotten": checks.noise_variance,
    "clients with one keystream": checks.independence,
    "rounds with one keystream": checks.independence,
    "runs with one keystream": checks.independence,
    "clip rows, not pairs": checks.sensitivity,
    "clip skipped": checks.sensitivity,
    "clip norm doubled": checks.sensitivity,
    "rounded to nearest": checks.sensitivity,
    "NaN pair passes": checks.non_finite,
    "sample rate doubled": checks.sampling,
    "batches of fixed size": checks.sampling,
    "silent when nothing is drawn": checks.empty_batch,
    "client divides by the realised batch": checks.public_divisor,
    "server divides by the realised batch": server_step,
    "second local step without noise": checks.local_noise,
    "canary lane of doubled norm": lane_bounds,
}
BY_NAME = {bug.name: bug for bug in planted.PLANTED_BUGS}
REFUTED_BY_LANES = (
    "no noise",
    "one client alone adds a share",
    "share of std z/n",
    "clip norm doubled",
    "sample rate doubled",
)


def test_every_bug_has_its_check():
    assert BY_NAME.keys() == MEANT_FOR.keys()
    assert len(BY_NAME) == len(planted.PLANTED_BUGS) >= 10
    assert set(MEANT_FOR.values()) == set(CHECKS)


@pytest.mark.parametrize("name", MEANT_FOR)
def test_the_check_meant_for_a_bug_catches_it(name):
    for seed in (0, 1):
        result = MEANT_FOR[name](BY_NAME[name], seed)
        assert not result.passed, result.figure


@pytest.mark.parametrize("name", REFUTED_BY_LANES)
def test_lanes_alone_refute_bugs_in_the_noise(name):
    assert not lane_bounds(BY_NAME[name], 3).passed


@pytest.mark.parametrize("seed", range(3))
def test_the_correct_build_is_not_accused(seed):
    assert alarms(CORRECT, seed) == []


def test_a_pair_at_the_bound_is_exactly_at_the_bound():
    assert checks.sensitivity(CORRECT, 0).figure == "1 of the bound"


def test_noise_two_percent_off_is_seen_with_enough_draws(monkeypatch):
    """At 300,000 draws a variance has a standard error of 0.26 %: 4 % are 15 of them."""

    class Slightly(planted._ScaledNoise):
        def _factor(self):
            return 0.98

    monkeypatch.setattr(checks, "_NOISE", replace(checks._NOISE, dimension=300_000))
    assert not checks.noise_variance(Build("2 %", plan=planted._becomes(Slightly)), 0).passed
    assert checks.noise_variance(CORRECT, 0).passed


def test_simulated_plans_are_made_by_the_real_planner():
    setting = Setting(clients=5, sample_rate=0.3, noise_multiplier=1.7, rounds=4)
    plan = setting.plan()
    assert plan is setting.plan(), "made once"
    assert type(plan) is RunPlan
    assert plan.noise.noise_multiplier == 1.7
    assert plan.facts.client_pairs == (4,) * 5


def test_secrets_repeat_for_the_same_labels_only():
    assert secret(1, "a", 2)(32) == secret(1, "a", 2)(32)
    assert len({secret(1, "a", 2)(32), secret(2, "a", 2)(32), secret(1, "a", 3)(32)}) == 3
    source = secret(1)
    assert source(8) != source(8)


def test_a_bug_that_nothing_catches_fails_the_self_test():
    told = []
    report = self_test(
        seeds=1,
        bugs=[Build("nothing wrong at all")],
        checks=(checks.sensitivity,),
        observer=told.append,
    )
    assert not report.passed
    assert report.bugs[0].caught_by == ()
    assert told == ["nothing wrong at all", "correct build, seed 0"]
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_self_test(report))
    text = console.export_text()
    assert "MISSED" in text
    assert "FAILED" in text


@pytest.mark.parametrize(("bug", "code"), [("clip skipped", 0), (None, 1)])
def test_the_command_says_how_it_went(bug, code, capsys, monkeypatch):
    def quick(*, seeds, observer):
        bugs = [BY_NAME[bug] if bug else Build("harmless")]
        return self_test(seeds=seeds, bugs=bugs, checks=(checks.sensitivity,), observer=observer)

    monkeypatch.setattr(command, "self_test", quick)
    call = caller(capsys, monkeypatch)
    ended = call("audit", "--self-test", "--seeds", "1", "--json")
    assert ended.code == code
    assert json.loads(ended.out)["passed"] is (code == 0)
    ended = call("audit", "--self-test", "--seeds", "1")
    assert ("Self-test passed" in ended.out) is (code == 0)


def test_a_false_alarm_fails_the_self_test():
    def jumpy(build, seed):
        return checks.CheckResult("jumpy", passed=False, figure=build.name)

    report = self_test(seeds=1, bugs=[BY_NAME["no noise"]], checks=(jumpy,))
    assert not report.passed
    assert json.loads(json.dumps(report.as_dict()))["correct_build"]["false_alarms"]


@pytest.mark.slow
def test_the_whole_self_test_passes():
    """Twenty runs of the correct build: no alarm at 0.5 % a run, and the 95 % bounds keep to it."""
    report = self_test(seeds=20)
    assert report.passed, report.as_dict()
    assert all(bug.caught_by for bug in report.bugs)
    assert report.correct.alarms == ()
    assert report.correct.seeds * FALSE_ALARM_LEVEL < 0.11
    assert len(report.correct.bounds) == 100
    assert report.correct.above <= 12  # each in 5 % of runs: 5 expected, more is unlikely
    means = report.correct.mean_bounds
    assert 0.9 < means["rates_gaussian"] < 1.2
    assert means["gaussian_fit"] > 0.6 * LaneRun.play(CORRECT, 0).certified
