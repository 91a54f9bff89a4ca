"""Bayes accuracies are exact: against hand-derived values, brute force, and sampled votes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from privfed_dpo.data.optimum import known_optimum
from privfed_dpo.data.synthetic import (
    EVALUATION_GAP,
    LEVEL_VALUES,
    NOUNS,
    _split_prompts,
    synthetic_task,
)
from privfed_dpo.data.tastes import TasteDials, Tastes, draw_tastes
from privfed_dpo.errors import DataError
from tests.support.answer_levels import differences


def tastes(own, *, opposed=None, levels=None, common=None, **dials):
    own = np.array(own, dtype=float)
    users, size = own.shape
    return Tastes(
        common=np.array(own[0] if common is None else common, dtype=float),
        own=own,
        opposed=np.zeros(users, dtype=bool) if opposed is None else np.array(opposed),
        levels=np.full((users, size, 3), 1 / 3) if levels is None else np.array(levels),
        topics=np.ones((users, 1)),
        dials=TasteDials(**dials),
    )


def optimum(users, verdict="votes", gap=0.0):
    return known_optimum(users, values=LEVEL_VALUES, verdict=verdict, common_gap=gap)


def drawn(**dials):
    return draw_tastes(
        np.array([1.013, -0.607, 0.8211, 0.5303]),
        clients=40,
        dials=TasteDials(**{"flip_probability": 0.0, **dials}),
        flips=np.random.default_rng(1),
        shifts=np.random.default_rng(2),
        offers=np.random.default_rng(3),
        levels=3,
        topics=5,
    )


def test_one_attribute_by_hand():
    """Only one of four attributes counts, and a step of it multiplies the odds by 3.

    Two of 81 answers that differ: 26 of 80 agree in that attribute, 36 differ by one step and 18 by
    two. The better answer wins with odds 3 or 9, that is 3/4 and 9/10; a tie is a coin.
    """
    found = optimum(tastes([[math.log(3.0), 0, 0, 0]], temperature=1.0))
    by_hand = 26 / 80 * 1 / 2 + 36 / 80 * 3 / 4 + 18 / 80 * 9 / 10
    assert found.own.mean == pytest.approx(by_hand, abs=1e-12)
    assert found.shared == found.own == found.groups == found.common


def test_annotator_noise_moves_every_accuracy_towards_a_coin():
    sharp = optimum(tastes([[1.0, 0.5, -0.7, 0.9]]))
    for noise in (0.0, 0.25, 1.0):
        blurred = optimum(tastes([[1.0, 0.5, -0.7, 0.9]], annotator_noise=noise))
        by_hand = (1 - noise) * sharp.own.mean + noise / 2
        assert blurred.own.mean == pytest.approx(by_hand, abs=1e-12)


def test_two_opposed_users_leave_one_rule_at_chance_and_two_rules_unharmed():
    weights = [0.913, -0.531, 0.7071, 0.6137]
    both = optimum(tastes([weights, [-w for w in weights]], opposed=[False, True]))
    alone = optimum(tastes([weights]))
    assert both.shared.mean == pytest.approx(0.5, abs=1e-12)
    assert both.groups.mean == pytest.approx(alone.own.mean, abs=1e-12)
    assert both.pairwise_disagreement == pytest.approx(1.0, abs=1e-12)
    assert both.common.min == pytest.approx(1 - alone.own.mean, abs=1e-12)


def test_a_quarter_opposed_is_outvoted():
    """Three agree and one is opposed: the one rule scores 3/4 a + 1/4 (1 - a)."""
    weights = np.array([0.913, -0.531, 0.7071, 0.6137])
    users = tastes([weights] * 3 + [-weights], opposed=[False] * 3 + [True])
    found, alone = optimum(users), optimum(tastes([weights])).own.mean
    assert found.shared.mean == pytest.approx(0.75 * alone + 0.25 * (1 - alone), abs=1e-12)
    assert found.shared.min == pytest.approx(1 - alone, abs=1e-12)
    assert found.pairwise_disagreement == pytest.approx(2 * 3 * 1 / (4 * 3), abs=1e-12)


@pytest.mark.parametrize("verdict", ["common", "own", "votes"])
def test_enumeration_agrees_with_plain_loops(verdict):
    """Another implementation: every two of 81 answers, one user and one rule at a time."""
    rng = np.random.default_rng(5)
    levels = rng.dirichlet(np.ones(3) * 4, size=(3, 4))
    own = rng.normal(size=(3, 4))
    users = tastes(own, levels=levels, common=[0.813, 0.611, -0.907, 0.703], temperature=0.7)
    gap = EVALUATION_GAP if verdict == "common" else 0.0
    found = optimum(users, verdict, gap)
    answers = list(itertools.product(range(3), repeat=4))
    offered = [
        {a: math.prod(levels[u][k][a[k]] for k in range(4)) for a in answers} for u in range(3)
    ]
    score, votes_for, mass = {}, {}, dict.fromkeys(range(3), 0.0)
    for first, second in itertools.permutations(answers, 2):
        z = tuple(a - b for a, b in zip(first, second, strict=True))
        for u in range(3):
            share = offered[u][first] * offered[u][second] / (1 - offered[u][first])
            vote = 1 / (1 + math.exp(-float(own[u] @ z) / 0.7))
            votes_for[z] = votes_for.get(z, 0.0) + share * (2 * vote - 1)
            common = float(users.common @ z)
            if verdict == "common" and abs(common) < EVALUATION_GAP:
                continue
            wanted = {"common": float(common > 0), "own": float(own[u] @ z > 0), "votes": vote}
            score[u, z] = score.get((u, z), 0.0) + share * (2 * wanted[verdict] - 1)
            mass[u] += share
    gained = dict.fromkeys(range(3), 0.0)
    for (u, z), share in score.items():
        gained[u] += np.sign(votes_for[z]) * share / mass[u]
    shared = 0.5 + 0.5 * np.mean(list(gained.values()))
    assert found.shared.mean == pytest.approx(shared, abs=1e-9)


def test_dials_are_monotone():
    for dial, steps in {
        "opposed_share": (0.0, 0.1, 0.25, 0.5),
        "optimum_shift": (0.0, 0.5, 1.0, 3.0),
    }.items():
        found = [optimum(drawn(**{dial: step})) for step in steps]
        disagreement = [one.pairwise_disagreement for one in found]
        gaps = [one.own.mean - one.shared.mean for one in found]
        assert disagreement == sorted(disagreement), dial
        assert gaps == sorted(gaps), dial
        assert disagreement[0] == pytest.approx(0.0, abs=1e-12)
        assert gaps[0] == pytest.approx(0.0, abs=1e-12)
        assert gaps[-1] > 0.05, dial
    hot = [optimum(drawn(temperature=t)).own.mean for t in (0.1, 0.5, 2.0, 50.0)]
    assert hot == sorted(hot, reverse=True)
    assert hot[-1] == pytest.approx(0.5, abs=0.02)


def test_no_rule_for_more_users_beats_a_rule_for_fewer():
    found = optimum(drawn(optimum_shift=1.0, opposed_share=0.3, covariate_shift=1.0))
    assert found.own.mean >= found.groups.mean >= found.shared.mean >= found.common.mean


def test_dials_out_of_range_are_refused():
    for wrong in (
        {"opposed_share": 1.1},
        {"annotator_noise": -0.1},
        {"optimum_shift": 11.0},
        {"covariate_shift": 4.0},
        {"optimum_shift": math.nan},
    ):
        with pytest.raises(DataError, match=next(iter(wrong))):
            TasteDials(**wrong)


SEED, USERS = 6, 6


def known_users(**dials):
    """The users of a task, drawn again from the task's public streams."""
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(SEED).spawn(7)]
    taste, flips, _, _, _, shifts, offers = streams
    weights = taste.choice((-1.0, 1.0), size=4) * taste.uniform(0.5, 1.0, size=4)
    users = draw_tastes(
        weights,
        clients=USERS,
        dials=TasteDials(**dials),
        flips=flips,
        shifts=shifts,
        offers=offers,
        levels=3,
        topics=len(NOUNS),
    )
    return users, _split_prompts(taste)[0]


