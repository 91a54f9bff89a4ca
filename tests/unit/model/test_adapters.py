import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec, resolve_targets
from tests.support.toy_models import FAMILIES, shaken, toy_model

ADAPTER = Adapter.attach(toy_model("llama"), AdapterSpec(rank=1))


@settings(max_examples=40, deadline=None)
@given(
    arrays(
        np.float32,
        ADAPTER.dimension,
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    )
)
def test_what_is_written_is_read_bit_for_bit(vector):
    ADAPTER.write(vector)
    assert ADAPTER.read().tobytes() == vector.tobytes()


def test_the_layout_is_where_the_weights_are():
    adapter = shaken(Adapter.attach(toy_model("llama"), AdapterSpec(rank=3)))
    vector = adapter.read()
    assert vector.dtype == np.float32
    assert vector.shape == (adapter.dimension,) == (adapter.layout[-1].stop,)
    weights = dict(adapter.model.named_parameters())
    for slot in adapter.layout:
        expected = weights[slot.name].detach().numpy()
        assert np.array_equal(vector[slot.start : slot.stop].reshape(slot.shape), expected)
    assert [s.start for s in adapter.layout[1:]] == [s.stop for s in adapter.layout[:-1]]


def test_reading_gives_a_copy_and_writing_keeps_none():
    adapter = shaken(Adapter.attach(toy_model("llama"), AdapterSpec()))
    first = adapter.read()
    adapter.write(np.zeros(adapter.dimension, dtype=np.float32))
    assert first.any()
    fixed = np.ones(adapter.dimension, dtype=np.float32)
    fixed.flags.writeable = False
    adapter.write(fixed)
    assert np.array_equal(adapter.read(), fixed)


def test_wider_vectors_are_rounded_to_float32():
    vector = np.full(ADAPTER.dimension, 1 / 3)
    ADAPTER.write(vector)
    assert np.array_equal(ADAPTER.read(), vector.astype(np.float32))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_change_nothing(wrong):
    before = ADAPTER.read()
    vector = np.zeros(ADAPTER.dimension, dtype=np.float32)
    vector[-1] = wrong
    with pytest.raises(ModelError, match="not finite"):
        ADAPTER.write(vector)
    assert np.array_equal(ADAPTER.read(), before)


@pytest.mark.parametrize("shape", [(0,), (3,), (ADAPTER.dimension, 1), (ADAPTER.dimension + 1,)])
def test_vectors_of_another_shape_are_refused(shape):
    with pytest.raises(ModelError, match="weights"):
        ADAPTER.write(np.zeros(shape, dtype=np.float32))


def test_the_dimension_by_hand():
    # Width 32; q projects to 4 x 8 = 32, v to 2 x 8 = 16; two layers; rank 3.
    by_hand = 2 * ((3 * 32 + 32 * 3) + (3 * 32 + 16 * 3))
    assert Adapter.attach(toy_model("llama"), AdapterSpec(rank=3)).dimension == by_hand
    only_b = 2 * (32 * 3 + 16 * 3)
    frozen = Adapter.attach(toy_model("llama"), AdapterSpec(rank=3, freeze_a=True))
    assert frozen.dimension == only_b
    assert all(".lora_B." in slot.name for slot in frozen.layout)


@pytest.mark.parametrize("freeze_a", [False, True])
def test_disabled_is_the_base_and_leaves_no_trace(freeze_a):
    ids = torch.tensor([[3, 5, 8]])
    base = toy_model("llama")
    expected = base(ids).logits
    adapter = shaken(Adapter.attach(base, AdapterSpec(freeze_a=freeze_a)))
    changed = adapter.model(ids).logits
    trainable = [n for n, p in adapter.model.named_parameters() if p.requires_grad]
    with adapter.disabled():
        assert torch.equal(adapter.model(ids).logits, expected)
    assert not torch.equal(changed, expected)
    assert torch.equal(adapter.model(ids).logits, changed)
    assert [n for n, p in adapter.model.named_parameters() if p.requires_grad] == trainable


