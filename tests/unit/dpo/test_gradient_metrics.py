import numpy as np
import pytest

from privfed_dpo.dpo.gradient_metrics import gradient_metrics
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from tests.support.toy_models import shaken, toy_model, toy_pairs


@pytest.fixture(scope="module")
def setting():
    adapter = shaken(Adapter.attach(toy_model("llama"), AdapterSpec(rank=2)), scale=0.05)
    reference = ReferenceLogprobs(adapter, fingerprint="f")
    groups = {
        name: (pairs, reference(pairs))
        for name, pairs in (
            ("ann", toy_pairs(3, seed=1)),
            ("bob", toy_pairs(7, seed=2)),
            ("eve", toy_pairs(1, seed=3)),
        )
    }
    return PairGradients(adapter, beta=0.5, micro_batch_pairs=4), groups


def test_metrics_by_the_definition(setting):
    gradients, groups = setting
    means = np.stack([gradients.mean_gradient(p, r).astype(np.float64) for p, r in groups.values()])
    centre = means.mean(axis=0)  # every client counts the same, whatever its size
    metrics = gradient_metrics(gradients, groups, max_grad_norm=1.0)
    assert metrics.grad_norm_sq == pytest.approx((centre**2).sum(), rel=1e-4)
    assert metrics.heterogeneity == pytest.approx(
        np.mean([((m - centre) ** 2).sum() for m in means]), rel=1e-4
    )


def test_the_clip_fraction_counts_pairs_not_clients(setting):
    gradients, groups = setting
    norms = np.concatenate(
        [
            rows.norm(dim=1).numpy()
            for pairs, reference in groups.values()
            for rows in gradients(pairs, reference)
        ]
    )
    for threshold in np.quantile(norms, [0.25, 0.55, 0.85]):  # halfway between two of the 11
        metrics = gradient_metrics(gradients, groups, max_grad_norm=float(threshold))
        assert metrics.clip_fraction == np.mean(norms > threshold)
    assert gradient_metrics(gradients, groups, max_grad_norm=1e9).clip_fraction == 0.0
    assert gradient_metrics(gradients, groups, max_grad_norm=1e-9).clip_fraction == 1.0


def test_equal_clients_are_not_heterogeneous(setting):
    gradients, groups = setting
    same = {"a": groups["bob"], "b": groups["bob"]}
    metrics = gradient_metrics(gradients, same, max_grad_norm=1.0)
    assert metrics.heterogeneity == pytest.approx(0.0, abs=1e-10)
    assert metrics.grad_norm_sq > 0


def test_the_clip_norm_changes_no_gradient(setting):
    gradients, groups = setting
    tight = gradient_metrics(gradients, groups, max_grad_norm=1e-3)
    loose = gradient_metrics(gradients, groups, max_grad_norm=1e3)
    assert tight.grad_norm_sq == loose.grad_norm_sq
    assert tight.heterogeneity == loose.heterogeneity


def test_empty_clients_are_left_out(setting):
    gradients, groups = setting
    with_empty = {**groups, "nobody": ([], np.zeros((0, 2)))}
    assert gradient_metrics(gradients, with_empty, 1.0) == gradient_metrics(gradients, groups, 1.0)


def test_a_gradient_that_is_not_a_number_counts_as_clipped(setting):
    gradients, groups = setting
    pairs, reference = groups["bob"]
    broken = reference.copy()
    broken[0] = np.nan
    metrics = gradient_metrics(gradients, {"bob": (pairs, broken)}, max_grad_norm=1e9)
    assert metrics.clip_fraction == pytest.approx(1 / 7)
    assert np.isnan(metrics.grad_norm_sq)


def test_nothing_to_measure_is_refused(setting):
    with pytest.raises(ModelError, match="at least one pair"):
        gradient_metrics(setting[0], {}, max_grad_norm=1.0)
