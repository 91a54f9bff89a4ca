import math

import numpy as np
import pytest
import torch

from privfed_dpo.dpo.loss import PairLoss
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from tests.support.toy_models import FAMILIES, make_pair, shaken, toy_model, toy_pairs

BETA = 0.5
PAIRS = toy_pairs(9, seed=3)
LOSSES = {
    "sigmoid": lambda h: -torch.nn.functional.logsigmoid(BETA * h),
    "hinge": lambda h: torch.relu(1 - BETA * h),
    "ipo": lambda h: (h - 1 / (2 * BETA)) ** 2,
    "simpo": lambda h: -torch.nn.functional.logsigmoid(BETA * h - 0.3),
}


def _policy(family="llama", **settings):
    return shaken(Adapter.attach(toy_model(family), AdapterSpec(rank=4, **settings)), scale=0.05)


def _plain_scores(adapter, pair):
    """Both log-probabilities from the model's own logits, one sequence at a time."""
    scores = []
    for completion in (pair.chosen, pair.rejected):
        ids = torch.tensor([[*pair.prompt, *completion]])
        logits = adapter.model(input_ids=ids).logits[0, :-1].float().log_softmax(dim=1)
        scores.append(logits.gather(1, ids[0, 1:, None])[len(pair.prompt) - 1 :].sum())
    return scores


@torch.no_grad()
def _reference(adapter, pairs):
    with adapter.disabled():
        return np.array([[s.item() for s in _plain_scores(adapter, p)] for p in pairs], "float32")


def _truth(adapter, pairs, reference, loss="sigmoid"):
    """One backward per pair, nothing shared with the code under test."""
    rows = []
    for pair, fixed in zip(pairs, reference, strict=True):
        shifts = [s - float(r) for s, r in zip(_plain_scores(adapter, pair), fixed, strict=True)]
        if loss == "simpo":
            shifts = _plain_scores(adapter, pair)
        if loss in ("ipo", "simpo"):
            shifts = [shifts[0] / len(pair.chosen), shifts[1] / len(pair.rejected)]
        gradient = torch.autograd.grad(LOSSES[loss](shifts[0] - shifts[1]), adapter.parameters)
        rows.append(torch.cat([g.reshape(-1) for g in gradient]))
    return torch.stack(rows)


def _rows(gradients, pairs, reference):
    """All rows, back in the order of the pairs."""
    found = torch.full((len(pairs), gradients.adapter.dimension), math.nan)
    for indexes, rows in gradients.indexed(pairs, reference):
        found[indexes] = rows
    return found


def _relative_error(found, truth):
    # A pair beyond the hinge has the gradient zero, on both sides.
    return ((found - truth).norm(dim=1) / truth.norm(dim=1).clamp_min(1e-30)).max().item()