def test_disabled_is_undone_after_an_error():
    adapter = shaken(Adapter.attach(toy_model("llama"), AdapterSpec()))
    changed = adapter.model(torch.tensor([[3]])).logits
    with pytest.raises(RuntimeError), adapter.disabled():
        raise RuntimeError
    assert torch.equal(adapter.model(torch.tensor([[3]])).logits, changed)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_fresh_adapter_changes_nothing(family):
    ids = torch.tensor([[3, 5, 8, 13]])
    base = toy_model(family)
    expected = base(ids).logits
    adapter = Adapter.attach(base, AdapterSpec())
    assert torch.equal(adapter.model(ids).logits, expected)


def test_the_start_is_a_function_of_the_seed():
    vectors = [
        Adapter.attach(toy_model("llama"), AdapterSpec(init_seed=s)).read() for s in (1, 1, 2)
    ]
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


def test_a_16_bit_base_carries_float32_adapters():
    adapter = Adapter.attach(toy_model("llama").to(torch.bfloat16), AdapterSpec())
    assert {p.dtype for p in adapter.parameters} == {torch.float32}
    vector = np.linspace(-1, 1, adapter.dimension, dtype=np.float32)
    adapter.write(vector)
    assert np.array_equal(adapter.read(), vector)


@pytest.mark.parametrize(
    ("family", "expected"),
    [("llama", ("q_proj", "v_proj")), ("qwen3", ("q_proj", "v_proj")), ("gpt2", ("c_attn",))],
)
def test_automatic_targets_are_attention_projections(family, expected):
    assert resolve_targets(toy_model(family), "auto") == expected


def test_chosen_targets_are_taken_and_unknown_ones_named():
    model = toy_model("llama")
    assert resolve_targets(model, ("up_proj", "self_attn.o_proj")) == (
        "up_proj",
        "self_attn.o_proj",
    )
    with pytest.raises(ModelError, match="query_key") as caught:
        resolve_targets(model, ("q_proj", "query_key"))
    assert "q_proj" in caught.value.advice


def test_a_model_of_unknown_layer_names_says_which_there_are():
    strange = torch.nn.ModuleDict({"mystery": torch.nn.Linear(2, 2)})
    with pytest.raises(ModelError) as caught:
        resolve_targets(strange, "auto")
    assert "mystery" in caught.value.advice


def _ranks(adapter):
    return {
        slot.name.removeprefix("base_model.model.model.layers.").partition(".lora_A")[
            0
        ]: slot.shape[0]
        for slot in adapter.layout
        if ".lora_A." in slot.name
    }


def test_ranks_per_module_by_the_first_ending_that_matches():
    pattern = (("1.self_attn.q_proj", 5), ("q_proj", 2))
    spec = AdapterSpec(rank=3, alpha=6.0, rank_pattern=pattern)
    adapter = Adapter.attach(toy_model("llama"), spec)
    assert _ranks(adapter) == {
        "0.self_attn.q_proj": 2,
        "0.self_attn.v_proj": 3,
        "1.self_attn.q_proj": 5,
        "1.self_attn.v_proj": 3,
    }
    scales = [m.scaling["default"] for m in adapter.model.modules() if hasattr(m, "lora_A")]
    assert scales == pytest.approx([6 / 2, 6 / 3, 6 / 5, 6 / 3])


@pytest.mark.parametrize("rslora", [False, True])
def test_scales_are_over_the_rank_or_over_its_root(rslora):
    spec = AdapterSpec(rank=4, alpha=6.0, rslora=rslora, rank_pattern=(("v_proj", 16),))
    adapter = Adapter.attach(toy_model("llama"), spec)
    scales = [m.scaling["default"] for m in adapter.model.modules() if hasattr(m, "lora_A")]
    by_hand = [6 / 2, 6 / 4] if rslora else [6 / 4, 6 / 16]
    assert scales == pytest.approx(by_hand * 2)


