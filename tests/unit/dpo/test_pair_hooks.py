import warnings
import weakref

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleHooks
from opacus.grad_sample.linear import compute_linear_grad_sample
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.pair_hooks import linear_rows, pair_graph, recomputed_activations
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from tests.support.toy_models import FAMILIES, shaken, toy_model, toy_pairs

BETA = 0.5
PAIRS = toy_pairs(6, seed=5)


def _gradients(family="llama", **settings):
    adapter = shaken(Adapter.attach(toy_model(family), AdapterSpec(rank=4)), scale=0.05)
    gradients = PairGradients(adapter, beta=BETA, **settings)
    return gradients, ReferenceLogprobs(adapter, fingerprint="toy")(PAIRS)


def _rows(gradients, reference):
    found = torch.empty(len(PAIRS), gradients.adapter.dimension)
    for indexes, rows in gradients.indexed(PAIRS, reference):
        found[indexes] = rows
    return found


@pytest.mark.parametrize("widths", [(3, 7), (7, 3), (4, 4)])
@pytest.mark.parametrize("middle", [(5,), (2, 5)])
def test_the_sampler_of_linear_layers_is_that_of_opacus(widths, middle):
    layer = nn.Linear(*widths, bias=False)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, *middle, widths[0], generator=generator)
    upstream = torch.randn(6, *middle, widths[1], generator=generator)
    (expected,) = compute_linear_grad_sample(layer, [inputs], upstream).values()
    (found,) = linear_rows(layer, [inputs], upstream).values()
    torch.testing.assert_close(found, expected)
    half = linear_rows(layer, [inputs.to(torch.bfloat16)], upstream)[layer.weight]
    assert half.dtype == torch.float32


@pytest.mark.parametrize("form", ["packed", "two_forward"])
def test_rows_are_those_of_opacus_own_hooks(form):
    gradients, reference = _gradients(form=form, micro_batch_pairs=6)
    adapter, batch = gradients.adapter, gradients.scorer.batch(PAIRS)
    group = nn.ModuleList(adapter.linear_layers).train()
    stock = GradSampleHooks(group, batch_first=True, loss_reduction="sum")
    losses = gradients.loss(
        gradients.scorer.logprobs(batch), torch.from_numpy(reference), batch.completion_lengths
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        losses.sum().backward()
    expected = torch.cat([p.grad_sample.flatten(1) for p in adapter.parameters], dim=1)
    stock.cleanup()
    group.eval()
    for layer in adapter.linear_layers:
        layer.weight.grad = None
    found = _rows(gradients, reference)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_sum_over_pairs_is_never_computed_by_autograd():
    gradients, reference = _gradients()
    with gradients.graph(PAIRS, reference) as graph:
        graph.backward(lambda _slot, _rows: None)
        assert all(p.grad is None for p in gradients.adapter.parameters)


def test_differentiable_embeddings_change_nothing():
    gradients, reference = _gradients()
    expected = _rows(gradients, reference)
    gradients.adapter.model.enable_input_require_grads()
    assert torch.equal(_rows(gradients, reference), expected)
    assert all(p.grad is None for p in gradients.adapter.parameters)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_recomputed_activations_give_the_same_rows(family):
    expected = _rows(*_gradients(family))
    found = _rows(*_gradients(family, gradient_checkpointing=True))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_recomputed_activations_serve_two_forwards_and_the_mean():
    kept, reference = _gradients(form="two_forward")
    recomputed, _ = _gradients(form="two_forward", gradient_checkpointing=True)
    torch.testing.assert_close(_rows(recomputed, reference), _rows(kept, reference))
    np.testing.assert_allclose(
        recomputed.mean_gradient(PAIRS, reference), kept.mean_gradient(PAIRS, reference), rtol=1e-5
    )


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what autograd keeps for the backward pass."""

    def __init__(self):
        self.total = 0
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor):
        self.total += tensor.nbytes
        return tensor


def test_recomputed_blocks_keep_their_inputs_only():
    saved = {}
    for checkpointing in (False, True):
        gradients, reference = _gradients(gradient_checkpointing=checkpointing)
        counter = _SavedBytes()
        with counter, gradients.graph(PAIRS, reference) as graph:
            saved[checkpointing] = counter.total
            graph.backward(lambda _slot, _rows: None)
    assert saved[True] < 0.3 * saved[False]


def test_blocks_are_as_they_were_after_recomputing():
    model = toy_model("llama")
    before = [dict(vars(m)) for m in model.modules()]
    with recomputed_activations(model):
        blocks = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        assert all(m.training == (m in blocks) for m in model.modules())
    assert [dict(vars(m)) for m in model.modules()] == before


def test_a_model_without_blocks_cannot_recompute():
    with pytest.raises(ModelError, match="no blocks"), recomputed_activations(nn.Linear(1, 1)):
        pass


def test_slots_are_handed_over_once_per_pass_and_in_the_order_of_the_backward():
    gradients, reference = _gradients()
    layout = gradients.adapter.layout
    seen = []
    with gradients.graph(PAIRS, reference) as graph:
        for keep in (True, False):
            seen.append({})
            graph.backward(seen[-1].__setitem__, keep=keep)
    assert [sorted(part) for part in seen] == [list(range(len(layout)))] * 2
    assert next(iter(seen[0])) > len(layout) // 2
    for index, slot in enumerate(layout):
        assert seen[0][index].shape == (len(PAIRS), slot.stop - slot.start)
        assert torch.equal(seen[0][index], seen[1][index])


def test_the_graph_is_gone_when_its_context_ends():
    gradients, reference = _gradients()
    with gradients.graph(PAIRS, reference) as graph:
        activation = weakref.ref(graph._lowest[0])
        graph.backward(lambda _slot, _rows: None, keep=True)
        during = activation() is not None
    assert during
    # At once, not when the garbage collector gets to it: activations are large.
    assert activation() is None


def test_a_graph_without_losses_is_refused():
    gradients, _ = _gradients()
    batch = gradients.scorer.batch(PAIRS)
    with (
        pair_graph(gradients.adapter, batch) as graph,
        pytest.raises(ModelError, match="no loss"),
    ):
        graph.backward(lambda _slot, _rows: None)
