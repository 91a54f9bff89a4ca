"""TRL's and peft's arguments: what means the same is carried over, the rest is named."""

import dataclasses
import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig
from trl import DPOConfig

from privfed_dpo.config import as_sections, parse_config
from privfed_dpo.errors import ConfigError
from privfed_dpo.trl_arguments import (
    LOSSES,
    settings_of_adapter,
    settings_of_arguments,
)


def dpo(tmp_path, **arguments):
    return DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **arguments)


def test_what_means_the_same_is_carried_over(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        settings = settings_of_arguments(
            dpo(
                tmp_path,
                beta=0.3,
                loss_type="robust",
                label_smoothing=0.1,
                max_length=64,
                seed=7,
                gradient_checkpointing=False,
            )
        )
    assert settings == {
        "dpo.beta": 0.3,
        "dpo.loss": "robust",
        "dpo.label_smoothing": 0.1,
        "data.max_length": 64,
        "run.seed": 7,
        "dpo.gradient_checkpointing": False,
        "model.device": "cpu",
    }


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_one_of_the_configuration(tmp_path, loss):
    settings = settings_of_arguments(dpo(tmp_path, loss_type=loss))
    assert settings["dpo.loss"] == loss


@pytest.mark.parametrize("loss", ["bco_pair", "sppo_hard", ["sigmoid", "sft"]])
def test_a_loss_without_a_private_form_is_refused(tmp_path, loss):
    with pytest.raises(ConfigError, match="loss_type"):
        settings_of_arguments(dpo(tmp_path, loss_type=loss))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sync_ref_model", True),
        ("use_weighting", True),
        ("ld_alpha", 0.5),
        ("f_divergence_type", "js_divergence"),
        ("disable_dropout", False),
        ("neftune_noise_alpha", 5.0),
        ("router_aux_loss_coef", 0.01),
    ],
)
def test_an_argument_that_changes_what_is_trained_is_refused(tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"{name}={value!r} has no counterpart"):
        settings_of_arguments(dpo(tmp_path, **{name: value}))


def test_values_that_change_nothing_are_taken(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        settings_of_arguments(
            dpo(tmp_path, ld_alpha=1.0, router_aux_loss_coef=0.0, precompute_ref_log_probs=True)
        )


def test_no_limit_on_lengths_is_refused_and_not_replaced(tmp_path):
    with pytest.raises(ConfigError, match="max_length=None"):
        settings_of_arguments(dpo(tmp_path, max_length=None))


def test_how_a_model_is_loaded_is_carried_over_where_it_means_the_same(tmp_path):
    loading = {
        "revision": "v1",
        "dtype": torch.bfloat16,
        "attn_implementation": "sdpa",
        "use_cache": False,
        "device_map": None,
    }
    settings = settings_of_arguments(dpo(tmp_path, model_init_kwargs=loading))
    found = {key: value for key, value in settings.items() if key.startswith("model.")}
    assert found == {
        "model.device": "cpu",
        "model.revision": "v1",
        "model.dtype": "bfloat16",
        "model.attention": "sdpa",
    }


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("quantization_config", {"load_in_4bit": True}, "; see model.quantization"),
        ("device_map", "auto", "; see model.device"),
        ("trust_remote_code", True, ""),
        ("rope_scaling", {"factor": 2.0}, ""),
    ],
)
def test_how_a_model_is_loaded_is_refused_elsewhere(tmp_path, name, value, instead):
    with pytest.raises(ConfigError, match=f"'{name}', which is not carried over{instead}"):
        settings_of_arguments(dpo(tmp_path, model_init_kwargs={name: value}))


def test_everything_else_that_was_set_is_named_without_its_value(tmp_path):
    with pytest.warns(UserWarning, match="not carried over") as caught:
        settings_of_arguments(
            dpo(
                tmp_path,
                truncation_mode="keep_end",
                adam_beta1=0.8,
                adam_beta2=0.9,
                report_to="none",
                logging_steps=5,
                hub_token="hf_of_somebody",
            )
        )
    said = next(str(one.message) for one in caught if "not carried over" in str(one.message))
    assert "adam_beta1 (see federation.momentum)" in said
    assert "truncation_mode (see data.max_length" in said
    assert all(name in said for name in ("adam_beta2", "logging_steps", "hub_token"))
    assert not any(name in said for name in ("report_to", "output_dir", "use_cpu", "bf16"))
    assert "hf_of_somebody" not in said


