"""The audit of the audit: every planted bug must be caught, and the correct build must not be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from privfed_dpo.audit import self_checks
from privfed_dpo.audit.findings import JudgedBound
from privfed_dpo.audit.lane_audit import CONFIDENCE
from privfed_dpo.audit.lane_check import ALARM_CONFIDENCE, LaneRun, lane_bounds
from privfed_dpo.audit.planted_bugs import PLANTED_BUGS
from privfed_dpo.audit.server_check import server_step
from privfed_dpo.audit.simulation import CORRECT, Build, CheckResult

Check = Callable[[Build, int], CheckResult]
Observer = Callable[[str], None]

CHECKS: tuple[Check, ...] = (
    self_checks.sensitivity,
    self_checks.noise_variance,
    self_checks.independence,
    self_checks.sampling,
    self_checks.empty_batch,
    self_checks.non_finite,
    self_checks.local_noise,
    self_checks.public_divisor,
    server_step,
    lane_bounds,
)
LANE_METHODS = 5
FALSE_ALARM_LEVEL = LANE_METHODS * (1 - ALARM_CONFIDENCE) + len(CHECKS) * self_checks.LEVEL
"""Probability with which all checks together accuse a correct build, at most."""

SEEDS = 20


@dataclass(frozen=True, slots=True)
class BugReport:
    """What the checks said about one planted bug.

    Attributes:
        bug: what was wrong.
        caught_by: the checks that found it.
    """

    bug: str
    caught_by: tuple[CheckResult, ...]


@dataclass(frozen=True, slots=True)
class CorrectReport:
    """What the checks said about the correct build.

    Attributes:
        seeds: how many times all checks ran.
        alarms: every alarm, all of them false.
        bounds: lower bounds at the confidence of an ordinary audit, of all runs.
        certified: what they must stay below.
    """

    seeds: int
    alarms: tuple[CheckResult, ...]
    bounds: tuple[JudgedBound, ...]
    certified: float

    @property
    def above(self) -> int:
        """How many of those bounds lie above the truth; each may in 5 % of runs."""
        return sum(judged.bound.epsilon > self.certified for judged in self.bounds)

    @property
    def mean_bounds(self) -> dict[str, float]:
        """Mean lower bound of each method: what an audit of a correct run shows."""
        found: dict[str, list[float]] = {}
        for judged in self.bounds:
            found.setdefault(judged.bound.method, []).append(judged.bound.epsilon)
        return {method: sum(values) / len(values) for method, values in found.items()}


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """The whole self-test.

    Attributes:
        bugs: one report per planted bug.
        correct: the correct build.
    """

    bugs: tuple[BugReport, ...]
    correct: CorrectReport

    @property
    def passed(self) -> bool:
        """Every bug is caught, and false alarms stay within their level."""
        allowed = FALSE_ALARM_LEVEL * self.correct.seeds
        return all(bug.caught_by for bug in self.bugs) and len(self.correct.alarms) <= allowed

    def as_dict(self) -> dict[str, object]:
        """Plain facts, for machines."""
        correct = self.correct
        return {
            "passed": self.passed,
            "bugs": [
                {
                    "bug": report.bug,
                    "caught_by": {found.check: found.figure for found in report.caught_by},
                }
                for report in self.bugs
            ],
            "correct_build": {
                "seeds": correct.seeds,
                "false_alarms": [f"{alarm.check}: {alarm.figure}" for alarm in correct.alarms],
                "false_alarm_level": FALSE_ALARM_LEVEL,
                "epsilon_certified": correct.certified,
                "mean_lower_bounds": correct.mean_bounds,
                "confidence": CONFIDENCE,
                "bounds_above_certified": correct.above,
                "bounds": len(correct.bounds),
            },
        }


def self_test(
    *,
    seeds: int = SEEDS,
    bugs: Sequence[Build] = PLANTED_BUGS,
    checks: Sequence[Check] = CHECKS,
    observer: Observer = lambda _: None,
) -> SelfTestReport:
    """Run all checks on every planted bug, and on the correct build once per seed.

    Args:
        seeds: runs of the correct build.
        bugs: builds with something wrong.
        checks: what may catch it.
        observer: told what is being tested.
    """
    reports = []
    for bug in bugs:
        observer(bug.name)
        reports.append(BugReport(bug.name, tuple(alarms(bug, 0, checks))))
    return SelfTestReport(tuple(reports), _correct(seeds, checks, observer))


def alarms(build: Build, seed: int, checks: Iterable[Check] = CHECKS) -> list[CheckResult]:
    """Return the results of the checks that found something."""
    return [result for check in checks if not (result := check(build, seed)).passed]


def _correct(seeds: int, checks: Sequence[Check], observer: Observer) -> CorrectReport:
    false: list[CheckResult] = []
    bounds: list[JudgedBound] = []
    certified = 0.0
    for seed in range(seeds):
        observer(f"{CORRECT.name}, seed {seed}")
        false += alarms(CORRECT, seed, checks)
        run = LaneRun.play(CORRECT, seed)
        certified = run.certified
        bounds += run.bounds(CONFIDENCE)
    return CorrectReport(seeds, tuple(false), tuple(bounds), certified)
