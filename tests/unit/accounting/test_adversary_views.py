"""One schedule, four adversaries; and its strict JSON."""

import math

import pytest

from accounting import (
    Adversary,
    GridNoise,
    InvalidPrivacyParameter,
    Mode,
    NoiseShares,
    PoissonGaussianRelease,
    ReleaseSchedule,
    Repeated,
    UnprotectedRelease,
    decode_schedule,
    encode_schedule,
)

SHARES = NoiseShares(1.0, 20, 5, 2)
GRID = GridNoise(1.0, 2.0**14, 20, 5, 2, 10**6, 200)
OWN_GRID = GridNoise(1.5, 2.0**14, 1, 0, 0, 10**6, 500)
DISTRIBUTED = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, SHARES, 200)
LOCAL = ReleaseSchedule(Mode.LOCAL, 0.05, 1.0, 100, local_steps=5)
NONE = ReleaseSchedule(Mode.NONE, 0.05, None, 10, local_steps=3)
SCHEDULES = [
    DISTRIBUTED,
    LOCAL,
    NONE,
    ReleaseSchedule(Mode.DISTRIBUTED, 0.05, GRID, 200),
    ReleaseSchedule(Mode.LOCAL, 0.5, OWN_GRID, 7, local_steps=2),
]


@pytest.mark.parametrize(
    ("adversary", "epsilon"),
    [(Adversary.COALITION, 4.7659), (Adversary.SERVER, 4.1436), (Adversary.OUTSIDE, 4.1436)],
)
def test_distributed_epsilon_per_adversary(adversary, epsilon):
    assert DISTRIBUTED.epsilon(adversary, 1e-5).pld == pytest.approx(epsilon, rel=1e-3)


def test_without_secure_aggregation_a_share_protects_next_to_nothing():
    (spend,) = DISTRIBUTED.view(Adversary.NO_SECAGG)
    assert spend.event.noise_multiplier == pytest.approx(1 / math.sqrt(13))
    assert DISTRIBUTED.epsilon(Adversary.NO_SECAGG, 1e-5).pld > 100


def test_the_headline_is_the_coalition_at_the_guaranteed_noise():
    assert DISTRIBUTED.headline is Adversary.COALITION
    assert DISTRIBUTED.view(DISTRIBUTED.headline) == (
        Repeated(PoissonGaussianRelease(0.05, 1.0), 200),
    )
    assert DISTRIBUTED.round_events(Adversary.SERVER).event.noise_multiplier == pytest.approx(
        math.sqrt(15 / 13)
    )


def test_local_noise_is_the_same_for_everyone_and_counts_every_step():
    for adversary in Adversary:
        assert LOCAL.view(adversary) == (Repeated(PoissonGaussianRelease(0.05, 1.0), 500),)
        assert LOCAL.round_events(adversary).count == 5
    assert LOCAL.epsilon(Adversary.NO_SECAGG, 1e-5).pld == pytest.approx(7.524, rel=1e-3)


def test_without_noise_every_adversary_has_infinite_epsilon():
    for adversary in Adversary:
        assert NONE.epsilon(adversary, 1e-5).pld == math.inf
        assert NONE.round_events(adversary).event == UnprotectedRelease()


def test_the_grid_gives_the_same_view_within_its_slack():
    on_grid = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, GRID, 200)
    for adversary in Adversary:
        line, grid = (s.epsilon(adversary, 1e-5).pld for s in (DISTRIBUTED, on_grid))
        assert grid == pytest.approx(line, rel=1e-5)
    assert on_grid.slack == GRID.slack
    inexact = GridNoise(1.0, 2.0**14, 20, 5, 2, 10**6, 200, sampler_relative_error=1e-10)
    slack = inexact.slack
    schedule = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, inexact, 200)
    gap = schedule.epsilon(Adversary.COALITION, 1e-5).pld - 4.76592
    assert gap >= slack.epsilon - 1e-5
    assert schedule.curve(Adversary.COALITION, 1e-5).certified(200) == schedule.epsilon(
        Adversary.COALITION, 1e-5
    )


def test_realised_rounds_use_the_survivors_there_were():
    assert DISTRIBUTED.realised_round(20).event.noise_multiplier == pytest.approx(
        math.sqrt(18 / 13)
    )
    guaranteed = DISTRIBUTED.round_events(Adversary.COALITION)
    for unknown in (None, 14, 0):
        assert DISTRIBUTED.realised_round(unknown) == guaranteed
    assert DISTRIBUTED.realised_round(15).event.noise_multiplier == pytest.approx(1.0)
    assert DISTRIBUTED.realised_round(99) == DISTRIBUTED.realised_round(20)
    assert LOCAL.realised_round(3) == LOCAL.round_events(Adversary.COALITION)


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": Mode.DISTRIBUTED, "noise": 1.0},
        {"mode": Mode.DISTRIBUTED, "noise": None},
        {"mode": Mode.DISTRIBUTED, "noise": SHARES, "local_steps": 2},
        {"mode": Mode.LOCAL, "noise": SHARES},
        {"mode": Mode.LOCAL, "noise": None},
        {"mode": Mode.LOCAL, "noise": GRID},
        {"mode": Mode.LOCAL, "noise": 0.0},
        {"mode": Mode.NONE, "noise": 1.0},
        {"mode": Mode.LOCAL, "noise": 1.0, "sample_rate": 0.0},
        {"mode": Mode.LOCAL, "noise": 1.0, "participations": 0},
        {"mode": Mode.LOCAL, "noise": 1.0, "local_steps": 0},
    ],
)
def test_schedules_that_describe_no_mechanism_are_refused(fields):
    with pytest.raises(InvalidPrivacyParameter):
        ReleaseSchedule(**{"sample_rate": 0.1, "participations": 5, **fields})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_survive_json(schedule):
    assert decode_schedule(encode_schedule(schedule)) == schedule


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "central"},
        {"participations": 2.5},
        {"participations": True},
        {"sample_rate": "0.1"},
        {"noise": 1.0},
        {"noise": {"kind": "shares", "noise_multiplier": 1.0}},
        {"noise": {"kind": "own", "noise_multiplier": 1.0, "cohort": 3}},
        {"noise": {"kind": "other"}},
        {"noise": {"kind": "own", "noise_multiplier": "1"}},
        {"surprise": 1},
    ],
)
def test_decoding_a_schedule_is_strict(change):
    with pytest.raises(InvalidPrivacyParameter):
        decode_schedule({**encode_schedule(LOCAL), **change})


def test_a_missing_field_is_refused():
    encoded = encode_schedule(LOCAL)
    del encoded["local_steps"]
    with pytest.raises(InvalidPrivacyParameter):
        decode_schedule(encoded)
