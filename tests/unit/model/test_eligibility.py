import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.eligibility import (
    attention_window,
    jumps,
    position_limit,
    refuse_if_not_per_pair,
)
from tests.support.toy_models import toy_model


def _lora(**settings):
    settings = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **settings}
    return get_peft_model(toy_model("llama").requires_grad_(False), LoraConfig(**settings))


def test_plain_lora_passes():
    refuse_if_not_per_pair(_lora())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"bias": "lora_only"}, "bias"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens.*LoRA on an embedding"),
        ({"target_modules": ["q_proj", "lm_head"]}, "output head"),
        ({"lora_dropout": 0.1}, "dropout"),
    ],
)
def test_adapters_that_cannot_be_private_are_named(settings, named):
    with pytest.raises(ModelError, match=named) as caught:
        refuse_if_not_per_pair(_lora(**settings))
    assert caught.value.advice


def test_other_kinds_of_adapter_are_named():
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    with pytest.raises(ModelError, match="IA3"):
        refuse_if_not_per_pair(get_peft_model(toy_model("llama"), config))


def test_a_trainable_base_layer_is_named():
    model = _lora()
    model.get_base_model().model.layers[1].input_layernorm.weight.requires_grad_(True)
    with pytest.raises(ModelError, match=r"layers.1.input_layernorm \(LlamaRMSNorm\)"):
        refuse_if_not_per_pair(model)


def test_a_trainable_linear_layer_outside_the_adapter_is_named():
    model = _lora()
    model.get_base_model().model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    with pytest.raises(ModelError, match="up_proj"):
        refuse_if_not_per_pair(model)


def test_batch_norm_is_named_although_it_is_frozen():
    model = _lora()
    model.get_base_model().model.layers[0].mlp.norm = torch.nn.BatchNorm1d(4).requires_grad_(False)
    with pytest.raises(ModelError, match=r"mlp.norm is a batch norm"):
        refuse_if_not_per_pair(model)


def test_an_auxiliary_loss_over_the_batch_is_named():
    with pytest.raises(ModelError, match="output_router_logits"):
        Adapter.attach(toy_model("mixtral", output_router_logits=True), AdapterSpec(rank=2))
    Adapter.attach(toy_model("mixtral"), AdapterSpec(rank=2))


@pytest.mark.parametrize(
    ("family", "extra", "reason"),
    [
        ("llama", {}, ""),
        ("gpt2", {}, ""),
        ("gemma2", {}, ""),
        ("phi", {}, ""),
        ("llama", {"hidden_act": "relu"}, "its activation relu has a kink"),
        ("gpt2", {"activation_function": "relu"}, "its activation relu has a kink"),
        ("mixtral", {}, "a token goes to one expert or another"),
    ],
)
def test_what_makes_gradients_jump(family, extra, reason):
    assert jumps(toy_model(family, **extra)) == reason


def test_nothing_trainable_is_refused():
    with pytest.raises(ModelError, match="no trainable weight"):
        refuse_if_not_per_pair(_lora().requires_grad_(False))


def test_an_adapter_with_dropout_is_taken_with_dropout_zero():
    adapter = Adapter(_lora(lora_dropout=0.3))
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in adapter.model.modules())


def test_position_limits():
    assert position_limit(toy_model("llama")) == 128
    assert position_limit(toy_model("gpt2")) == 128
    adapting = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = toy_model("llama")
    model.config.rope_parameters = {**adapting, "original_max_position_embeddings": 40}
    assert position_limit(model) == 40
    assert position_limit(torch.nn.Linear(1, 1)) is None


def test_attention_windows():
    assert attention_window(toy_model("llama")) is None
    assert attention_window(toy_model("mistral", sliding_window=16)) == 16
    assert attention_window(toy_model("gemma2")) == 24
    assert attention_window(toy_model("qwen2", use_sliding_window=False)) is None


def test_the_gpt2_adapter_lives_in_plain_linear_layers():
    adapter = Adapter.attach(toy_model("gpt2"), AdapterSpec(rank=2))
    assert {type(layer) for layer in adapter.linear_layers} == {torch.nn.Linear}
