"""Layers whose rows are not pairs: found before they meet data, or on the batch they spoil."""

import numpy as np
import pytest

from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from tests.support.toy_models import make_pair, shaken, toy_model, toy_pairs

PAIRS = toy_pairs(9, seed=3)


def _flattening(x, forward):
    """As in mixtures of experts and some feed-forward layers: [pair, token] becomes one."""
    return forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _transposing(x, forward):
    """Token first, as some older models have it: three dimensions, and the wrong one first."""
    return forward(x.transpose(0, 1)).transpose(0, 1)


def _passing(x, forward):
    return forward(x)


def _mlp_adapter(change):
    adapter = Adapter.attach(toy_model("llama"), AdapterSpec(target_modules=("up_proj",)))
    layer = adapter.model.get_base_model().model.layers[0].mlp.up_proj
    forward = layer.forward
    layer.forward = lambda x: change(x, forward)
    return adapter, layer


@pytest.mark.parametrize("change", [_flattening, _transposing])
def test_a_layer_that_sees_tokens_instead_of_pairs_is_refused_before_it_meets_data(change):
    adapter, _ = _mlp_adapter(change)
    with pytest.raises(ModelError, match=r"up_proj.*rows are not pairs"):
        PairGradients(adapter)


def test_a_layer_whose_rows_stop_being_pairs_is_refused_on_that_batch():
    adapter, layer = _mlp_adapter(_passing)
    gradients = PairGradients(adapter)
    forward = layer.forward
    layer.forward = lambda x: _flattening(x, forward)
    with pytest.raises(ModelError, match=r"up_proj.*rows are not pairs"):
        list(gradients(PAIRS, np.zeros((9, 2))))
    # One pair of one token: the numbers agree by chance, and it is refused all the same.
    with pytest.raises(ModelError, match="rows are not pairs"):
        list(gradients([make_pair([3], [4], [5])], np.zeros((1, 2))))


def test_tokens_first_is_refused_even_where_the_shapes_agree(monkeypatch):
    # As many tokens as pairs: only the comparison with single pairs can tell.
    adapter, _ = _mlp_adapter(_transposing)
    square = [make_pair([i, i + 1], [i + 2], [i + 3, i + 4]) for i in (5, 15, 25)]
    monkeypatch.setattr("privfed_dpo.model.scorer.PairScorer.made_up_pairs", lambda _s: square)
    with pytest.raises(ModelError, match="not the gradients of single pairs"):
        PairGradients(adapter, form="packed")


def test_an_adapted_layer_that_is_never_reached_is_refused():
    adapter = shaken(Adapter.attach(toy_model("llama"), AdapterSpec(rank=4)))
    q_proj = adapter.model.get_base_model().model.layers[1].self_attn.q_proj
    q_proj.forward = q_proj.base_layer.forward
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.q_proj"):
        PairGradients(adapter)


def test_a_weight_used_behind_the_hooks_is_refused():
    adapter = shaken(Adapter.attach(toy_model("llama"), AdapterSpec(rank=4)))
    layer = adapter.model.get_base_model().model.layers[0].self_attn.q_proj
    forward, factor = layer.forward, layer.lora_B["default"].weight
    layer.forward = lambda x: forward(x) + 0.1 * factor.sum()
    with pytest.raises(ModelError, match="not the gradients of single pairs"):
        PairGradients(adapter)
