"""What people who come from TRL pass to the trainer: taken as it is meant, or refused in words."""

import pytest

from privfed_dpo import PreferenceTrainer
from privfed_dpo.errors import ConfigError
from tests.support import preference_files as files
from tests.support.checkpoints import write_checkpoint

ROWS = files.preference_rows(users=6, per_user=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("base"), "llama", files.texts_of(ROWS))


# Settings


def test_sections_are_laid_over_what_the_arguments_say(base, tmp_path):
    trainer = PreferenceTrainer(
        str(base),
        train_dataset=ROWS,
        settings={
            "data": {"clients": 4, "partition": "iid"},
            "privacy": {"noise_multiplier": 2.0},
            "model": {"adapter": {"rank_pattern": {"q_proj": 2}}},
        },
        output_dir=tmp_path / "out",
    )
    config = trainer.config
    assert config.data.train == str(tmp_path / "out" / "inputs" / "train.jsonl")
    assert (config.data.clients, config.data.partition) == (4, "iid")
    assert (config.privacy.noise_multiplier, config.privacy.target_epsilon) == (2.0, 8.0)
    assert (config.model.base, config.model.adapter.rank_pattern) == (str(base), {"q_proj": 2})
    assert trainer.plan().facts.pairs_total == len(ROWS)


@pytest.mark.parametrize("settings", [{"data": {"clinets": 4}}, {"data.clinets": 4}])
def test_a_setting_that_is_no_key_is_refused(base, settings, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.clinets; did you mean data\.clients"):
        PreferenceTrainer(
            str(base), train_dataset=ROWS, settings=settings, output_dir=tmp_path / "out"
        )
