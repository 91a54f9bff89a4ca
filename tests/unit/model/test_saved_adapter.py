import numpy as np
import pytest
from peft import PeftModel
from safetensors.numpy import load_file, save_file

from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.saved_adapter import (
    _refuse_other_scores,
    _scores,
    verify_saved_adapter,
    verify_saved_beside,
)
from tests.support.toy_models import shaken, toy_model, toy_pairs

PAIRS = toy_pairs(4)


def _saved(folder, family="llama", **settings):
    adapter = shaken(Adapter.attach(toy_model(family), AdapterSpec(rank=2, **settings)))
    adapter.save(folder)
    return adapter


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("freeze_a", [False, True])
def test_a_saved_adapter_is_the_trained_one(tmp_path, family, freeze_a):
    adapter = _saved(tmp_path, family, freeze_a=freeze_a)
    assert verify_saved_adapter(tmp_path, adapter, PAIRS) == 0.0
    assert verify_saved_adapter(tmp_path, adapter, PAIRS, base=toy_model(family)) == 0.0


@pytest.mark.filterwarnings("ignore:Full fine-tuning")
@pytest.mark.parametrize(
    "settings",
    [
        {"rank_pattern": (("0.self_attn.q_proj", 5),)},
        {"rslora": True},
        {"full_weights": True},
    ],
    ids=["rank-per-module", "rslora", "full"],
)
def test_every_shape_of_adapter_serves_after_reloading(tmp_path, settings):
    adapter = _saved(tmp_path, **settings)
    assert verify_saved_adapter(tmp_path, adapter, PAIRS, base=toy_model("llama")) == 0.0


def test_verifying_changes_neither_adapter_nor_base(tmp_path):
    adapter = _saved(tmp_path)
    vector, layout = adapter.read(), adapter.layout
    verify_saved_adapter(tmp_path, adapter, PAIRS)
    assert np.array_equal(adapter.read(), vector)
    assert [n for n, p in adapter.model.named_parameters() if p.requires_grad] == [
        slot.name for slot in layout
    ]


def test_keys_with_a_wrapper_prefix_are_found_out(tmp_path):
    adapter = _saved(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({f"_module.{k}": v for k, v in load_file(path).items()}, path)
    # peft itself takes the file without an error and loads nothing.
    PeftModel.from_pretrained(toy_model("llama"), str(tmp_path))
    with pytest.raises(ModelError, match="not the one in memory"):
        verify_saved_adapter(tmp_path, adapter, PAIRS)


def test_one_changed_weight_is_found_out(tmp_path):
    adapter = _saved(tmp_path)
    vector = adapter.read()
    vector[17] = np.nextafter(vector[17], np.float32(np.inf))
    adapter.write(vector)
    with pytest.raises(ModelError, match="1 of 8 tensors differ"):
        verify_saved_adapter(tmp_path, adapter, PAIRS)


def test_an_adapter_that_scores_no_numbers_equals_itself_only(tmp_path):
    adapter = _saved(tmp_path)
    adapter.write(np.full(adapter.dimension, 1e30, dtype=np.float32))
    adapter.save(tmp_path)
    assert np.isnan(_scores(adapter, PAIRS)).any()
    assert verify_saved_adapter(tmp_path, adapter, PAIRS) == 0.0
    assert verify_saved_beside(tmp_path, adapter, PAIRS) == 0.0
    numbers, none = np.zeros((2, 2), np.float32), np.array([[0, np.nan], [0, 0]], np.float32)
    assert _refuse_other_scores(tmp_path, none, none.copy()) == 0.0
    for before, after in ((numbers, none), (none, numbers), (numbers, numbers + np.inf)):
        with pytest.raises(ModelError, match="nats away"):
            _refuse_other_scores(tmp_path, before, after)


def test_another_base_is_found_out(tmp_path):
    adapter = _saved(tmp_path)
    with pytest.raises(ModelError, match="nats away"):
        verify_saved_adapter(tmp_path, adapter, PAIRS, base=toy_model("llama", seed=1))


def test_an_empty_folder_does_not_verify(tmp_path):
    adapter = shaken(Adapter.attach(toy_model("llama"), AdapterSpec()))
    with pytest.raises(ModelError, match="does not load"):
        verify_saved_adapter(tmp_path, adapter, PAIRS)


def test_nothing_to_compare_is_refused(tmp_path):
    with pytest.raises(ModelError, match="Nothing to compare"):
        verify_saved_adapter(tmp_path, _saved(tmp_path), [])
