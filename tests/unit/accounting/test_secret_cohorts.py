"""Secret Poisson cohorts: what aborted rounds take from the claim, and who checks it."""

import json
import math

import numpy as np
import pytest

from accounting import (
    Adjacency,
    Adversary,
    Budget,
    InvalidPrivacyParameter,
    Ledger,
    LedgerHeader,
    LedgerMisuse,
    Mode,
    NoiseShares,
    PoissonGaussianRelease,
    PrivacyUnit,
    ReleaseSchedule,
    Repeated,
    SecretCohort,
    decode_schedule,
    encode_schedule,
    failure_probability,
    guarantee,
    pld_epsilon,
    read_ledger,
    shortfall_probability,
    verify_ledger,
)

DELTA = 1e-5
SHARES = NoiseShares(1.0, 100, 48, 1)


def schedule_of(failure, participations=24):
    claim = SecretCohort(0.1, 100, failure)
    return ReleaseSchedule(Mode.USER, 1.0, SHARES, participations, secret_cohort=claim)


def header(schedule, clients=1000):
    return LedgerHeader(
        run_id="r",
        plan_hash="1",
        config_hash="2",
        unit=PrivacyUnit.USER,
        adjacency=Adjacency.ZERO_OUT,
        budget=Budget(math.inf, DELTA),
        schedule=schedule,
        clients=clients,
    )


def test_one_round_by_hand():
    """Of three clients each joins with 1/2; two are needed, nobody is ever capped.

    One client decides if it joins (1/2) and one of two others does (1/2), 0.25. The bound counts
    "at most one other", 3/4, hence 0.375. A cohort is too small with probability 4/8.
    """
    found = failure_probability(clients=3, rate=0.5, threshold=2, rounds=1, max_participations=1)
    assert found == pytest.approx(0.375)
    assert shortfall_probability(clients=3, rate=0.5, threshold=2) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("clients", "rate", "threshold", "rounds", "cap"),
    [(30, 0.5, 8, 6, 6), (30, 0.5, 8, 8, 6), (40, 0.4, 8, 10, 7)],
)
def test_the_bound_holds_in_simulation(clients, rate, threshold, rounds, cap):
    rng, runs = np.random.default_rng(5), 20_000
    joins = rng.random((runs, rounds, clients)) < rate
    joins &= np.cumsum(joins, axis=1) <= cap
    others = joins[:, :, 1:].sum(axis=2)
    decided = (joins[:, :, 0] & (others == threshold - 1)).any(axis=1).mean()
    bound = failure_probability(
        clients=clients, rate=rate, threshold=threshold, rounds=rounds, max_participations=cap
    )
    assert decided <= bound + 5 * math.sqrt(bound / runs)
    assert bound < 0.5, "a bound of 1 would prove nothing here"


def test_what_may_fail_is_taken_from_delta_for_outsiders_only():
    sampled = [
        Repeated(PoissonGaussianRelease(0.1, schedule_of(0.0).noise_multiplier("outside")), 100)
    ]
    for failure in (0.0, 4e-6):
        outside = schedule_of(failure).epsilon(Adversary.OUTSIDE, DELTA).pld
        assert outside == pytest.approx(pld_epsilon(sampled, DELTA - failure), rel=1e-6)
        for adversary in (Adversary.SERVER, Adversary.COALITION):
            plain = schedule_of(0.0).epsilon(adversary, DELTA)
            assert schedule_of(failure).epsilon(adversary, DELTA) == plain
    for failure in (DELTA, 0.5):
        schedule = schedule_of(failure)
        known = schedule.epsilon(Adversary.SERVER, DELTA)
        assert schedule.epsilon(Adversary.OUTSIDE, DELTA) == known, "no credit is left"


def honest():
    failure = failure_probability(
        clients=1000, rate=0.1, threshold=52, rounds=100, max_participations=24
    )
    assert 0 < failure < DELTA
    return failure


def test_rounds_of_any_size_are_booked_and_an_empty_cohort_too(tmp_path):
    ledger = Ledger.create(tmp_path / "l", header(schedule_of(honest())))
    for number, size in enumerate((60, 140, 0, 3), start=1):
        cohort = [f"c{place}" for place in range(size)]
        ledger.spend(number, cohort)
        played = size >= 52
        ledger.outcome(number, "released" if played else "aborted", cohort if played else [])
    verdict = verify_ledger(read_ledger(tmp_path / "l"))
    assert verdict.ok, verdict.problems
    assert (verdict.rounds, verdict.released_rounds, verdict.participations) == (4, 2, 3)
    priced = schedule_of(honest()).spent(Adversary.OUTSIDE, DELTA, 3, 4)
    assert verdict.epsilon[Adversary.OUTSIDE] == priced, "outsiders: every round counts"
    assert priced.pld < verdict.epsilon[Adversary.SERVER].pld
    assert ledger.epsilons() == verdict.epsilon


def test_a_fixed_cohort_is_never_empty(tmp_path):
    schedule = ReleaseSchedule(Mode.USER, 1.0, SHARES, 24)
    ledger = Ledger.create(tmp_path / "l", header(schedule))
    with pytest.raises(LedgerMisuse, match="cohort of 0"):
        ledger.spend(1, [])


@pytest.mark.parametrize("claimed", [0.0, 0.5])
def test_a_stranger_recomputes_what_may_fail(tmp_path, claimed):
    Ledger.create(tmp_path / "l", header(schedule_of(claimed * honest())))
    (problem,) = verify_ledger(read_ledger(tmp_path / "l")).problems
    assert "secret cohorts are claimed to fail with probability" in problem


def test_the_file_format_keeps_the_claim():
    for schedule in (schedule_of(0.0), schedule_of(1e-7)):
        encoded = json.loads(json.dumps(encode_schedule(schedule)))
        assert decode_schedule(encoded) == schedule
    assert "failure" not in encode_schedule(schedule_of(0.0))["secret_cohort"]


@pytest.mark.parametrize("failure", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(failure):
    with pytest.raises(InvalidPrivacyParameter):
        SecretCohort(0.1, 10, failure)


def test_the_statement_tells_what_must_stay_inside():
    schedule = schedule_of(1e-7)
    text = guarantee(header(schedule), {a: schedule.epsilon(a, DELTA) for a in Adversary})
    assert "of the run folder only the adapter is published; the ledger names cohorts" in text
    assert "stay with the server and the auditor" in text
    assert "at least 52 survivors" in text
    fixed = ReleaseSchedule(Mode.USER, 1.0, SHARES, 24)
    plain = guarantee(header(fixed), {Adversary.SERVER: fixed.epsilon("server", DELTA)})
    assert "the ledger names cohorts" not in plain
