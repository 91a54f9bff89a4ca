"""TRL's and peft's arguments: what means the same is carried over, the rest is named."""

import json
import warnings

import pytest
from peft import LoraConfig
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
    }


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_one_of_the_configuration(tmp_path, loss):
    settings = settings_of_arguments(dpo(tmp_path, loss_type=loss))
    assert settings["dpo.loss"] == loss


@pytest.mark.parametrize("loss", ["bco_pair", "sppo_hard", ["sigmoid", "sft"]])
def test_a_loss_without_a_private_form_is_refused(tmp_path, loss):
    with pytest.raises(ConfigError, match="loss_type"):
        settings_of_arguments(dpo(tmp_path, loss_type=loss))


def test_an_argument_that_changes_the_reference_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="sync_ref_model=True"):
        settings_of_arguments(dpo(tmp_path, sync_ref_model=True))


def test_what_means_something_else_is_named_and_not_guessed(tmp_path):
    with pytest.warns(UserWarning, match=r"learning_rate \(see federation.learning_rate"):
        settings = settings_of_arguments(dpo(tmp_path, learning_rate=1e-3))
    assert not any("learning_rate" in key for key in settings)


def test_any_object_with_the_attributes_will_do():
    class Arguments:
        beta = 0.5

    assert settings_of_arguments(Arguments()) == {"dpo.beta": 0.5}


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
    ],
)
def test_what_has_no_private_form_is_refused_by_name(extra):
    with pytest.raises(ConfigError, match=next(iter(extra))):
        settings_of_adapter(LoraConfig(target_modules=["q_proj"], **extra))
