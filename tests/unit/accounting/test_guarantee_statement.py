"""The guarantee in words never says more than the numbers."""

import math
import re

import pytest

from accounting import (
    Adjacency,
    Adversary,
    Budget,
    EpsilonPair,
    GridNoise,
    LedgerHeader,
    Mode,
    NoiseShares,
    PrivacyUnit,
    ReleaseSchedule,
    guarantee,
)

DISTRIBUTED = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, NoiseShares(1.0, 20, 5, 2), 200)
LOCAL = ReleaseSchedule(Mode.LOCAL, 0.05, 1.0, 100, local_steps=5)
PRICES = {
    Adversary.COALITION: EpsilonPair(4.76591, 5.36781),
    Adversary.SERVER: EpsilonPair(4.14361, 4.65331),
    Adversary.OUTSIDE: EpsilonPair(4.14361, 4.65331),
    Adversary.NO_SECAGG: EpsilonPair(116.417, math.inf),
}


def header(schedule, budget=Budget(5.0, 1e-5)):  # noqa: B008
    return LedgerHeader(
        run_id="r",
        plan_hash="1",
        config_hash="2",
        unit=PrivacyUnit.PAIR,
        adjacency=Adjacency.ZERO_OUT,
        budget=budget,
        schedule=schedule,
        clients=20,
    )


def test_every_adversary_stands_with_its_numbers_rounded_up():
    text = guarantee(header(DISTRIBUTED), PRICES)
    for adversary, pair in PRICES.items():
        found = re.search(rf"  {adversary}: (\S+) \(RDP (\S+)\)", text)
        for shown, exact in zip(found.groups(), (pair.pld, pair.rdp), strict=True):
            shown = math.inf if shown == "infinite" else float(shown)
            assert exact <= shown
            assert shown == math.inf or shown <= exact + 1e-4
    assert "delta = 1e-05" in text


def test_it_names_unit_adjacency_assumptions_and_limits():
    text = guarantee(header(DISTRIBUTED), PRICES, participations=136, realised=4.21)
    for words in (
        "one preference pair",
        "zero-out",
        "136 rounds",
        "2 colluding clients, 15 of 20 survivors",
        "This holds if:",
        "none below the threshold",
        "Not protected:",
        "a person with several pairs",
        "4.2100",
    ):
        assert words in text
    assert 15 <= len(text.splitlines()) <= 26


def test_local_mode_asks_nothing_of_secure_aggregation():
    prices = {adversary: LOCAL.epsilon(adversary, 1e-5) for adversary in Adversary}
    text = guarantee(header(LOCAL), prices)
    assert "secure aggregation opens" not in text
    assert "all other clients" in text
    assert "the client itself follows the protocol" in text


def test_without_noise_it_promises_nothing():
    schedule = ReleaseSchedule(Mode.NONE, 0.05, None, 9)
    text = guarantee(header(schedule, budget=None), {})
    assert "NO differential privacy" in text
    assert "infinite" in text
    assert "upper bounds" not in text.lower()


def test_an_adversary_without_a_number_is_not_mentioned():
    text = guarantee(header(DISTRIBUTED), {Adversary.SERVER: EpsilonPair(1.0, 2.0)})
    assert "  server:" in text
    assert "  outside:" not in text


def test_the_slack_of_a_discrete_mechanism_is_told():
    grid = GridNoise(1.0, 2.0**14, 20, 5, 2, 10**6, 200, sampler_relative_error=2.0**-45)
    schedule = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, grid, 200)
    assert "6.7e-08 in log ratio" in guarantee(header(schedule), PRICES)


@pytest.mark.parametrize("participations", [None, 0, 7])
def test_the_scope_is_what_was_booked(participations):
    text = guarantee(header(DISTRIBUTED), PRICES, participations=participations)
    assert f"what {200 if participations is None else participations} rounds release" in text
