"""Secret Poisson cohorts: why nobody gets credit for them, and how a ledger holds them to account."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from accounting import (
    Adjacency,
    Adversary,
    Budget,
    BudgetExceeded,
    InvalidPrivacyParameter,
    Ledger,
    LedgerHeader,
    LedgerMisuse,
    Mode,
    NoiseShares,
    PrivacyUnit,
    ReleaseSchedule,
    SecretCohort,
    decode_schedule,
    encode_schedule,
    guarantee,
    read_ledger,
    shortfall_probability,
    verify_ledger,
)
from accounting.ledger_format import encode_header

DELTA = 1e-5
SHARES = NoiseShares(1.0, 100, 48, 0)


def schedule_of(rate=0.1, rounds=100, participations=24):
    claim = SecretCohort(rate, rounds)
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


def hockey_stick(held, null, epsilon, step):
    return float(np.maximum(held - math.exp(epsilon) * null, 0.0).sum() * step)


def test_a_sampled_gaussian_would_not_cover_what_the_released_model_tells():
    """One round, 1000 clients at rate 0.1, threshold 52, noise 1; all others send -1, the client 1.

    The noise of M clients has variance M / 52, and in many coordinates it shows M. Given M the
    client is in with probability M / 1000, instead of another: the sum is -M, or -M + 2, or for a
    null record -M + 1. Averaged over M that is several times what a Gaussian sampled at 0.1 with
    noise 1 is booked with, which has one clip norm between its two means.
    """
    x, step = np.linspace(-16.0, 20.0, 36_001, retstep=True)

    def normal(mean, stddev):
        return stats.norm.pdf(x, mean, stddev)

    booked = hockey_stick(0.9 * normal(0, 1) + 0.1 * normal(1, 1), normal(0, 1), 1.0, step)
    assert booked == pytest.approx(2.07e-4, rel=1e-2)

    def told(size):
        stddev, share = math.sqrt(size / 52), size / 1000
        apart = (1 - share) * normal(0, stddev)
        held, null = (apart + share * normal(mean, stddev) for mean in (2, 1))
        return hockey_stick(held, null, 1.0, step)

    assert told(100) == pytest.approx(1.09e-3, rel=1e-2)
    sizes = np.arange(52, 161)
    averaged = float(stats.binom.pmf(sizes, 1000, 0.1) @ [told(size) for size in sizes])
    assert averaged > 5 * booked


def test_the_noise_of_one_round_shows_how_many_joined():
    """Of two shares more or less in a hundred, in as many coordinates as a small adapter has."""
    rng, dimension = np.random.default_rng(3), 200_000
    counted = [
        round(52 * float(np.mean(rng.normal(0, math.sqrt(size / 52), dimension) ** 2)))
        for size in (99, 100, 101)
    ]
    assert counted == [99, 100, 101]


@pytest.mark.parametrize("participations", [1, 24])
def test_outsiders_are_priced_like_the_server(participations):
    schedule = schedule_of(participations=participations)
    outside, server = (schedule.epsilon(a, DELTA) for a in (Adversary.OUTSIDE, Adversary.SERVER))
    assert outside == server
    plain = ReleaseSchedule(Mode.USER, 1.0, SHARES, participations)
    assert outside == plain.epsilon(Adversary.SERVER, DELTA)


def test_how_often_a_cohort_is_too_small_by_hand():
    """Of three clients each joins with 1/2, and two are needed: 4 of 8 cases are too small."""
    assert shortfall_probability(clients=3, rate=0.5, threshold=2) == pytest.approx(0.5)


def test_rounds_of_any_size_are_booked_and_an_empty_cohort_too(tmp_path):
    ledger = Ledger.create(tmp_path / "l", header(schedule_of()))
    for number, size in enumerate((60, 140, 0, 3), start=1):
        cohort = [f"c{place}" for place in range(size)]
        ledger.spend(number, cohort)
        played = size >= 52
        ledger.outcome(number, "released" if played else "aborted", cohort if played else [])
    verdict = verify_ledger(read_ledger(tmp_path / "l"))
    assert verdict.ok, verdict.problems
    assert (verdict.rounds, verdict.released_rounds, verdict.participations) == (4, 2, 3)
    assert ledger.epsilons() == verdict.epsilon


def test_a_fixed_cohort_is_never_empty(tmp_path):
    schedule = ReleaseSchedule(Mode.USER, 1.0, SHARES, 24)
    ledger = Ledger.create(tmp_path / "l", header(schedule))
    with pytest.raises(LedgerMisuse, match="cohort of 0"):
        ledger.spend(1, [])


def test_a_claimed_rate_is_held_against_the_noise(tmp_path):
    Ledger.create(tmp_path / "l", header(schedule_of(rate=1e-8)))
    (problem,) = verify_ledger(read_ledger(tmp_path / "l")).problems
    assert problem == (
        "cohorts are claimed to be drawn at rate 1e-08, and the noise is made for 100 of 1000 "
        "clients"
    )


def test_no_more_rounds_are_booked_than_are_claimed(tmp_path):
    schedule = schedule_of(rounds=2, participations=2)
    ledger = Ledger.create(tmp_path / "l", header(schedule))
    for number in (1, 2):
        assert not ledger.would_exceed(["a"])
        ledger.spend(number, ["a"])
        ledger.outcome(number, "aborted", [])
    assert ledger.would_exceed(["b"])
    with pytest.raises(BudgetExceeded, match="rounds to 3") as caught:
        ledger.spend(3, ["b"])
    assert (caught.value.resource, caught.value.remaining) == ("rounds", 0)
    assert verify_ledger(read_ledger(tmp_path / "l")).ok


def test_a_stranger_counts_the_rounds_too():
    """Verification does not rely on the writer to have refused."""
    claim = SecretCohort(0.1, 1)
    assert claim.problems(clients=1000, cohort=100, rounds=1) == []
    assert claim.problems(clients=1000, cohort=100, rounds=2) == [
        "2 rounds were booked, the plan has 1"
    ]


def test_the_file_format_keeps_the_claim_and_reads_over_an_old_credit():
    schedule = schedule_of()
    encoded = json.loads(json.dumps(encode_schedule(schedule)))
    assert decode_schedule(encoded) == schedule
    encoded["secret_cohort"]["failure"] = 1e-7
    assert decode_schedule(encoded) == schedule
    assert "failure" not in encode_header(header(schedule))["schedule"]["secret_cohort"]


@pytest.mark.parametrize(("rate", "rounds"), [(-0.1, 10), (math.nan, 10), (0.1, 0)])
def test_what_is_no_sample_is_refused(rate, rounds):
    with pytest.raises(InvalidPrivacyParameter):
        SecretCohort(rate, rounds)


def test_the_statement_takes_no_credit():
    schedule = schedule_of()
    text = guarantee(header(schedule), {a: schedule.epsilon(a, DELTA) for a in Adversary})
    assert "for which no credit is taken" in text
    assert "at least 52 survivors" in text
