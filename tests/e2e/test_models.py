"""Checkpoints of several families by path, and checkpoints that must not be trained."""

import json
import shutil

import numpy as np
import pytest
from safetensors import safe_open

from privfed_dpo.config import parse_config
from privfed_dpo.errors import ConfigError, ModelError
from privfed_dpo.lifecycle import plan, train
from privfed_dpo.verification import verify_run
from tests.support import preference_files as files
from tests.support.checkpoints import write_checkpoint
from tests.support.reloaded_adapter import reloaded_margins

CONFIG = """
model: {adapter: {rank: 2}}
dpo: {beta: 0.5}
privacy: {noise_multiplier: 1.0, sample_rate: 0.5}
federation: {rounds: 2, learning_rate: 0.02}
evaluation: {pairs: null, gradient_pairs: 6}
"""
TRAIN = files.preference_rows(users=4, per_user=5)
EVAL = files.preference_rows(users=3, per_user=3, seed=1)

# (key of the toy families, further settings, modules that receive an adapter by default)
MODELS = {
    "llama": ("llama", {}, {"q_proj", "v_proj"}),
    "llama with tied embeddings": ("llama-tied", {}, {"q_proj", "v_proj"}),
    "qwen2 with tied embeddings": ("qwen2", {}, {"q_proj", "v_proj"}),
    "qwen3": ("qwen3", {}, {"q_proj", "v_proj"}),
    "gpt2 with tied embeddings": ("gpt2", {}, {"c_attn"}),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    files.write_jsonl(folder / "train.jsonl", TRAIN)
    files.write_jsonl(folder / "eval.jsonl", EVAL)
    write_checkpoint(folder / "whole", "llama", files.texts_of(TRAIN))
    return folder


@pytest.fixture
def config_for(home, tmp_path):
    def make(base, *overrides):
        fixed = [
            f"run.dir={tmp_path / 'run'}",
            f"run.cache_dir={tmp_path / 'cache'}",
            f"model.base={base}",
            f"data.train={home / 'train.jsonl'}",
            f"data.eval={home / 'eval.jsonl'}",
        ]
        return parse_config(CONFIG, [*fixed, *overrides])

    return make


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", MODELS)
def test_a_family_trains_and_its_adapter_reloads(home, config_for, tmp_path, name):
    family, extra, projections = MODELS[name]
    base = write_checkpoint(tmp_path / "base", family, files.texts_of(TRAIN), **extra)
    weights_before = (base / "model.safetensors").read_bytes()
    config = config_for(base)
    folder = train(config)

    start, *_, final = rows_of(folder)
    assert start["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert (start["reward_accuracy"], start["reward_margin"]) == (0.5, 0.0)
    margins = reloaded_margins(folder / "adapter", base, home / "eval.jsonl", beta=0.5)
    assert np.abs(margins).max() > 1e-3, "the adapter must have learnt something"
    assert final["reward_margin"] == pytest.approx(margins.mean(), rel=1e-3, abs=1e-5)
    assert final["loss"] == pytest.approx(np.logaddexp(0, -margins).mean(), rel=1e-4)

    with safe_open(folder / "adapter" / "adapter_model.safetensors", framework="numpy") as file:
        names = list(file.keys())
        size = sum(file.get_tensor(tensor).size for tensor in names)
    assert {tensor.split(".lora_")[0].rpartition(".")[2] for tensor in names} == projections
    assert size == plan(config).facts.dimension, "only the adapter is trained and released"
    assert (base / "model.safetensors").read_bytes() == weights_before
    assert verify_run(folder).ok


def test_the_plan_is_made_from_the_configuration_file_alone(home, config_for, tmp_path):
    """No weights, no tokenizer: a user can plan before a large download."""
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(home / "whole" / "config.json", bare)
    whole = plan(config_for(home / "whole"))
    assert plan(config_for(bare)).describe() == whole.describe()
    assert whole.facts.model_bytes == 4 * parameters_of(home / "whole")


def parameters_of(checkpoint):
    with safe_open(checkpoint / "model.safetensors", framework="numpy") as file:
        return sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118 - not a dict


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def edit_config(**changes):
    def edit(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def remove(*names):
    def edit(folder):
        for name in names:
            (folder / name).unlink()

    return edit


DAMAGE = {
    "no such folder": (shutil.rmtree, "there is no such folder"),
    "no weights": (remove("model.safetensors"), "model.safetensors"),
    "half a weights file": (cut_weights, "a weights file is damaged"),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
    "no config": (remove("config.json"), "config.json"),
    "a config that is not JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        "not a valid JSON file",
    ),
    "a layer that the weights lack": (edit_config(num_hidden_layers=3), "would be random"),
    "another width than the weights": (edit_config(intermediate_size=64), "would be random"),
    "heads that do not divide the width": (edit_config(num_attention_heads=5), "not a multiple"),
    "an encoder and decoder": (edit_config(model_type="t5"), "AutoModelForCausalLM"),
    "fewer rows than tokens": (edit_config(vocab_size=100), "would be random"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_with_a_sentence(home, config_for, tmp_path, damage):
    """Above all, weights that the checkpoint lacks are never made up."""
    spoil, sentence = DAMAGE[damage]
    base = shutil.copytree(home / "whole", tmp_path / "base")
    spoil(base)
    with pytest.raises(ModelError, match=sentence) as caught:
        train(config_for(base))
    assert caught.value.exit_code == 2
    assert caught.value.advice
    assert "Traceback" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "nothing may be written for a run that never began"


def test_modules_that_do_not_exist_are_named_with_those_that_do(home, config_for):
    with pytest.raises(ModelError, match="nowhere_proj") as caught:
        plan(config_for(home / "whole", "model.adapter.target_modules=[nowhere_proj]"))
    assert "q_proj" in caught.value.advice


def test_the_adapter_may_sit_on_chosen_modules_with_a_frozen(home, config_for, tmp_path):
    config = config_for(
        home / "whole",
        "model.adapter.target_modules=[down_proj]",
        "model.adapter.freeze_a=true",
        "privacy.mode=none",
        "privacy.max_grad_norm=null",
    )
    folder = train(config)
    margins = reloaded_margins(folder / "adapter", home / "whole", home / "eval.jsonl", beta=0.5)
    assert rows_of(folder)[-1]["reward_margin"] == pytest.approx(margins.mean(), rel=1e-3, abs=1e-5)
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["down_proj"]


def test_the_tiny_model_of_the_embedded_task_is_not_for_other_data(home):
    with pytest.raises(ConfigError, match="knows only the words"):
        parse_config(CONFIG, [f"data.train={home / 'train.jsonl'}"])