@pytest.mark.parametrize("form", ["packed", "two_forward"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_rows_equal_one_backward_per_pair(family, form):
    adapter = _policy(family)
    reference = _reference(adapter, PAIRS)
    gradients = PairGradients(adapter, beta=BETA, form=form, micro_batch_pairs=4)
    found = _rows(gradients, PAIRS, reference)
    assert found.dtype == torch.float32
    assert _relative_error(found, _truth(adapter, PAIRS, reference)) < 1e-5


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_has_its_own_gradient(loss):
    adapter = _policy()
    reference = _reference(adapter, PAIRS)
    whole = PairLoss(loss, BETA, target_margin=0.3 if loss == "simpo" else 0.0)
    found = _rows(PairGradients(adapter, loss=whole), PAIRS, reference)
    assert _relative_error(found, _truth(adapter, PAIRS, reference, loss)) < 1e-5
    if loss != "simpo":
        named = _rows(PairGradients(adapter, loss=loss, beta=BETA), PAIRS, reference)
        assert torch.equal(named, found)


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze_a": True},
        {"target_modules": ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")},
        {"rslora": True},
        {"rank_pattern": (("layers.1.self_attn.q_proj", 7), ("q_proj", 2))},
        {"target_modules": "all-linear", "full_weights": True},
    ],
    ids=["frozen-a", "all-linear", "rslora", "rank-per-module", "full"],
)
@pytest.mark.filterwarnings("ignore:Full fine-tuning")
def test_every_adapter_has_its_own_gradient(settings):
    adapter = _policy(**settings)
    reference = _reference(adapter, PAIRS)
    found = _rows(PairGradients(adapter, beta=BETA), PAIRS, reference)
    assert _relative_error(found, _truth(adapter, PAIRS, reference)) < 1e-5


@pytest.mark.parametrize("family", ["mistral", "gemma3", "phi3", "qwen2"])
def test_pairs_longer_than_a_sliding_window_keep_their_rows(family):
    windows = {"mistral": {}, "gemma3": {}, "phi3": {}, "qwen2": {"use_sliding_window": True}}
    model = toy_model(family, sliding_window=8, **windows[family])
    adapter = shaken(Adapter.attach(model, AdapterSpec(rank=4)), scale=0.05)
    pairs = toy_pairs(6, seed=4, longest=14)
    assert max(len(p.prompt) + len(p.chosen) for p in pairs) > 16
    reference = _reference(adapter, pairs)
    gradients = PairGradients(adapter, beta=BETA, micro_batch_pairs=3)
    found = _rows(gradients, pairs, reference)
    assert _relative_error(found, _truth(adapter, pairs, reference)) < 1e-5


def test_eager_attention_is_as_exact():
    model = toy_model("llama")
    model.set_attn_implementation("eager")
    adapter = shaken(Adapter.attach(model, AdapterSpec(rank=4)), scale=0.05)
    reference = _reference(adapter, PAIRS)
    gradients = PairGradients(adapter, beta=BETA, form="packed")
    found = _rows(gradients, PAIRS, reference)
    assert _relative_error(found, _truth(adapter, PAIRS, reference)) < 1e-5


def test_micro_batches_give_the_same_sum_and_the_same_rows():
    adapter = _policy()
    reference = _reference(adapter, PAIRS)
    whole = _rows(PairGradients(adapter, beta=BETA, micro_batch_pairs=64), PAIRS, reference)
    for size in (1, 2, 4):
        gradients = PairGradients(adapter, beta=BETA, micro_batch_pairs=size)
        shapes = [tuple(rows.shape) for rows in gradients(PAIRS, reference)]
        assert sum(count for count, _ in shapes) == len(PAIRS)
        assert max(count for count, _ in shapes) == size
        assert _relative_error(_rows(gradients, PAIRS, reference), whole) < 1e-5


def test_alone_in_its_batch_a_row_is_a_function_of_its_pair_to_the_bit():
    adapter = _policy()
    reference = _reference(adapter, PAIRS)
    gradients = PairGradients(adapter, beta=BETA, micro_batch_pairs=1)
    together = _rows(gradients, PAIRS, reference)
    some = [7, 2, 4]
    apart = _rows(gradients, [PAIRS[i] for i in some], reference[some])
    assert torch.equal(apart, together[some])


def test_the_mean_gradient_is_the_mean_of_the_rows():
    adapter = _policy()
    reference = _reference(adapter, PAIRS)
    gradients = PairGradients(adapter, beta=BETA, micro_batch_pairs=4)
    expected = _truth(adapter, PAIRS, reference).mean(dim=0).numpy()
    found = gradients.mean_gradient(PAIRS, reference)
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


def _clip(rows, norm):
    return rows * (norm / rows.norm(dim=1).clamp_min(norm))[:, None]


def _adversarial(adapter):
    """A pair and a reference that push as hard as the loss allows, in one direction."""
    prompt, token = [5] * 3, 11
    pair = make_pair(prompt, [token] * 30, [token + 1] * 30)
    return pair, np.array([[0.0, -500.0]], dtype=np.float32)


@pytest.mark.parametrize("form", ["packed", "two_forward"])
def test_one_adversarial_pair_moves_the_clipped_sum_by_no_more_than_the_clip_norm(form):
    adapter, max_grad_norm = _policy(), 0.1
    reference = _reference(adapter, PAIRS)
    gradients = PairGradients(adapter, beta=BETA, form=form, micro_batch_pairs=4)
    pair, extreme = _adversarial(adapter)

    def clipped_sum(pairs, fixed):
        return sum(
            _clip(rows.double(), max_grad_norm).sum(dim=0) for rows in gradients(pairs, fixed)
        )

    without = clipped_sum(PAIRS, reference)
    with_it = clipped_sum([*PAIRS, pair], np.concatenate([reference, extreme]))
    (alone,) = gradients([pair], extreme)
    assert alone.norm() > 10 * max_grad_norm
    assert (with_it - without).norm() <= max_grad_norm * (1 + 1e-6)


def test_clipping_rows_of_completions_would_break_the_bound():
    # What the packed row prevents: chosen and rejected clipped apart count twice.
    adapter, max_grad_norm = _policy(), 0.1
    pair, fixed = _adversarial(adapter)
    chosen, rejected = _plain_scores(adapter, pair)
    slope = -BETA * torch.sigmoid(-BETA * (chosen - rejected - 500.0)).detach()
    halves = torch.stack(
        [
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(s, adapter.parameters)])
            for s in (slope * chosen, -slope * rejected)
        ]
    )
    (joined,) = PairGradients(adapter, beta=BETA)([pair], fixed)
    torch.testing.assert_close(halves.sum(dim=0), joined[0], rtol=1e-4, atol=1e-5)
    assert _clip(halves, max_grad_norm).sum(dim=0).norm() > 1.2 * max_grad_norm


