import json

import pytest
import torch
from tokenizers.normalizers import Lowercase
from transformers import GPT2Config, GPT2LMHeadModel

from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.fingerprint import tokenizer_difference
from privfed_dpo.model.loading import ModelSpec, empty_model, load_model
from privfed_dpo.model.tiny import build_word_tokenizer

WORDS = ("how", "do", "i", "fix", "my", "bike", "now", "please")


def _gpt2_folder(folder, *, rows=12, pad=None):
    """A checkpoint with dropout 0.1 everywhere and a tokenizer without a pad token."""
    tokenizer = build_word_tokenizer(WORDS)
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(folder)
    config = GPT2Config(vocab_size=rows, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_the_same_seed_gives_the_same_built_in_model_and_another_seed_another():
    one, two = (load_model(ModelSpec(init_seed=3), vocabulary=WORDS) for _ in range(2))
    other = load_model(ModelSpec(init_seed=4), vocabulary=WORDS)
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_making_a_model_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    Adapter.attach(load_model(ModelSpec(), vocabulary=WORDS), AdapterSpec())
    assert torch.equal(torch.rand(3), expected)


def test_a_saved_model_loads_with_the_same_fingerprint_and_logits(tmp_path):
    built = load_model(ModelSpec(), vocabulary=WORDS)
    built.save(tmp_path)
    loaded = load_model(ModelSpec(base=str(tmp_path)))
    ids = torch.tensor([[2, 4, 5, 6]])
    assert loaded.fingerprint == built.fingerprint
    assert torch.equal(loaded.model(ids).logits, built.model(ids).logits)


def test_weights_are_frozen_in_eval_mode_and_of_the_wanted_type():
    loaded = load_model(ModelSpec(dtype="bfloat16"), vocabulary=WORDS)
    assert not loaded.model.training
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_every_dropout_of_a_checkpoint_becomes_zero(tmp_path):
    loaded = load_model(ModelSpec(base=str(_gpt2_folder(tmp_path))))
    rates = [m.p for m in loaded.model.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates
    assert set(rates) == {0.0}
    assert loaded.model.config.attn_pdrop == loaded.model.config.resid_pdrop == 0.0
    loaded.model.train()
    ids = torch.tensor([[4, 5, 6, 7]])
    assert torch.equal(loaded.model(ids).logits, loaded.model(ids).logits)


def test_a_missing_pad_token_becomes_the_end_token(tmp_path):
    loaded = load_model(ModelSpec(base=str(_gpt2_folder(tmp_path))))
    assert loaded.tokenizer.pad_token == "</s>"
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id


def test_the_fingerprint_sees_weights_template_and_words():
    loaded = load_model(ModelSpec(), vocabulary=WORDS)
    seen = {loaded.fingerprint}
    with torch.no_grad():
        loaded.model.lm_head.weight[5, 3] += 1e-6
    seen.add(loaded.refresh_fingerprint())
    loaded.tokenizer.chat_template = "{{ messages }}"
    seen.add(loaded.refresh_fingerprint())
    loaded.tokenizer.add_tokens(["more"])
    seen.add(loaded.refresh_fingerprint())
    assert len(seen) == 4


def test_a_base_with_an_adapter_is_not_saved_as_a_base(tmp_path):
    loaded = load_model(ModelSpec(), vocabulary=WORDS)
    Adapter.attach(loaded, AdapterSpec())
    with pytest.raises(ModelError, match="adapter is attached"):
        loaded.save(tmp_path)


def test_an_empty_model_tells_the_adapter_dimension_without_weights(tmp_path):
    built = load_model(ModelSpec(), vocabulary=WORDS)
    built.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    empty = empty_model(ModelSpec(base=str(tmp_path)))
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    spec = AdapterSpec(rank=5)
    expected = Adapter.attach(built, spec).dimension
    assert Adapter.attach(empty, spec).dimension == expected
    assert Adapter.attach(empty_model(ModelSpec()), spec).dimension == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec(base="/nowhere/at/all"), "/nowhere/at/all"),
        (ModelSpec(), "no vocabulary"),
        (ModelSpec(device="abacus"), "abacus"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_advice(spec, message):
    vocabulary = None if spec == ModelSpec() else WORDS
    with pytest.raises(ModelError, match=message) as caught:
        load_model(spec, vocabulary=vocabulary)
    assert caught.value.advice
    assert caught.value.exit_code == 2


def test_a_folder_without_safe_weights_is_refused(tmp_path):
    folder = _gpt2_folder(tmp_path)
    weights = GPT2LMHeadModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="could be loaded"):
        load_model(ModelSpec(base=str(folder)))


def test_an_encoder_is_not_a_causal_model(tmp_path):
    _gpt2_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ModelError, match="causal language model"):
        load_model(ModelSpec(base=str(tmp_path)))


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="only 8"):
        load_model(ModelSpec(base=str(_gpt2_folder(tmp_path, rows=8))))


