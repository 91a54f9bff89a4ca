"""Whole clients as the unit, and nodes without a server: anchors, refusals, ledger and words."""

import math

import pytest

from accounting import (
    Adjacency,
    Adversary,
    Budget,
    BudgetExceeded,
    GaussianRelease,
    GridNoise,
    InvalidPrivacyParameter,
    Ledger,
    LedgerHeader,
    Mode,
    NoiseShares,
    PrivacyUnit,
    ReleaseSchedule,
    Repeated,
    SecretCohort,
    decode_schedule,
    encode_schedule,
    guarantee,
    read_ledger,
    verify_ledger,
)

DELTA = 1e-5
SHARES = NoiseShares(1.0, 20, 5, 2)
ALONE = NoiseShares(1.0, 100, 0, 0)
TENTH = SecretCohort(0.1, 100)
USER = ReleaseSchedule(Mode.USER, 1.0, SHARES, 10, local_steps=4)
HIDDEN = ReleaseSchedule(Mode.USER, 1.0, ALONE, 10, secret_cohort=TENTH)
GOSSIP = ReleaseSchedule(Mode.GOSSIP, 0.05, 1.0, 100, local_steps=5)


def header(schedule, **changes):
    fields = {
        "run_id": "r",
        "plan_hash": "1",
        "config_hash": "2",
        "unit": schedule.unit,
        "adjacency": Adjacency.ZERO_OUT,
        "budget": Budget(math.inf, DELTA),
        "schedule": schedule,
        "clients": 1000,
    }
    return LedgerHeader(**{**fields, **changes})


@pytest.mark.parametrize(("rounds", "epsilon"), [(1, 4.377), (10, 17.857), (100, 91.82)])
def test_the_server_sees_a_plain_gaussian_per_participation(rounds, epsilon):
    schedule = ReleaseSchedule(Mode.USER, 1.0, ALONE, rounds)
    for adversary in (Adversary.SERVER, Adversary.COALITION, Adversary.OUTSIDE):
        assert schedule.epsilon(adversary, DELTA).pld == pytest.approx(epsilon, rel=1e-3)


def test_a_secret_cohort_amplifies_against_nobody():
    """Noise comes in shares, so the released model shows how many joined: no credit is taken."""
    for adversary in (Adversary.SERVER, Adversary.COALITION, Adversary.OUTSIDE):
        assert HIDDEN.epsilon(adversary, DELTA).pld == pytest.approx(17.857, rel=1e-3)
        assert HIDDEN.view(adversary) == (Repeated(GaussianRelease(1.0), 10),)


def test_user_noise_per_adversary_and_one_release_per_round_whatever_the_local_steps():
    expected = {
        Adversary.COALITION: 1.0,
        Adversary.SERVER: math.sqrt(15 / 13),
        Adversary.OUTSIDE: math.sqrt(15 / 13),
        Adversary.NO_SECAGG: math.sqrt(1 / 13),
    }
    for adversary, noise in expected.items():
        one = USER.round_events(adversary)
        assert one.count == 1
        assert one.event.noise_multiplier == pytest.approx(noise)
        assert isinstance(one.event, GaussianRelease)
    seen = USER.realised_round(20)
    assert seen == Repeated(GaussianRelease(math.sqrt(18 / 13)), 1)
    assert USER.realised_round(None) == USER.round_events(Adversary.COALITION)


def test_gossip_costs_the_same_against_everybody_as_local_noise():
    local = ReleaseSchedule(Mode.LOCAL, 0.05, 1.0, 100, local_steps=5)
    for adversary in Adversary:
        assert GOSSIP.view(adversary) == local.view(adversary)
    assert GOSSIP.epsilon(GOSSIP.headline, DELTA).pld == pytest.approx(7.524, rel=1e-3)
    assert GOSSIP.realised_round(3) == GOSSIP.round_events(Adversary.COALITION)
    assert GOSSIP.cohort is None
    assert GOSSIP.threshold is None


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": Mode.USER, "noise": 1.0, "sample_rate": 1.0},
        {"mode": Mode.USER, "noise": SHARES, "sample_rate": 0.5},
        {"mode": Mode.GOSSIP, "noise": SHARES},
        {"mode": Mode.GOSSIP, "noise": None},
        {"mode": Mode.GOSSIP, "noise": 1.0, "secret_cohort": TENTH},
        {"mode": Mode.DISTRIBUTED, "noise": SHARES, "secret_cohort": TENTH},
        {
            "mode": Mode.USER,
            "noise": SHARES,
            "sample_rate": 1.0,
            "participations": 101,
            "secret_cohort": TENTH,
        },
    ],
)
def test_schedules_that_describe_no_mechanism_are_refused(fields):
    with pytest.raises(InvalidPrivacyParameter):
        ReleaseSchedule(**{"sample_rate": 0.1, "participations": 5, **fields})


