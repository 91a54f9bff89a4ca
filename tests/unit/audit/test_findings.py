import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from accounting import Adjacency, Adversary, AuditBound
from privfed_dpo.audit.findings import (
    AuditFindings,
    JudgedBound,
    Membership,
    Verdict,
    scored_real_pairs,
)
from privfed_dpo.audit.tables import render_findings


def judged(epsilon, certified, as_run=None, method="one_run"):
    bound = AuditBound(method, epsilon, 1e-5, 0.95, 100, 10, 9)
    return JudgedBound(
        "lanes", bound, certified, Adversary.SERVER, Adjacency.ZERO_OUT, as_run, ceiling=2.2
    )


@pytest.mark.parametrize(
    ("epsilon", "certified", "as_run", "verdict"),
    [
        (0.0, 2.0, None, Verdict.PASS),
        (1.8, 2.0, None, Verdict.PASS),
        (1.81, 2.0, None, Verdict.WARN),
        (2.0, 2.0, None, Verdict.WARN),
        (2.001, 2.0, None, Verdict.FAIL),
        (1.5, 2.0, 1.6, Verdict.PASS),
        (1.7, 2.0, 1.6, Verdict.WARN),
        (50.0, math.inf, None, Verdict.PASS),
    ],
)
def test_verdicts_stand_where_they_are_said_to(epsilon, certified, as_run, verdict):
    assert judged(epsilon, certified, as_run).verdict is verdict


def test_the_worst_bound_decides():
    assert AuditFindings((judged(1, 8), judged(1, 8))).verdict is Verdict.PASS
    assert AuditFindings((judged(1, 8), judged(7.5, 8))).verdict is Verdict.WARN
    assert AuditFindings((judged(9, 8), judged(7.5, 8))).verdict is Verdict.FAIL
    assert AuditFindings(()).verdict is Verdict.PASS


def test_facts_are_json_and_carry_what_a_bound_is_recomputed_from():
    membership = Membership("these against those", 0.5, 0.01, 0.01, 10, 20)
    findings = AuditFindings((judged(1.0, math.inf),), (membership,), ("a note",))
    facts = json.loads(json.dumps(findings.as_dict(), allow_nan=False))
    (bound,) = facts["bounds"]
    assert (bound["m"], bound["r"], bound["v"], bound["delta"]) == (100, 10, 9, 1e-5)
    assert bound["epsilon_certified"] is None
    assert bound["assumes"]
    assert facts["membership"][0]["members"] == 10
    assert facts["notes"] == ["a note"]


def test_figures_of_canaries_are_told_from_figures_of_real_pairs():
    def left(*about, canaries="lanes", **more):
        reports = tuple(Membership(name, 0.5, 0.01, 0.01, 10, 20) for name in about)
        bound = replace(judged(1.0, 8.0), canaries=canaries)
        return AuditFindings((bound,), reports, ("a note",)).as_dict() | more

    canaries = "pair canaries, in against out"
    assert not scored_real_pairs(left())
    assert not scored_real_pairs(left(canaries, canaries="pairs in/out"))
    assert not scored_real_pairs(left("pair canaries, kept against flipped"))
    real = "training pairs against pairs the same clients held back"
    unknown = (
        left(real),
        left(canaries, real),
        left("pair canaries of clients"),
        left(canaries="pairs of clients"),
        left(scores=[0.1]),
        left(bounds="lanes"),
        left(membership=[canaries]),
        ["lanes"],
        {"about": "training pairs"},
    )
    assert all(map(scored_real_pairs, unknown))


def test_the_terminal_shows_claim_bound_and_verdict():
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    membership = Membership("these against those", 0.5, 0.01, 0.01, 10, 20)
    console.print(render_findings(AuditFindings((judged(2.5, 2.0),), (membership,), ("a note",))))
    text = console.export_text()
    for part in ("9/10", "2.500", "2.000", "FAIL", "refuted", "AUC 0.500", "a note"):
        assert part in text
