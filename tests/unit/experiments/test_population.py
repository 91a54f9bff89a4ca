"""Users with a known optimum, and the loss on their votes."""

import numpy as np
import pytest
import torch

from experiments.objective import Objective
from experiments.population import Dials, draw_population
from experiments.predict import Linearised
from privfed_dpo.dpo.loss import pair_losses


def population(seed=0, *, dials=None, users=4, pairs=50, dimension=3, **more):
    rng = np.random.default_rng(seed)
    return draw_population(rng, users=users, pairs=pairs, dimension=dimension, dials=dials, **more)


def probe(count=4000, dimension=3):
    return np.random.default_rng(99).normal(size=(count, dimension))


def test_the_optimum_of_one_taste_is_the_reward_over_beta():
    users = population(many_annotators=True)
    assert np.ptp(users.rewards, axis=0).max() == 0.0
    optimum = Objective.of(users, beta=0.5).optimum()
    assert optimum == pytest.approx(users.rewards[0] / 0.5, abs=1e-9)
    assert Linearised.of(Objective.of(users)).heterogeneity < 1e-20


def test_each_users_optimum_is_its_own():
    users = population(dials=Dials(optimum_shift=1.0), many_annotators=True)
    for place, reward in enumerate(users.rewards):
        own = Objective(users.features[[place]], users.choices[[place]])
        assert own.optimum() == pytest.approx(reward, abs=1e-9)


@pytest.mark.parametrize(
    ("dial", "low", "high"),
    [
        ("optimum_shift", 0.25, 2.0),
        ("opposed_share", 0.25, 0.5),
        ("annotator_noise", 0.2, 0.8),
    ],
)
def test_a_dial_raises_disagreement(dial, low, high):
    rates = [
        population(dials=Dials(**{dial: value})).disagreement(probe()) for value in (0.0, low, high)
    ]
    assert rates == sorted(rates)
    assert rates[2] > rates[0] + 0.01


def test_opposed_groups_of_equal_size_leave_no_single_rule():
    halves = population(dials=Dials(opposed_share=0.5))
    assert halves.bayes_accuracy(probe()) == pytest.approx(0.5)
    alike = population()
    assert alike.bayes_accuracy(probe()) == pytest.approx(alike.personal_bayes_accuracy(probe()))
    assert halves.personal_bayes_accuracy(probe()) == pytest.approx(
        alike.bayes_accuracy(probe()), abs=1e-12
    )


def test_bayes_accuracy_is_what_the_best_rule_scores():
    """Votes drawn anew agree with the sign of the mean reward as often as stated."""
    users = population(users=1)
    pairs = probe(100_000)
    votes = np.random.default_rng(5).random(len(pairs)) < users.choice_probabilities(pairs)[0]
    scored = (votes == (pairs @ users.rewards[0] > 0)).mean()
    assert scored == pytest.approx(users.bayes_accuracy(pairs), abs=4 * 0.5 / len(pairs) ** 0.5)


def test_covariate_shift_changes_the_pairs_and_not_the_tastes():
    plain, shifted = population(), population(dials=Dials(covariate_shift=1.0))
    assert np.array_equal(plain.rewards, shifted.rewards)
    spreads = shifted.features.std(axis=1) / plain.features.std(axis=1)
    assert spreads.max() / spreads.min() > 3
    shared = population(shared_features=True)
    assert np.ptp(shared.features, axis=0).max() == 0.0


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_gradients_and_hessians_are_those_of_the_products_loss(loss):
    """Autograd through `pair_losses`, with chosen and rejected in the order of the vote."""
    users = population(dials=Dials(optimum_shift=1.0))
    objective = Objective(users.features, users.choices, beta=0.7, loss=loss)
    theta = np.array([0.3, -0.8, 0.5])
    for place in range(users.users):
        signs = torch.from_numpy(2.0 * users.choices[place] - 1.0)
        signed = torch.tensor(users.features[place]) * signs[:, None]

        def mean_loss(point, signed=signed):
            return pair_losses(signed @ point, kind=loss, beta=0.7).mean()

        point = torch.tensor(theta, requires_grad=True)
        gradient = torch.autograd.grad(mean_loss(point), point)[0].numpy()
        ours = objective.client_gradients(np.tile(theta, (4, 1))[:, :, None])[place, :, 0]
        assert ours == pytest.approx(gradient, rel=1e-12)
        assert objective.pair_gradients(theta)[place].mean(axis=0) == pytest.approx(gradient)
        hessian = torch.autograd.functional.hessian(mean_loss, point).numpy()
        assert objective.hessians(theta)[place] == pytest.approx(hessian, rel=1e-12)


def test_votes_without_error_have_no_optimum():
    features = np.ones((1, 4, 1))
    with pytest.raises(ValueError, match="no finite optimum"):
        Objective(features, np.ones((1, 4))).optimum()
