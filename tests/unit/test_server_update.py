import numpy as np
import pytest
import torch

from privfed_dpo.config import parse_config
from privfed_dpo.server_update import SERVER_OPTIMIZERS, ServerState, ServerUpdate


def descend(update, gradients):
    state = ServerState.start(np.zeros(3, dtype=np.float32))
    for gradient in gradients:
        state = update.apply(state, gradient)
    return state


def gradients(count=6):
    return [np.random.default_rng(i).normal(size=3) for i in range(count)]


def test_adam_agrees_with_torch():
    ours = descend(ServerUpdate("adam", 0.05, 0.9), gradients())
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.05, betas=(0.9, 0.99), eps=1e-8)
    for gradient in gradients():
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
    np.testing.assert_allclose(ours.weights, weight.detach().numpy(), rtol=1e-10)


def test_sgd_with_momentum_agrees_with_torch():
    ours = descend(ServerUpdate("sgd", 0.05, 0.7), gradients())
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.05, momentum=0.7)
    for gradient in gradients():
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
    np.testing.assert_allclose(ours.weights, weight.detach().numpy(), rtol=1e-10)


def test_plain_sgd_of_minus_the_mean_update_is_federated_averaging():
    start = ServerState.start(np.array([1.0, 2.0, 3.0], dtype=np.float32))
    updates = np.array([[0.5, 0.0, -1.0], [0.25, 1.0, 0.0]])
    after = ServerUpdate("sgd", 1.0, 0.0).apply(start, -updates.mean(axis=0))
    np.testing.assert_allclose(after.weights, (start.weights + updates).mean(axis=0))
    assert start.weights.tolist() == [1.0, 2.0, 3.0]


def test_adagrad_by_hand():
    """lr 0.1, no momentum, gradients 3 then 4: v = 9, then 25; steps 0.1 * 3/3 and 0.1 * 4/5."""
    update = ServerUpdate("adagrad", 0.1, 0.0)
    first = update.apply(ServerState.start(np.zeros(1, np.float32)), np.array([3.0]))
    second = update.apply(first, np.array([4.0]))
    np.testing.assert_allclose([first.weights[0], second.weights[0]], [-0.1, -0.18], rtol=1e-8)


def test_yogi_by_hand():
    """Gradients 10, 2 and 0.5, no momentum, decay 0.99.

    v = 0.01 * 100 = 1; 4 > 1, so it grows by 0.04; 0.25 < 1.04, so it falls by 0.0025. Corrected by
    1 - 0.99^t = 0.01, 0.0199, 0.029701 the steps are 0.1 g / sqrt(v / correction).
    """
    update = ServerUpdate("yogi", 0.1, 0.0)
    state, places = ServerState.start(np.zeros(1, np.float32)), [0.0]
    for gradient in (10.0, 2.0, 0.5):
        state = update.apply(state, np.array([gradient]))
        places.append(state.weights[0])
    expected = [
        0.1 * 10.0 / np.sqrt(1.0 / 0.01),
        0.1 * 2.0 / np.sqrt(1.04 / 0.0199),
        0.1 * 0.5 / np.sqrt(1.0375 / 0.029701),
    ]
    np.testing.assert_allclose(-np.diff(places), expected, rtol=1e-7)
    assert state.second_moment[0] == pytest.approx(1.0375)


def test_yogi_forgets_a_large_gradient_more_slowly_than_adam():
    """After one gradient of 10, small ones: Adam's second moment decays, Yogi's hardly moves."""
    ends = {}
    for kind in ("adam", "yogi"):
        update, state = ServerUpdate(kind, 0.1, 0.0), ServerState.start(np.zeros(1, np.float32))
        for gradient in (10.0, *[0.1] * 50):
            state = update.apply(state, np.array([gradient]))
        ends[kind] = state.second_moment[0]
    assert ends["adam"] == pytest.approx(0.99**50 + 0.01 * (1 - 0.99**50))
    assert ends["yogi"] == pytest.approx(1.0 - 50 * 1e-4)


@pytest.mark.parametrize("kind", SERVER_OPTIMIZERS)
def test_every_optimizer_goes_downhill_and_has_a_key(kind):
    update = ServerUpdate(kind, 0.05, 0.5)
    state = ServerState.start(np.array([1.0, -2.0, 0.5], dtype=np.float32))
    for _ in range(300):
        state = update.apply(state, state.weights)
    assert np.abs(state.weights).max() < 1.0
    config = parse_config(
        "{privacy: {target_epsilon: 8}, data: {clients: 8}}",
        [f"federation.server_optimizer={kind}"],
    )
    assert config.federation.server_optimizer == kind


def test_a_name_and_a_rule_are_all_that_an_optimizer_needs():
    from privfed_dpo.config import FederationConfig
    from privfed_dpo.server_update import _SPREADS, ServerOptimizer

    assert set(SERVER_OPTIMIZERS) == {"sgd", *_SPREADS}
    assert FederationConfig.model_fields["server_optimizer"].annotation == ServerOptimizer
