"""The synthetic task is what it says: grammar, tastes, separation and a known best score."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from privfed_dpo.data.partition import partition_pairs
from privfed_dpo.data.synthetic import NOUNS, VERBS, synthetic_task
from privfed_dpo.errors import DataError
from tests.support.answer_levels import differences


@pytest.fixture(scope="module", params=[1, 2])
def task(request):
    return synthetic_task(
        clients=8,
        pairs_per_client=250,
        eval_pairs=403,
        seed=11,
        wordings=request.param,
        warmup_texts=500,
    )


def test_sizes_users_and_topics(task):
    assert len(task.train) == 2000
    assert set(Counter(pair.user for pair in task.train).values()) == {250}
    held = Counter(pair.user for pair in task.evaluation)
    assert sorted(held.values()) == [50] * 5 + [51] * 3
    assert set(held) == {pair.user for pair in task.train}
    assert {pair.topic for pair in task.train} == set(NOUNS)
    shards = partition_pairs(task.train, kind="natural", min_pairs=20).shards
    assert [shard.client for shard in shards] == [f"user-{index:03d}" for index in range(8)]


def test_held_out_texts_are_new(task):
    trained = {pair.prompt for pair in task.train} | {
        text[: text.index("?") + 1] for text in task.warmup_texts
    }
    assert trained.isdisjoint(pair.prompt for pair in task.evaluation)
    words = {word for prompt in trained for word in prompt.split()}
    assert words.issuperset(VERBS)
    assert words.issuperset(NOUNS)


def test_every_word_is_in_the_vocabulary(task):
    texts = [*task.warmup_texts]
    for pair in task.train + task.evaluation:
        texts += [pair.prompt + pair.chosen, pair.prompt + pair.rejected]
    words = {word for text in texts for word in text.split(" ")}
    assert words <= set(task.vocabulary)
    assert list(task.vocabulary) == sorted(set(task.vocabulary))
    assert len(task.vocabulary) >= 90


def test_answers_follow_the_grammar_and_differ_in_level(task):
    assert np.all(np.any(differences(task.train + task.evaluation) != 0, axis=1))


def test_same_seed_same_task_and_other_seed_other_tastes():
    same = [synthetic_task(clients=3, pairs_per_client=5, eval_pairs=5, seed=4) for _ in range(2)]
    assert same[0] == same[1]
    assert same[0] != synthetic_task(clients=3, pairs_per_client=5, eval_pairs=5, seed=5)


def test_more_users_do_not_change_the_public_texts_or_the_taste():
    few = synthetic_task(clients=2, pairs_per_client=5, eval_pairs=20, seed=4)
    many = synthetic_task(clients=9, pairs_per_client=50, eval_pairs=20, seed=4)
    assert few.warmup_texts == many.warmup_texts
    assert [(p.chosen, p.rejected) for p in few.evaluation] == [
        (p.chosen, p.rejected) for p in many.evaluation
    ]


def _fit(pairs, scale):
    """Maximum-likelihood Bradley–Terry weights by Newton's method, in units of `scale`."""
    x = differences(pairs) / scale
    weights = np.zeros(4)
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = (x * (p * (1 - p))[:, None]).T @ x
        weights += np.linalg.solve(hessian, x.T @ (1 - p))
    return weights, np.linalg.inv(hessian)


def test_choices_have_the_stated_temperature_and_no_other():
    """Fitted weights times the true temperature lie in [0.5, 1]; at a wrong one they do not."""
    task = synthetic_task(
        clients=1, pairs_per_client=6000, eval_pairs=10, seed=2, heterogeneity=0.0, temperature=0.5
    )
    fitted, covariance = _fit(task.train, 0.5)
    error = 4 * np.sqrt(np.diag(covariance))
    assert np.all(np.abs(fitted) > 0.5 - error)
    assert np.all(np.abs(fitted) < 1.0 + error)
    doubled, _ = _fit(task.train, 1.0)
    assert np.all(np.abs(doubled) > 1.0)


def test_users_flip_weights_as_often_as_stated():
    """Signs of each user's fitted weights against the held-out rule; binomial, two-sided."""
    task = synthetic_task(
        clients=60, pairs_per_client=300, eval_pairs=400, seed=7, heterogeneity=0.15
    )
    common = np.sign(np.linalg.lstsq(differences(task.evaluation), np.ones(400), rcond=None)[0])
    flips = 0
    for user in range(60):
        own = [pair for pair in task.train if pair.user == f"user-{user:03d}"]
        flips += int(np.sum(np.sign(_fit(own, 1.0)[0]) != common))
    assert stats.binomtest(flips, 240, 0.15).pvalue > 1e-3
    assert stats.binomtest(flips, 240, 0.30).pvalue < 1e-3
    assert stats.binomtest(flips, 240, 0.05).pvalue < 1e-3


def test_without_flips_the_best_rule_is_always_right():
    task = synthetic_task(clients=5, pairs_per_client=4, eval_pairs=200, seed=1, heterogeneity=0.0)
    assert task.bayes_accuracy == 1.0


def test_bayes_accuracy_bounds_what_a_fitted_rule_reaches():
    """A linear rule fitted on all training pairs comes close to the best, and not above it."""
    task = synthetic_task(clients=4, pairs_per_client=2000, eval_pairs=1000, seed=8)
    fitted, _ = _fit(task.train, 1.0)
    accuracy = float(np.mean(differences(task.evaluation) @ fitted > 0))
    assert 0.9 < task.bayes_accuracy <= 1.0
    assert task.bayes_accuracy - 0.05 < accuracy <= task.bayes_accuracy + 0.02
    assert 0.65 < task.label_agreement < 0.9


def test_more_noise_and_more_conflict_leave_less_signal():
    calm = synthetic_task(clients=9, pairs_per_client=200, eval_pairs=1, seed=3, heterogeneity=0.0)
    mixed = synthetic_task(clients=9, pairs_per_client=200, eval_pairs=1, seed=3, heterogeneity=0.4)
    noisy = synthetic_task(
        clients=9, pairs_per_client=200, eval_pairs=1, seed=3, heterogeneity=0.0, temperature=5.0
    )
    assert calm.label_agreement > mixed.label_agreement + 0.1
    assert calm.label_agreement > noisy.label_agreement + 0.1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clients": 0}, "at least 1"),
        ({"eval_pairs": 0}, "at least 1"),
        ({"heterogeneity": 0.6}, r"\[0, 0.5\]"),
        ({"temperature": 0.0}, "above 0"),
        ({"wordings": 3}, "between 1 and 2"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, message):
    arguments = {"clients": 1, "pairs_per_client": 1, "eval_pairs": 1, "seed": 0, **wrong}
    with pytest.raises(DataError, match=message):
        synthetic_task(**arguments)