def test_a_rank_for_a_layer_without_adapter_is_refused():
    # The ending of a name, not any part of it: "proj" alone is no layer.
    for ending in ("k_proj", "proj", "layers.7.self_attn.q_proj"):
        with pytest.raises(ModelError, match="does not go to") as caught:
            Adapter.attach(toy_model("llama"), AdapterSpec(rank_pattern=((ending, 2),)))
        assert "layers.0.self_attn.q_proj" in caught.value.advice


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_full_weights_are_the_change_of_the_base_weights_themselves(family):
    base = toy_model(family)
    twin = copy.deepcopy(base)
    with pytest.warns(UserWarning, match="Full fine-tuning trains"):
        adapter = Adapter.attach(base, AdapterSpec(full_weights=True))
    shaken(adapter, scale=0.1)
    changed = 0
    for slot, values in zip(adapter.layout, adapter.parameters, strict=True):
        layer = twin.get_submodule(
            slot.name.removeprefix("base_model.model.").partition(".lora_B")[0]
        )
        with torch.no_grad():
            layer.weight += values.T if family == "gpt2" else values
        changed += 1
    linears = [m for m in twin.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    assert changed == len(linears) - 1  # all but the head
    ids = torch.tensor([[3, 5, 8, 13]])
    torch.testing.assert_close(adapter.model(ids).logits, twin(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Full fine-tuning")
def test_full_weights_have_as_many_weights_as_the_layers():
    base = toy_model("llama")
    count = sum(base.get_submodule(f"model.layers.{i}.mlp.up_proj").weight.numel() for i in (0, 1))
    spec = AdapterSpec(full_weights=True, target_modules=("up_proj",))
    assert Adapter.attach(base, spec).dimension == count == 2 * 32 * 48


@pytest.mark.parametrize(
    "settings", [{"freeze_a": True}, {"rslora": True}, {"rank_pattern": (("q_proj", 2),)}]
)
def test_full_weights_with_settings_of_factors_are_refused(settings):
    with pytest.raises(ModelError, match="no factors"):
        Adapter.attach(toy_model("llama"), AdapterSpec(full_weights=True, **settings))


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "phi3"])
def test_all_linear_leaves_the_head_out(family):
    model = toy_model(family)
    named = resolve_targets(model, "all-linear")
    assert "lm_head" not in named
    linears = [n for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D")]
    assert {n.rpartition(".")[2] for n in linears} == {*named, "lm_head"}


@pytest.mark.parametrize(
    "spec",
    [AdapterSpec(rank=0), AdapterSpec(alpha=0.0), AdapterSpec(rank_pattern=(("q_proj", 0),))],
)
def test_adapters_without_effect_are_refused(spec):
    with pytest.raises(ModelError, match="no effect"):
        Adapter.attach(toy_model("llama"), spec)


def test_a_second_adapter_on_one_base_is_refused():
    base = toy_model("llama")
    Adapter.attach(base, AdapterSpec())
    with pytest.raises(ModelError, match="already carries"):
        Adapter.attach(base, AdapterSpec())


@pytest.mark.parametrize(("freeze_a", "exact"), [(True, True), (False, False)])
def test_the_mean_of_adapters_is_the_mean_of_models_if_a_is_frozen(freeze_a, exact):
    """B A is bilinear: means of both factors lose their covariance between nodes."""
    adapter = Adapter.attach(toy_model(), AdapterSpec(rank=2, alpha=4.0, freeze_a=freeze_a))
    rng = np.random.default_rng(0)
    nodes = rng.normal(size=(3, adapter.dimension)).astype(np.float32)

    def changes(weights):
        adapter.write(weights)
        layers = [m for m in adapter.model.modules() if hasattr(m, "get_delta_weight")]
        return [layer.get_delta_weight("default").detach().numpy() for layer in layers]

    apart = [np.mean(layer, axis=0) for layer in zip(*map(changes, nodes), strict=True)]
    together = changes(nodes.mean(axis=0))
    error = max(np.abs(a - b).max() for a, b in zip(apart, together, strict=True))
    assert (error < 1e-5) == exact