def test_what_means_something_else_is_named_and_not_guessed(tmp_path):
    with pytest.warns(UserWarning, match=r"learning_rate \(see federation.learning_rate"):
        settings = settings_of_arguments(dpo(tmp_path, learning_rate=1e-3))
    assert not any("learning_rate" in key for key in settings)


def test_any_object_with_the_attributes_will_do():
    class Arguments:
        beta = 0.5

    assert settings_of_arguments(Arguments()) == {"dpo.beta": 0.5}
    with pytest.warns(UserWarning, match="learning_rate"):
        settings_of_arguments(SimpleNamespace(beta=0.5, learning_rate=1e-3))


def test_a_dataclass_of_ones_own_is_held_against_its_defaults():
    @dataclasses.dataclass
    class Arguments:
        output_dir: str
        depth: int
        beta: float = 0.1
        max_steps: int = -1
        adam_beta2: float = 0.999

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert settings_of_arguments(Arguments("out", None)) == {"dpo.beta": 0.1}
    with pytest.warns(UserWarning, match="max_steps") as caught:
        settings_of_arguments(Arguments("out", 2, max_steps=7))
    said = str(caught[0].message)
    assert "depth" in said
    assert "adam_beta2" not in said


def test_a_lora_config_is_accepted_as_it_is():
    given = LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules=["v_proj", "q_proj"],
        use_rslora=True,
        rank_pattern={"q_proj": 2},
    )
    sections = as_sections(settings_of_adapter(given)) | {
        "privacy": {"target_epsilon": 1},
        "data": {"clients": 5},
    }
    adapter = parse_config(json.dumps(sections)).model.adapter
    assert (adapter.rank, adapter.alpha, adapter.rslora) == (4, 12.0, True)
    assert adapter.target_modules == ("q_proj", "v_proj")
    assert adapter.rank_pattern == {"q_proj": 2}


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [(None, "auto"), ("all-linear", "all-linear"), ("q_proj", ["q_proj"])],
)
def test_targets_in_all_their_forms(targets, wanted):
    settings = settings_of_adapter(LoraConfig(target_modules=targets))
    assert settings["model.adapter.target_modules"] == wanted


@pytest.mark.parametrize(
    "extra",
    [
        {"lora_dropout": 0.1},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"use_dora": True},
        {"alpha_pattern": {"q_proj": 3}},
        {"lora_bias": True},
        {"exclude_modules": ["lm_head"]},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"trainable_token_indices": [1, 2]},
        {"layer_replication": [(0, 2)]},
        {"layers_to_transform": [0]},
        {"target_parameters": ["experts.down"]},
        {"task_type": "SEQ_CLS"},
        {"inference_mode": True},
    ],
)
def test_what_has_no_private_form_is_refused_by_name(extra):
    with pytest.raises(ConfigError, match=next(iter(extra))):
        settings_of_adapter(LoraConfig(target_modules=["q_proj"], **extra))


def test_what_does_not_change_the_factors_is_taken():
    given = LoraConfig(
        target_modules=["c_attn"],
        task_type="CAUSAL_LM",
        fan_in_fan_out=True,
        modules_to_save=[],
        base_model_name_or_path="somewhere",
    )
    plain = settings_of_adapter(LoraConfig(target_modules=["c_attn"]))
    assert settings_of_adapter(given) == plain


def test_a_field_that_nobody_here_has_heard_of_is_refused():
    @dataclasses.dataclass
    class Later(LoraConfig):
        swirl: float | None = None

    assert settings_of_adapter(Later(r=4))["model.adapter.rank"] == 4
    with pytest.raises(ConfigError, match="swirl="):
        settings_of_adapter(Later(r=4, swirl=0.5))


@pytest.mark.parametrize("other", [AdaLoraConfig(total_step=5), IA3Config(), "lora"])
def test_other_kinds_of_adapters_are_refused(other):
    with pytest.raises(ConfigError, match="only LoRA"):
        settings_of_adapter(other)


def test_a_pattern_of_names_is_refused():
    with pytest.raises(ConfigError, match="list the names"):
        settings_of_adapter(LoraConfig(target_modules=r".*\.(q|v)_proj"))
