import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.audit.guesses import (
    guessing_ceiling,
    highest_correct,
    planned_guesses,
    surest_correct,
)


def test_guesses_are_enough_to_refute_the_claim_by_hand():
    """Claim 3: aim at 3.3, whose odds are 27.11, p = .96443; ln 20 / -ln p = 82.7, so r = 83."""
    assert planned_guesses(200, 3.0, confidence=0.95) == 83
    assert guessing_ceiling(200, 83, 0.0, confidence=0.95) == pytest.approx(
        math.log(0.05 ** (1 / 83) / (1 - 0.05 ** (1 / 83))), abs=1e-9
    )


def test_a_twentieth_is_guessed_where_that_is_enough_or_nothing_is():
    assert planned_guesses(1000, 2.0, confidence=0.95) == 50
    assert planned_guesses(1000, 12.0, confidence=0.95) == 50, "even 1000 guesses stop at 5.8"
    assert planned_guesses(100, 12.0, confidence=0.95) == 30, "five would prove nothing"
    assert planned_guesses(7, 12.0, confidence=0.95) == 3


def test_without_a_claim_half_of_the_canaries_are_guessed():
    assert planned_guesses(1000, math.inf, confidence=0.95) == 500
    assert planned_guesses(1, math.inf, confidence=0.95) == 1


@given(
    canaries=st.integers(1, 3000),
    claimed=st.floats(0.0, 30.0),
    confidence=st.floats(0.5, 0.9999),
)
def test_the_number_of_guesses_is_possible_and_useful(canaries, claimed, confidence):
    guesses = planned_guesses(canaries, claimed, confidence=confidence)
    assert 1 <= guesses <= canaries
    if guesses > max(30, canaries // 20):
        assert guessing_ceiling(canaries, guesses, 0.0, confidence=confidence) > claimed


def test_surest_guesses_by_hand():
    scores = np.array([3.0, -2.5, 0.1, 2.0, -0.2])
    coins = np.array([True, False, False, False, True])
    assert surest_correct(scores, coins, 3) == 2  # 3 in: right, -2.5 out: right, 2 in: wrong
    assert surest_correct(scores, coins, 5) == 2


def test_highest_guesses_by_hand():
    scores = np.array([3.0, -2.5, 0.1, 2.0, -0.2])
    coins = np.array([True, True, False, False, True])
    assert highest_correct(scores, coins, 1) == 1
    assert highest_correct(scores, coins, 2) == 1
    assert highest_correct(scores, coins, 5) == 3


@given(coins=st.lists(st.booleans(), min_size=4, max_size=30), data=st.data())
def test_ties_are_broken_without_looking_at_the_coins(coins, data):
    truth = np.array(coins)
    guesses = data.draw(st.integers(1, truth.size))
    scores = np.ones(truth.size)
    assert surest_correct(scores, truth, guesses) == truth[:guesses].sum()
    assert highest_correct(scores, truth, guesses) == truth[:guesses].sum()
