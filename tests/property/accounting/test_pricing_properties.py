"""What must hold for every mechanism, not only for the recorded ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import (
    Adversary,
    GaussianRelease,
    GridNoise,
    InvalidPrivacyParameter,
    Mode,
    NoiseShares,
    PoissonGaussianRelease,
    ReleaseSchedule,
    Repeated,
    decode_event,
    decode_schedule,
    encode_event,
    encode_schedule,
    gaussian_epsilon,
    participation_epsilon,
    pld_epsilon,
    rdp_epsilon,
)

RATES = st.floats(0.001, 1.0)
NOISES = st.floats(0.5, 20.0)
EVENTS = st.one_of(
    st.builds(GaussianRelease, NOISES), st.builds(PoissonGaussianRelease, RATES, NOISES)
)
COARSE = 1e-2


def coarse(event, count, delta=1e-5):
    return pld_epsilon([Repeated(event, count)], delta, interval=COARSE)


@settings(max_examples=60, deadline=None)
@given(event=EVENTS, count=st.integers(1, 200))
def test_pld_stays_below_both_other_upper_bounds(event, count):
    spends = [Repeated(event, count)]
    certified = coarse(event, count)
    rounding = 1 + 1e-9
    assert 0 <= certified <= participation_epsilon(spends, 1e-5) * rounding
    assert certified <= rdp_epsilon(spends, 1e-5) * rounding


@settings(max_examples=20, deadline=None)
@given(rate=RATES, noise=NOISES, count=st.integers(1, 100), more=st.floats(1.01, 3))
def test_epsilon_falls_with_noise_and_rises_with_rate_count_and_certainty(rate, noise, count, more):
    event = PoissonGaussianRelease(rate, noise)
    here = coarse(event, count)
    slack = 1 + 1e-6
    assert coarse(PoissonGaussianRelease(rate, noise * more), count) <= here * slack + 2 * COARSE
    assert coarse(PoissonGaussianRelease(rate / more, noise), count) <= here * slack + 2 * COARSE
    assert here <= coarse(event, count + 1) * slack + 1e-9
    assert here <= coarse(event, count, 1e-6) * slack + 1e-9
    assert here <= coarse(GaussianRelease(noise), count) * slack + 2 * COARSE


@settings(max_examples=100, deadline=None)
@given(noise=NOISES, count=st.integers(1, 1000))
def test_unsampled_releases_add_up_in_squares(noise, count):
    together = pld_epsilon([Repeated(GaussianRelease(noise), count)], 1e-5)
    assert together == pytest.approx(gaussian_epsilon(count**0.5 / noise, 1e-5), rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(event=EVENTS)
def test_events_survive_json(event):
    assert decode_event(encode_event(event)) == event


@st.composite
def cohorts(draw):
    """Any cohort, drop-out tolerance and number of colluders, good or bad."""
    cohort = draw(st.integers(1, 200))
    return cohort, draw(st.integers(0, cohort)), draw(st.integers(0, cohort))


@settings(max_examples=300, deadline=None)
@given(numbers=cohorts(), noise=NOISES)
def test_shares_are_refused_or_suffice_for_every_allowed_outcome(numbers, noise):
    cohort, dropouts, colluders = numbers
    if 2 * (cohort - dropouts) <= cohort + colluders:
        with pytest.raises(InvalidPrivacyParameter):
            NoiseShares(noise, *numbers)
        return
    shares = NoiseShares(noise, *numbers)
    for dropped in {0, dropouts // 2, dropouts}:
        for colluding in {0, colluders // 2, colluders}:
            assert shares.seen_noise_multiplier(dropped, colluding) >= noise * (1 - 1e-12)
    if dropouts + 1 + colluders < cohort:
        assert shares.seen_noise_multiplier(dropouts + 1, colluders) < noise


@settings(max_examples=200, deadline=None)
@given(numbers=cohorts(), noise=NOISES, bits=st.integers(6, 22))
def test_grid_shares_suffice_for_every_allowed_outcome(numbers, noise, bits):
    try:
        grid = GridNoise(noise, 2.0**bits, *numbers, 1000, 100)
    except InvalidPrivacyParameter:
        return
    cohort, dropouts, colluders = numbers
    for dropped in {0, dropouts // 2, dropouts}:
        for colluding in {0, colluders // 2, colluders}:
            assert grid.seen_noise_multiplier(dropped, colluding) >= noise * (1 - 1e-9)
    honest = cohort - dropouts - colluders
    variance = honest * grid.share_stddev_steps**2 - grid.smoothing_steps**2
    assert variance**0.5 / 2.0**bits == pytest.approx(noise, rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(numbers=cohorts(), noise=NOISES, rate=RATES, rounds=st.integers(1, 10**6))
def test_schedules_survive_json_and_rank_their_adversaries(numbers, noise, rate, rounds):
    try:
        shares = NoiseShares(noise, *numbers)
    except InvalidPrivacyParameter:
        return
    schedule = ReleaseSchedule(Mode.DISTRIBUTED, rate, shares, rounds)
    assert decode_schedule(encode_schedule(schedule)) == schedule
    faced = {adversary: schedule.noise_multiplier(adversary) for adversary in Adversary}
    assert faced[Adversary.NO_SECAGG] <= faced[Adversary.COALITION] * (1 + 1e-12)
    assert faced[Adversary.COALITION] <= faced[Adversary.SERVER] * (1 + 1e-12)
    assert faced[Adversary.COALITION] == pytest.approx(noise)
