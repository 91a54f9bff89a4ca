"""Budgets, deltas and events: what is accepted, what is refused, and strict JSON."""

import math

import pytest

from accounting import (
    AccountingError,
    Adjacency,
    Budget,
    BudgetExceeded,
    GaussianRelease,
    InvalidPrivacyParameter,
    PoissonGaussianRelease,
    PrivacyUnit,
    Repeated,
    UnprotectedRelease,
    UnsupportedMechanism,
    decode_event,
    default_delta,
    encode_event,
)


def test_default_delta_is_below_one_over_n_and_at_most_1e_minus_5():
    assert default_delta(100) == 1e-5
    assert default_delta(10**6) == pytest.approx(10**-6.6)
    assert default_delta(10**6) < 1e-6
    with pytest.raises(InvalidPrivacyParameter):
        default_delta(0)


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0), (1.0, math.nan)],
)
def test_impossible_budgets_are_refused(epsilon, delta):
    with pytest.raises(InvalidPrivacyParameter) as caught:
        Budget(epsilon, delta)
    assert caught.value.parameter in ("epsilon", "delta")
    assert caught.value.advice


def test_an_infinite_epsilon_is_a_budget_that_only_measures():
    assert Budget(math.inf, 1e-5).epsilon == math.inf


@pytest.mark.parametrize("noise", [0.0, -1.0, 1e-7, 1e10, math.inf, math.nan])
def test_noise_must_be_finite_and_positive(noise):
    with pytest.raises(InvalidPrivacyParameter):
        GaussianRelease(noise)
    with pytest.raises(InvalidPrivacyParameter):
        PoissonGaussianRelease(0.1, noise)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1e-13, 1.1, math.nan])
def test_rates_are_probabilities_above_zero(rate):
    with pytest.raises(InvalidPrivacyParameter):
        PoissonGaussianRelease(rate, 1.0)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, 10**13])
def test_counts_are_whole_and_positive(count):
    with pytest.raises(InvalidPrivacyParameter):
        Repeated(GaussianRelease(1.0), count)


@pytest.mark.parametrize(
    "encoded",
    [
        {},
        {"kind": "laplace", "noise_multiplier": 1.0},
        {"kind": "gaussian"},
        {"kind": "gaussian", "noise_multiplier": 1.0, "sample_rate": 0.1},
        {"kind": "gaussian", "noise_multiplier": "1.0"},
        {"kind": "gaussian", "noise_multiplier": True},
        {"kind": ["gaussian"], "noise_multiplier": 1.0},
        {"kind": "poisson_gaussian", "sample_rate": None, "noise_multiplier": 1.0},
    ],
)
def test_decoding_is_strict(encoded):
    with pytest.raises(UnsupportedMechanism):
        decode_event(encoded)


def test_decoding_checks_ranges_too():
    with pytest.raises(InvalidPrivacyParameter):
        decode_event({"kind": "gaussian", "noise_multiplier": 0.0})


@pytest.mark.parametrize(
    "event", [GaussianRelease(1.5), PoissonGaussianRelease(0.05, 0.7), UnprotectedRelease()]
)
def test_events_survive_json(event):
    assert decode_event(encode_event(event)) == event


def test_errors_share_a_root_and_carry_their_facts():
    error = BudgetExceeded(4.2, 0.3)
    assert isinstance(error, AccountingError)
    assert (error.requested, error.remaining, error.resource) == (4.2, 0.3, "epsilon")
    assert "4.2" in str(error)
    assert "0.3" in str(error)


def test_the_vocabulary_is_stable():
    """These words stand in ledgers; changing one breaks every old file."""
    assert {str(unit) for unit in PrivacyUnit} == {"pair", "user"}
    assert {str(adjacency) for adjacency in Adjacency} == {"zero_out", "replace_one"}