def test_no_pairs_yield_nothing_and_never_reach_the_model(monkeypatch):
    gradients = PairGradients(_policy(), beta=BETA)
    monkeypatch.setattr(gradients.scorer, "logprobs", lambda _b: pytest.fail("model was called"))
    assert list(gradients([], np.zeros((0, 2), dtype=np.float32))) == []


def test_a_pair_that_is_not_a_number_spoils_its_own_row_only():
    adapter = _policy()
    reference = _reference(adapter, PAIRS)
    gradients = PairGradients(adapter, beta=BETA)
    good = _rows(gradients, PAIRS, reference)
    reference[4, 1] = np.nan
    found = _rows(PairGradients(adapter, beta=BETA), PAIRS, reference)
    assert not torch.isfinite(found[4]).any()
    others = [i for i in range(len(PAIRS)) if i != 4]
    torch.testing.assert_close(found[others], good[others])


def test_a_16_bit_base_gives_float32_rows_near_the_float32_truth():
    reference = _reference(_policy(), PAIRS)
    truth = _truth(_policy(), PAIRS, reference)
    half = Adapter.attach(toy_model("llama").to(torch.bfloat16), AdapterSpec(rank=4))
    half.write(_policy().read())
    found = _rows(PairGradients(half, beta=BETA), PAIRS, reference)
    assert found.dtype == torch.float32
    assert (found - truth).norm() < 0.15 * truth.norm()


def test_the_gradient_at_the_start_comes_from_a_loss_of_ln_2():
    adapter = Adapter.attach(toy_model("llama"), AdapterSpec())
    reference = _reference(adapter, PAIRS)
    gradients = PairGradients(adapter, beta=BETA)
    batch = gradients.scorer.batch(PAIRS)
    with torch.no_grad():
        losses = gradients.loss(
            gradients.scorer.logprobs(batch), torch.from_numpy(reference), batch.completion_lengths
        )
    torch.testing.assert_close(losses, torch.full((9,), math.log(2)), rtol=1e-5, atol=1e-5)


def test_no_hook_gradient_or_activation_is_left_behind():
    adapter = _policy()
    reference = _reference(adapter, PAIRS)
    known = {id(m): set(vars(m)) for m in adapter.model.modules()}
    gradients = PairGradients(adapter, beta=BETA)
    list(gradients(PAIRS, reference))
    for module in adapter.model.modules():
        assert set(vars(module)) == known[id(module)]
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert not module.training
    for parameter in adapter.model.parameters():
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")


def test_two_iterators_and_an_evaluation_may_take_turns():
    adapter = _policy()
    reference = _reference(adapter, PAIRS)
    expected = _truth(adapter, PAIRS, reference).sum(dim=0)
    one, two = (PairGradients(adapter, beta=BETA, micro_batch_pairs=3) for _ in range(2))
    sums = torch.zeros(2, adapter.dimension)
    for left, right in zip(one(PAIRS, reference), two(PAIRS, reference), strict=True):
        adapter.model(torch.tensor([[1, 2, 3]]))
        sums += torch.stack([left.sum(dim=0), right.sum(dim=0)])
    for found in sums:
        assert (found - expected).norm() < 1e-5 * expected.norm()


def test_hooks_are_removed_after_an_error(monkeypatch):
    adapter = _policy()
    reference = _reference(adapter, PAIRS)
    gradients = PairGradients(adapter, beta=BETA)
    with monkeypatch.context() as patch:
        patch.setattr(gradients.scorer, "logprobs", lambda _b: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(gradients(PAIRS, reference))
    found = _rows(gradients, PAIRS, reference)
    assert _relative_error(found, _truth(adapter, PAIRS, reference)) < 1e-5


def test_construction_leaves_the_adapter_bit_for_bit():
    adapter = _policy()
    before = adapter.read()
    PairGradients(adapter)
    assert adapter.read().tobytes() == before.tobytes()


@pytest.mark.parametrize("shape", [(9,), (8, 2), (9, 3), (0, 2)])
def test_references_of_another_shape_are_refused_at_the_call(shape):
    gradients = PairGradients(_policy())
    with pytest.raises(ModelError, match="reference log-probabilities"):
        gradients(PAIRS, np.zeros(shape, dtype=np.float32))
    with pytest.raises(ModelError, match="reference log-probabilities"):
        gradients.mean_gradient(PAIRS, np.zeros(shape, dtype=np.float32))


def test_settings_without_meaning_are_refused():
    adapter = _policy()
    with pytest.raises(ModelError):
        PairGradients(adapter, micro_batch_pairs=0)
    with pytest.raises(ModelError):
        PairGradients(adapter, beta=0.0)
    with pytest.raises(ModelError, match="mean over no pairs"):
        PairGradients(adapter).mean_gradient([], np.zeros((0, 2)))