def made_task(**dials):
    dials = {"heterogeneity": dials.pop("flip_probability"), **dials}
    sizes = {"clients": USERS, "pairs_per_client": 600, "eval_pairs": 3000, "warmup_texts": 0}
    return synthetic_task(seed=SEED, **sizes, **dials)


def follows_own_weights(pairs, users):
    return sum(
        float(users.own[int(pair.user.removeprefix("user-"))] @ row) > 0
        for pair, row in zip(pairs, differences(pairs), strict=True)
    )


SETTING = {
    "flip_probability": 0.0,
    "optimum_shift": 0.7,
    "opposed_share": 0.5,
    "annotator_noise": 0.1,
    "covariate_shift": 0.8,
}


def test_votes_have_the_stated_bayes_accuracy_and_no_other():
    """Held-out and training votes against each user's own rule; binomial, two-sided."""
    users, _ = known_users(**SETTING)
    task = made_task(**SETTING, verdict="votes")
    stated = task.optimum.own.mean
    for votes in (task.evaluation, task.train):
        right = follows_own_weights(votes, users)
        assert stats.binomtest(right, len(votes), stated).pvalue > 1e-3
        assert stats.binomtest(right, len(votes), stated - 0.05).pvalue < 1e-3
        assert stats.binomtest(right, len(votes), stated + 0.05).pvalue < 1e-3


def test_verdicts_of_own_weights_are_never_wrong_about_them():
    users, _ = known_users(**SETTING)
    task = made_task(**SETTING, verdict="own")
    assert follows_own_weights(task.evaluation, users) == len(task.evaluation)
    assert task.optimum.own.min == pytest.approx(1.0, abs=1e-12)
    assert task.optimum.groups.mean < 1.0


def test_topics_come_up_as_stated_and_not_evenly():
    """Chi-square of one user's topics against the drawn shares, and against equal ones."""
    users, prompts = known_users(**SETTING)
    pairs = [pair for pair in made_task(**SETTING).train if pair.user == "user-002"]
    seen = np.array([sum(pair.topic == noun for pair in pairs) for noun in NOUNS])
    asked = np.array([sum(noun == topic for _, topic in prompts) for noun in NOUNS])
    for shares, right in ((users.topics[2], True), (np.ones(len(NOUNS)), False)):
        expected = asked * shares / (asked @ shares) * len(pairs)
        assert bool(stats.chisquare(seen, expected).pvalue > 1e-3) is right


def test_weights_spread_as_stated():
    """200 users' weights about the common ones: the variance is the dial's, and no other's."""
    common = np.array([1.013, -0.607, 0.8211, 0.5303])
    users = draw_tastes(
        common,
        clients=200,
        dials=TasteDials(flip_probability=0.0, optimum_shift=0.4),
        flips=np.random.default_rng(1),
        shifts=np.random.default_rng(2),
        offers=np.random.default_rng(3),
        levels=3,
        topics=5,
    )
    spread = ((users.own - common) ** 2).sum() / np.mean(common**2)
    for dial, right in ((0.4, True), (0.3, False), (0.5, False)):
        tail = stats.chi2(800).cdf(spread / dial**2)
        assert bool(1e-3 < tail < 1 - 1e-3) is right
