import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privfed_dpo.data.tokenize import pair_key
from privfed_dpo.dpo.label_privacy import RandomizedResponse
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.errors import ModelError
from privfed_dpo.mechanism.keystream import Keystream
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from tests.support.toy_models import make_pair, shaken, toy_model, toy_pairs

PAIR = make_pair([1, 2], [3], [4, 5])


def _words(*values):
    return np.array(values, dtype=np.uint64)


@pytest.mark.parametrize(
    ("probability", "epsilon"),
    [(0.25, math.log(3)), (0.1, math.log(9)), (1 / 3, math.log(2)), (0.01, math.log(99))],
)
def test_the_loss_by_hand(probability, epsilon):
    assert RandomizedResponse(probability).epsilon == pytest.approx(epsilon, rel=1e-14)
    assert RandomizedResponse.for_epsilon(epsilon).flip_probability == pytest.approx(probability)


@given(epsilon=st.floats(1e-9, 30.0))
def test_an_epsilon_asked_for_is_kept_by_what_is_really_drawn(epsilon):
    response = RandomizedResponse.for_epsilon(epsilon)
    flipped = Fraction(response._threshold(), 1 << 64)
    assert 0 < flipped <= Fraction(1, 2)
    # Exact: the odds of the outcome under the one order over the odds under the other.
    drawn = math.log1p(float(1 - 2 * flipped) / float(flipped))
    assert drawn <= epsilon * (1 + 1e-9)
    assert drawn <= response.epsilon * (1 + 1e-9)
    assert drawn >= epsilon * (1 - 1e-6) - 1e-15


def test_words_below_the_threshold_flip_and_others_do_not():
    response = RandomizedResponse(0.25)
    edge = 1 << 62
    found = response.privatize([PAIR] * 4, _words(0, edge - 1, edge, 2**64 - 1))
    assert [p.chosen for p in found] == [(4, 5), (4, 5), (3,), (3,)]
    assert [p.rejected for p in found] == [(3,), (3,), (4, 5), (4, 5)]
    assert {p.prompt for p in found} == {(1, 2)}
    # The key names the pair in caches of reference scores, so it follows the order.
    assert [p.key for p in found] == [pair_key(p.prompt, p.chosen, p.rejected) for p in found]


def test_the_share_of_flips_fits_the_probability_and_no_other():
    pairs, probability = toy_pairs(20_000, seed=1), 0.2
    words = Keystream(bytes(range(32))).words(len(pairs))
    found = RandomizedResponse(probability).privatize(pairs, words)
    flips = sum(a is not b for a, b in zip(found, pairs, strict=True))
    assert stats.binomtest(flips, len(pairs), probability).pvalue > 1e-4
    for wrong in (0.18, 0.22):
        assert stats.binomtest(flips, len(pairs), wrong).pvalue < 1e-8


def test_gradients_of_the_debiased_loss_are_those_of_the_true_order_on_average():
    pairs = toy_pairs(5, seed=2)
    adapter = shaken(Adapter.attach(toy_model("llama"), AdapterSpec(rank=2)), scale=0.05)
    response = RandomizedResponse(0.2)
    debiased = response.debiased_loss(0.5)
    reference = ReferenceLogprobs(adapter, fingerprint="toy")

    def mean(pairs, loss):
        gradients = PairGradients(
            adapter, loss=loss.kind, beta=loss.beta, label_smoothing=loss.label_smoothing
        )
        return gradients.mean_gradient(pairs, reference(pairs))

    flipped = response.privatize(pairs, _words(*[0] * 5))
    average = 0.8 * mean(pairs, debiased) + 0.2 * mean(flipped, debiased)
    truth = mean(pairs, type(debiased)("sigmoid", 0.5))
    assert np.linalg.norm(average - truth) < 1e-4 * np.linalg.norm(truth)
    # The control: without debiasing the flips bias the gradient.
    naive = type(debiased)("sigmoid", 0.5)
    biased = 0.8 * mean(pairs, naive) + 0.2 * mean(flipped, naive)
    assert np.linalg.norm(biased - truth) > 0.05 * np.linalg.norm(truth)


@pytest.mark.parametrize("probability", [0.0, 0.5, 0.7, -0.1, math.nan])
def test_probabilities_that_are_no_response_are_refused(probability):
    with pytest.raises(ModelError, match="not a randomised response"):
        RandomizedResponse(probability)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_epsilons_that_cannot_be_kept_are_refused(epsilon):
    with pytest.raises(ModelError, match="cannot be kept"):
        RandomizedResponse.for_epsilon(epsilon)


@pytest.mark.parametrize(
    "words", [_words(1, 2), np.zeros(1, dtype=np.int64), np.zeros((1, 1), dtype=np.uint64)]
)
def test_words_that_do_not_fit_are_refused(words):
    with pytest.raises(ModelError, match="64-bit words"):
        RandomizedResponse(0.2).privatize([PAIR], words)