def test_a_tokenizer_without_any_usable_pad_token_is_refused(tmp_path):
    folder = _gpt2_folder(tmp_path)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(
        json.dumps({k: v for k, v in settings.items() if k not in ("eos_token", "unk_token")})
    )
    with pytest.raises(ModelError, match="no pad, end or unknown"):
        load_model(ModelSpec(base=str(folder)))


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantized_weights_need_their_library(tmp_path, monkeypatch, quantization):
    monkeypatch.setattr("privfed_dpo.model.quantization.find_spec", lambda _name: None)
    spec = ModelSpec(base=str(_gpt2_folder(tmp_path)), quantization=quantization)
    with pytest.raises(ModelError, match="need bitsandbytes") as caught:
        load_model(spec)
    assert "pip install bitsandbytes" in caught.value.advice


def test_the_built_in_model_is_not_quantized():
    with pytest.raises(ModelError, match="too small"):
        load_model(ModelSpec(quantization="4bit"), vocabulary=WORDS)


def test_how_quantized_weights_are_asked_for(tmp_path, monkeypatch):
    asked = {}

    def record(base, **settings):
        asked.update(settings)
        return GPT2LMHeadModel(settings["config"]), {"missing_keys": [], "mismatched_keys": []}

    monkeypatch.setattr("privfed_dpo.model.quantization.find_spec", lambda name: name)
    monkeypatch.setattr("transformers.BitsAndBytesConfig.post_init", lambda _self: None)
    monkeypatch.setattr("privfed_dpo.model.loading.AutoModelForCausalLM.from_pretrained", record)
    base = str(_gpt2_folder(tmp_path))
    for quantization in ("8bit", "4bit"):
        load_model(ModelSpec(base=base, quantization=quantization, dtype="bfloat16"))
        config = asked["quantization_config"]
        assert (config.load_in_8bit, config.load_in_4bit) == (
            quantization == "8bit",
            quantization == "4bit",
        )
        # Outliers picked out over all rows would let one pair change another pair's gradient.
        assert config.llm_int8_threshold == 0.0
        assert config.bnb_4bit_compute_dtype == torch.bfloat16
        assert asked["device_map"] == {"": torch.device("cpu")}
    load_model(ModelSpec(base=base))
    asked.clear()
    load_model(ModelSpec(base=base))
    assert not {"quantization_config", "device_map"} & set(asked)


def test_tokenizers_are_told_apart_by_what_they_make_of_a_text():
    def variant(**attributes):
        tokenizer = build_word_tokenizer(WORDS)
        for name, value in attributes.items():
            setattr(tokenizer, name, value)
        return tokenizer

    plain = build_word_tokenizer(WORDS)
    assert (
        tokenizer_difference(plain, variant(pad_token=plain.eos_token, padding_side="left")) == ""
    )
    assert tokenizer_difference(plain, variant(chat_template="{{ x }}")) == "chat template"
    assert tokenizer_difference(plain, variant(eos_token=None)) == "first and last token"
    assert tokenizer_difference(plain, build_word_tokenizer(WORDS[1:])) == "vocabulary"
    lower = build_word_tokenizer(WORDS)
    lower.backend_tokenizer.normalizer = Lowercase()
    assert tokenizer_difference(plain, lower) == "rules"
    lower.backend_tokenizer.normalizer = None
    lower.backend_tokenizer.enable_truncation(5)
    lower.backend_tokenizer.enable_padding(length=5)
    assert tokenizer_difference(plain, lower) == ""