@pytest.mark.parametrize(("rate", "rounds"), [(0.0, 5), (1.1, 5), (0.5, 0)])
def test_a_secret_cohort_outside_its_range_is_refused(rate, rounds):
    with pytest.raises(InvalidPrivacyParameter):
        SecretCohort(rate, rounds)


@pytest.mark.parametrize(
    ("schedule", "unit"),
    [(USER, PrivacyUnit.PAIR), (GOSSIP, PrivacyUnit.USER)],
)
def test_a_header_whose_unit_is_not_that_of_the_noise_is_refused(schedule, unit):
    with pytest.raises(InvalidPrivacyParameter, match="unit"):
        header(schedule, unit=unit)
    assert header(schedule).unit is schedule.unit


GRID = GridNoise(1.0, 2.0**14, 20, 5, 2, 10**6, 200)


@pytest.mark.parametrize(
    "schedule", [USER, HIDDEN, GOSSIP, ReleaseSchedule(Mode.USER, 1.0, GRID, 3)]
)
def test_schedules_survive_json(schedule):
    assert decode_schedule(encode_schedule(schedule)) == schedule


@pytest.mark.parametrize(
    "cohort",
    [
        None,
        {"rate": 0.1},
        {"rate": "0.1", "rounds": 5},
        {"rate": 0.1, "rounds": 5.0},
        {"rate": 2.0, "rounds": 5},
        {"rate": 0.1, "rounds": 5, "more": 1},
    ],
)
def test_decoding_a_secret_cohort_is_strict(cohort):
    with pytest.raises(InvalidPrivacyParameter):
        decode_schedule({**encode_schedule(HIDDEN), "secret_cohort": cohort})


def test_a_ledger_counts_participations_whatever_the_sizes_of_cohorts(tmp_path):
    """Two disjoint cohorts in turn: every client joins half of the rounds, at most two."""
    claim = SecretCohort(4 / 1000, 100)
    schedule = ReleaseSchedule(Mode.USER, 1.0, NoiseShares(1.0, 4, 1, 0), 2, secret_cohort=claim)
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger.create(path, header(schedule))
    cohorts = (("a", "b", "c"), ("d", "e", "f", "g", "h"))
    for round_ in range(4):
        ledger.spend(round_, cohorts[round_ % 2])
        ledger.outcome(round_, "released", cohorts[round_ % 2][:3])
    with pytest.raises(BudgetExceeded):
        ledger.spend(4, ("a", "h", "z"))
    ledger.close("done", {})
    verdict = verify_ledger(read_ledger(path))
    assert verdict.ok, verdict.problems
    assert verdict.epsilon == ledger.epsilons()
    for adversary in (Adversary.SERVER, Adversary.OUTSIDE):
        assert verdict.epsilon[adversary] == schedule.spent(adversary, DELTA, 2, 4)
    assert Ledger.open(path).epsilons() == verdict.epsilon


def test_a_user_ledger_without_secret_cohorts_holds_the_cohort_to_its_size(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger.jsonl", header(USER))
    with pytest.raises(Exception, match="cohort of 3"):
        ledger.spend(0, ("a", "b", "c"))


def test_the_words_name_the_user_and_who_does_not_know():
    prices = {adversary: HIDDEN.epsilon(adversary, DELTA) for adversary in Adversary}
    text = guarantee(header(HIDDEN), prices)
    for words in (
        "mode user",
        "all preference pairs of one user",
        "users join each of 100 rounds with probability 0.1, for which no credit is taken",
        "no credit for hidden participation",
        "whose whole update is clipped once",
        "secure aggregation opens one sum",
    ):
        assert words in text
    assert "every pair joins a batch" not in text


def test_the_words_name_nodes_and_no_server():
    prices = {adversary: GOSSIP.epsilon(adversary, DELTA) for adversary in Adversary}
    text = guarantee(header(GOSSIP), prices)
    for words in ("mode gossip", "all other nodes together", "there is no server", "the node"):
        assert words in text
    assert "secure aggregation opens" not in text
