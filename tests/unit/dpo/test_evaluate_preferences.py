import math

import numpy as np
import pytest
import torch

from privfed_dpo.dpo.evaluate import evaluate_preferences
from privfed_dpo.dpo.loss import PairLoss
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from tests.support.toy_models import shaken, toy_model, toy_pairs

PAIRS = toy_pairs(11, seed=4)
BETA = 0.4


def _fresh(family="llama"):
    return Adapter.attach(toy_model(family), AdapterSpec(rank=2))


def _reference(adapter, **settings):
    return ReferenceLogprobs(adapter, fingerprint="f", **settings)(PAIRS)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("sizes", [(16, 16), (1, 11), (5, 2)])
def test_the_start_is_half_right_with_a_loss_of_ln_2(family, sizes):
    # Also when the reference was scored in other batches, so that rounding differs.
    adapter = _fresh(family)
    reference = _reference(adapter, micro_batch_pairs=sizes[0])
    metrics, margins = evaluate_preferences(
        adapter, PAIRS, reference, beta=BETA, micro_batch_pairs=sizes[1]
    )
    assert metrics.reward_accuracy == 0.5
    assert metrics.reward_margin == 0.0
    assert not margins.any()
    assert metrics.loss == pytest.approx(math.log(2), rel=1e-5)
    assert metrics.kl == 0.0
    assert metrics.count == 11


def test_a_16_bit_base_starts_at_half_with_equal_batches():
    adapter = Adapter.attach(toy_model("llama").to(torch.bfloat16), AdapterSpec(rank=2))
    metrics, _ = evaluate_preferences(adapter, PAIRS, _reference(adapter), beta=BETA)
    assert metrics.reward_accuracy == 0.5
    assert metrics.kl == 0.0


@torch.no_grad()
def _plain(adapter, pair, completion):
    """Log-probability and exact divergence from the reference, from full logits."""
    ids = torch.tensor([[*pair.prompt, *completion]])
    start = len(pair.prompt) - 1
    policy = adapter.model(ids).logits[0, :-1].double().log_softmax(dim=1)[start:]
    with adapter.disabled():
        base = adapter.model(ids).logits[0, :-1].double().log_softmax(dim=1)[start:]
    targets = ids[0, start + 1 :, None]
    kl = (policy.exp() * (policy - base)).sum().item()
    return policy.gather(1, targets).sum().item(), base.gather(1, targets).sum().item(), kl


@pytest.mark.parametrize("form", ["packed", "two_forward"])
def test_metrics_equal_those_from_full_logits(form):
    adapter = shaken(_fresh(), scale=0.05)
    reference = _reference(adapter)
    rows = [[_plain(adapter, p, c) for c in (p.chosen, p.rejected)] for p in PAIRS]
    table = np.array(rows)  # [pair, side, (policy, base, kl)]
    shift = table[:, :, 0] - table[:, :, 1]
    wanted = BETA * (shift[:, 0] - shift[:, 1])
    metrics, margins = evaluate_preferences(
        adapter, PAIRS, reference, beta=BETA, micro_batch_pairs=4, form=form
    )
    np.testing.assert_allclose(margins, wanted, rtol=1e-4, atol=1e-4)
    assert metrics.reward_accuracy == np.mean(wanted > 0)
    assert metrics.reward_margin == pytest.approx(wanted.mean(), abs=1e-4)
    assert metrics.loss == pytest.approx(np.log1p(np.exp(-wanted)).mean(), rel=1e-4)
    assert metrics.chosen_logratio == pytest.approx(shift[:, 0].mean(), abs=1e-4)
    assert metrics.rejected_logratio == pytest.approx(shift[:, 1].mean(), abs=1e-4)
    assert metrics.kl == pytest.approx(table[:, :, 2].mean(), rel=1e-4)
    assert metrics.kl > 0


def test_accuracy_counts_wins_ties_and_losses():
    adapter = _fresh()
    reference = _reference(adapter)
    # Reference rows moved by hand: 5 wins, 2 losses, 4 ties.
    reference[:5, 0] -= 1.0
    reference[5:7, 0] += 1.0
    metrics, margins = evaluate_preferences(adapter, PAIRS, reference, beta=BETA)
    assert metrics.reward_accuracy == (5 + 4 / 2) / 11
    assert np.sign(margins).tolist() == [1] * 5 + [-1] * 2 + [0] * 4
    np.testing.assert_allclose(margins[:5], BETA, rtol=1e-4)


def test_an_unmeasured_divergence_is_none():
    adapter = _fresh()
    metrics, _ = evaluate_preferences(adapter, PAIRS, _reference(adapter), beta=BETA, with_kl=False)
    assert metrics.kl is None


def test_the_loss_is_the_one_asked_for():
    adapter = _fresh()
    reference = _reference(adapter)
    metrics, _ = evaluate_preferences(adapter, PAIRS, reference, beta=0.5, loss="ipo")
    assert metrics.loss == pytest.approx(1.0, rel=1e-4)


def test_a_loss_may_come_with_all_its_constants():
    adapter = shaken(_fresh(), scale=0.05)
    loss = PairLoss("simpo", 2.0, target_margin=0.5)
    metrics, _ = evaluate_preferences(
        adapter, PAIRS, _reference(adapter), beta=2.0, loss=loss, with_kl=False
    )
    by_hand = []
    for pair in PAIRS:
        means = [_plain(adapter, pair, c)[0] / len(c) for c in (pair.chosen, pair.rejected)]
        by_hand.append(math.log1p(math.exp(0.5 - 2.0 * (means[0] - means[1]))))
    assert metrics.loss == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_a_score_that_is_not_a_number_is_no_win():
    adapter = _fresh()
    reference = _reference(adapter)
    reference[0, 0] = np.nan
    metrics, margins = evaluate_preferences(adapter, PAIRS, reference, beta=BETA)
    assert math.isnan(margins[0])
    assert metrics.reward_accuracy == 5 / 11


def test_evaluation_leaves_no_gradient_and_no_change():
    adapter = shaken(_fresh())
    vector = adapter.read()
    evaluate_preferences(adapter, PAIRS, _reference(adapter), beta=BETA)
    assert np.array_equal(adapter.read(), vector)
    assert all(p.grad is None for p in adapter.model.parameters())


@pytest.mark.parametrize("shape", [(0, 2), (11,), (10, 2)])
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ModelError):
        evaluate_preferences(_fresh(), PAIRS, np.zeros(shape), beta=BETA)
    with pytest.raises(ModelError):
        evaluate_preferences(_fresh(), [], np.zeros((0, 2)), beta=BETA)
