import numpy as np
import torch

from privfed_dpo.engine.server_update import ServerState, ServerUpdate


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
