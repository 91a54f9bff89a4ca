"""Randomised response on labels: by hand, by exact likelihood ratios, and against a wrong bound."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting import (
    EpsilonPair,
    InvalidPrivacyParameter,
    Mode,
    NoiseShares,
    RandomizedLabels,
    RecordCopies,
    ReleaseSchedule,
    decode_schedule,
    encode_schedule,
    label_cost,
)
from tests.unit.accounting.test_guarantee_statement import DISTRIBUTED, PRICES, header

probabilities = st.floats(0.01, 0.49)


def hockey_stick(first, second, epsilon):
    return float(np.maximum(0.0, np.asarray(first) - math.exp(epsilon) * np.asarray(second)).sum())


@pytest.mark.parametrize(("p", "epsilon"), [(0.25, math.log(3)), (0.1, math.log(9))])
def test_flips_alone_by_hand(p, epsilon):
    assert RandomizedLabels(p).epsilon == pytest.approx(epsilon)
    cost = label_cost(RandomizedLabels(p), math.inf, 1e-5)
    assert (cost.pure, cost.epsilon, cost.delta) == (RandomizedLabels(p).epsilon,) * 2 + (0.0,)


def test_flips_and_noise_by_hand():
    """p = 1/4 and odds of 4 between replaced units: (3/4 4 + 1/4) / (1/4 4 + 3/4) = 13 / 7."""
    cost = label_cost(RandomizedLabels(0.25), math.log(2), 1e-6)
    assert cost.epsilon == pytest.approx(math.log(13 / 7))
    # s = 3e-6, and of it 3/4 - 1/4 * 13/7 = 2/7 is left.
    assert cost.delta == pytest.approx(3e-6 * 2 / 7)


@given(probabilities, st.floats(0.01, 4.0), st.floats(1e-9, 1e-3))
def test_the_bound_is_that_of_the_worst_mechanism_and_no_smaller_one_holds(p, unit, delta):
    """The four outcomes that every (r, s)-close pair is post-processing of, mixed by the flips."""
    r, s = 2 * unit, (1 + math.exp(unit)) * delta
    odds = math.exp(r)
    one = np.array([s, (1 - s) * odds / (1 + odds), (1 - s) / (1 + odds), 0.0])
    other = one[::-1]
    first, second = (1 - p) * one + p * other, p * one + (1 - p) * other
    cost = label_cost(RandomizedLabels(p), unit, delta)
    assert hockey_stick(first, second, cost.epsilon) <= cost.delta * (1 + 1e-9) + 1e-15
    assert hockey_stick(first, second, cost.epsilon * 0.99) > cost.delta
    assert hockey_stick(first, second, cost.pure * (1 + 1e-9)) <= 1e-15
    assert cost.epsilon <= min(cost.pure, r) + 1e-12


@given(probabilities, st.floats(0.3, 3.0), st.floats(0.02, 0.48))
def test_it_holds_for_a_noisy_sum_of_flipped_labels(p, sigma, cell):
    """A sum with Gaussian noise, label worth +-1/2: exact, on a fine grid of outputs."""
    z = np.arange(-12 * sigma, 12 * sigma, cell * sigma)
    densities = [np.exp(-((z - c) ** 2) / (2 * sigma**2)) for c in (0.5, -0.5)]
    one, other = (d / d.sum() for d in densities)
    # Zero-out moves the sum by 1/2, so each label against the null record:
    null = np.exp(-(z**2) / (2 * sigma**2))
    null /= null.sum()
    unit = 1.0
    delta = max(hockey_stick(a, b, unit) for v in (one, other) for a, b in ((v, null), (null, v)))
    if not 0 < delta < 0.1:
        return
    cost = label_cost(RandomizedLabels(p), unit, delta)
    first, second = (1 - p) * one + p * other, p * one + (1 - p) * other
    assert hockey_stick(first, second, cost.epsilon) <= cost.delta + 1e-12
    assert hockey_stick(first, second, cost.pure) <= 1e-12


def test_copies_of_a_judgement_are_flipped_each_and_priced_together():
    weak = label_cost(RandomizedLabels(0.25), 0.1, 1e-6, copies=3)
    assert weak.pure == pytest.approx(3 * math.log(3))
    assert weak.epsilon == pytest.approx(0.2)
    assert weak.delta == pytest.approx((1 + math.exp(0.1)) * 1e-6)
    strong = label_cost(RandomizedLabels(0.25), 2.0, 1e-6, copies=3)
    assert (strong.epsilon, strong.delta) == (strong.pure, 0.0)
    copies = RecordCopies(most=3, rounds=200)
    schedule = ReleaseSchedule(
        Mode.DISTRIBUTED, 0.05, DISTRIBUTED.noise, 200, labels=RandomizedLabels(0.25), copies=copies
    )
    assert schedule.label_cost(0.1, 1e-6) == weak
    assert DISTRIBUTED.label_cost(0.1, 1e-6) is None


def test_noise_that_proves_nothing_leaves_the_flips():
    cost = label_cost(RandomizedLabels(0.2), 12.0, 1e-5)  # s would be 1.6
    assert (cost.epsilon, cost.delta) == (cost.pure, 0.0)


@pytest.mark.parametrize("p", [0.0, 0.5, 0.7, -0.1, math.nan])
def test_what_is_no_randomised_response_is_refused(p):
    with pytest.raises(InvalidPrivacyParameter):
        RandomizedLabels(p)


def test_a_schedule_carries_it_and_prices_pairs_as_before():
    noise = NoiseShares(1.0, 20, 5, 2)
    plain = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, noise, 200)
    flipped = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, noise, 200, labels=RandomizedLabels(0.25))
    encoded = encode_schedule(flipped)
    assert encoded.pop("labels") == {"kind": "randomized_response", "flip_probability": 0.25}
    assert encoded == encode_schedule(plain)
    assert decode_schedule(encode_schedule(flipped)) == flipped
    assert flipped.view(flipped.headline) == plain.view(plain.headline)


@pytest.mark.parametrize(
    "labels",
    [None, {}, {"kind": "laplace", "flip_probability": 0.2}, {"kind": "randomized_response"}]
    + [{"kind": "randomized_response", "flip_probability": p} for p in (0.7, "0.2", True)],
)
def test_a_malformed_one_in_a_ledger_is_refused(labels):
    with pytest.raises(InvalidPrivacyParameter):
        decode_schedule({**encode_schedule(DISTRIBUTED), "labels": labels})


def test_the_statement_names_the_label_as_a_unit_of_its_own():
    from accounting import guarantee

    schedule = ReleaseSchedule(
        Mode.DISTRIBUTED, 0.05, DISTRIBUTED.noise, 200, labels=RandomizedLabels(0.25)
    )
    text = guarantee(header(schedule), PRICES)
    assert "flipped once with probability 0.25" in text
    assert "1.0987, delta = 0" in text
    alone = guarantee(
        header(ReleaseSchedule(Mode.NONE, 0.05, None, 9, labels=schedule.labels), None), {}
    )
    assert "NO differential privacy for pairs" in alone
    assert "1.0987, delta = 0" in alone
    strong = guarantee(header(schedule), {name: EpsilonPair(0.5, 0.6) for name in PRICES})
    cost = label_cost(schedule.labels, 0.5, 1e-5)
    found = strong.split("Flips and noise together: epsilon = ")[1].split(" ")[0]
    assert cost.epsilon <= float(found) <= cost.epsilon + 1e-4
