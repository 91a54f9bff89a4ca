"""What people who come from TRL pass to the trainer: taken as it is meant, or refused in words."""

import pathlib

import datasets
import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig

from privfed_dpo import PreferenceTrainer, lifecycle, plan
from privfed_dpo.errors import ConfigError, DataError, ModelError
from privfed_dpo.inputs import load_inputs
from tests.support import preference_files as files
from tests.support.checkpoints import CHATML, write_checkpoint

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
    assert load_inputs(trainer.config).partition.facts.pairs_total == len(ROWS)


@pytest.mark.parametrize("settings", [{"data": {"clinets": 4}}, {"data.clinets": 4}])
def test_a_setting_that_is_no_key_is_refused(base, settings, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.clinets; did you mean data\.clients"):
        PreferenceTrainer(
            str(base), train_dataset=ROWS, settings=settings, output_dir=tmp_path / "out"
        )


# Arguments of TRL


def test_how_a_model_is_loaded_reaches_the_configuration(base, tmp_path):
    arguments = DPOConfig(
        output_dir=str(tmp_path / "out"),
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"revision": "main", "dtype": "float16"},
    )
    alone = {"dpo.micro_batch_pairs": 1}
    with pytest.raises(ConfigError, match=r"model\.dtype=float16 .* set dpo\.micro_batch_pairs=1"):
        PreferenceTrainer(str(base), arguments, train_dataset=ROWS)
    model = PreferenceTrainer(str(base), arguments, train_dataset=ROWS, settings=alone).config.model
    assert (model.base, model.revision, model.dtype) == (str(base), "main", "float16")
    with pytest.raises(ConfigError, match="in memory"):
        PreferenceTrainer(
            AutoModelForCausalLM.from_pretrained(base),
            arguments,
            train_dataset=ROWS,
            processing_class=AutoTokenizer.from_pretrained(base),
            output_dir=tmp_path / "memory",
        )


def test_the_tokenizer_of_a_named_model_is_used_or_refused(base, tmp_path):
    own = AutoTokenizer.from_pretrained(base)
    own.pad_token = own.eos_token
    own.padding_side = "left"
    own("padded", padding="max_length", max_length=16, truncation=True)
    trainer = PreferenceTrainer(
        str(base), train_dataset=ROWS, processing_class=own, output_dir=tmp_path / "same"
    )
    assert trainer.config.model.base == str(base)
    other = AutoTokenizer.from_pretrained(base)
    other.chat_template = CHATML
    with pytest.raises(ModelError, match="chat template"):
        PreferenceTrainer(
            str(base), train_dataset=ROWS, processing_class=other, output_dir=tmp_path / "out"
        )
    kept = PreferenceTrainer(
        AutoModelForCausalLM.from_pretrained(base),
        train_dataset=ROWS,
        processing_class=other,
        output_dir=tmp_path / "out",
    ).config.model.base
    assert AutoTokenizer.from_pretrained(kept).chat_template == CHATML


def test_what_is_no_tokenizer_or_no_model_is_named(base, tmp_path):
    with pytest.raises(ModelError, match="of type str, not a tokenizer"):
        PreferenceTrainer(
            str(base), train_dataset=ROWS, processing_class="gpt2", output_dir=tmp_path
        )
    with pytest.raises(ModelError, match="of type int"):
        PreferenceTrainer(3, train_dataset=ROWS, output_dir=tmp_path)


def test_a_model_may_be_given_as_a_path(base, tmp_path):
    trainer = PreferenceTrainer(
        pathlib.Path(base),
        train_dataset=ROWS,
        settings={"run.cache_dir": tmp_path / "cache", "federation.rounds": np.int64(3)},
        target_epsilon=np.float64(4.0),
        output_dir=tmp_path / "out",
    )
    config = trainer.config
    assert (config.model.base, config.run.cache_dir) == (str(base), str(tmp_path / "cache"))
    assert (config.federation.rounds, config.privacy.target_epsilon) == (3, 4.0)


# Rows


def test_users_named_in_some_rows_only_are_refused(base, tmp_path):
    rows = [files.without(ROWS[:1], "user")[0], *ROWS[1:]]
    for order in (rows, rows[::-1]):
        with pytest.raises(DataError, match="1 of 48 rows name no user in the column 'user'"):
            PreferenceTrainer(str(base), train_dataset=order, output_dir=tmp_path / "out")
    renamed = [{"who": row["user"], **row} for row in files.without(ROWS, "topic")]
    trainer = PreferenceTrainer(
        str(base),
        train_dataset=files.without(renamed, "user"),
        settings={"data": {"columns": {"user": "who"}}},
        output_dir=tmp_path / "out",
    )
    assert trainer.config.privacy.mode == "distributed"
    assert load_inputs(trainer.config).partition.facts.clients == 6


@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset"])
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"train": ROWS, "test": ROWS}, "is a mapping with the names train, test"),
        (datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)), "names train, not rows"),
        (["a", "b"], "row 1 is a str, not a mapping"),
        ([*ROWS, 3], "row 49 is a int, not a mapping"),
        (5, "holds no rows"),
        ([], "holds no rows"),
        ([{**ROWS[0], "chosen": object()}], "row 1 cannot be written as JSON"),
        ([{**ROWS[0], "chosen": "\ud800"}], "row 1 cannot be written as JSON"),
        ([*ROWS, {"prompt": "p", "chosen": "c", "user": "u"}], "1 of 49 rows cannot be used"),
    ],
)
def test_what_are_no_rows_is_refused_in_words(base, name, rows, said, tmp_path):
    with pytest.raises(DataError, match=said) as caught:
        PreferenceTrainer(
            str(base), **{"train_dataset": ROWS, name: rows}, output_dir=tmp_path / "out"
        )
    assert str(caught.value).startswith(name)
    assert not (tmp_path / "out").exists()


def test_rows_of_a_data_set_are_taken(base, tmp_path):
    trainer = PreferenceTrainer(
        str(base),
        train_dataset=datasets.Dataset.from_list(ROWS),
        eval_dataset=datasets.Dataset.from_list(
            [{**row, "prompt": "And now?"} for row in ROWS[:4]]
        ),
        output_dir=tmp_path / "out",
    )
    assert load_inputs(trainer.config).partition.facts.pairs_total == len(ROWS)
    assert trainer.config.data.eval == str(tmp_path / "out" / "inputs" / "eval.jsonl")


# What is left behind


def test_after_a_mistake_the_corrected_call_goes_through(base, tmp_path):
    out = tmp_path / "out"
    mistakes = [
        {"settings": {"privacy.sample_rat": 0.5}},
        {"settings": {"privacy.sample_rate": 5.0}},
        {"settings": {"privacy.mode": "user"}},
        {"settings": {"data.columns.chosen": "better"}},
        {"settings": {"data.train": "elsewhere.jsonl"}},
    ]
    for mistake in mistakes:
        with pytest.raises((ConfigError, DataError)):
            PreferenceTrainer(str(base), train_dataset=ROWS, output_dir=out, **mistake)
        assert not out.exists()
    trainer = PreferenceTrainer(str(base), train_dataset=ROWS, output_dir=out)
    assert load_inputs(trainer.config).partition.facts.pairs_total == len(ROWS)


def test_inputs_that_cannot_be_written_leave_nothing_behind(base, tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(base)

    def full(folder, **settings):
        folder.mkdir()
        (folder / "part").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        PreferenceTrainer(
            model,
            train_dataset=ROWS,
            processing_class=AutoTokenizer.from_pretrained(base),
            output_dir=tmp_path / "out",
        )
    assert not (tmp_path / "out" / "inputs").exists()


def test_a_folder_in_use_says_whether_there_is_a_run_to_go_on_with(base, tmp_path):
    def advice():
        with pytest.raises(DataError, match="not empty") as caught:
            PreferenceTrainer(str(base), train_dataset=ROWS, output_dir=tmp_path / "out")
        return caught.value.advice

    PreferenceTrainer(str(base), train_dataset=ROWS, output_dir=tmp_path / "out")
    assert "resume" not in advice()
    (tmp_path / "out" / "run").mkdir()
    (tmp_path / "out" / "run" / "ledger.jsonl").touch()
    assert f"privfed-dpo resume {tmp_path / 'out' / 'run'}" in advice()


# The same values as a library takes them


def test_settings_of_a_plan_may_hold_paths_and_numbers_of_numpy(base, tmp_path, monkeypatch):
    monkeypatch.setattr(lifecycle, "plan", lambda config: config)
    train = files.write_jsonl(tmp_path / "train.jsonl", ROWS)
    config = plan(
        {
            "data": {"train": train},
            "model": {"base": pathlib.Path(base)},
            "privacy": {"target_epsilon": np.float32(8.0), "sample_rate": np.float64(0.5)},
            "federation": {"rounds": np.int64(2)},
        }
    )
    assert (config.data.train, config.model.base) == (str(train), str(base))
    assert (config.privacy.target_epsilon, config.privacy.sample_rate) == (8.0, 0.5)
    assert config.federation.rounds == 2
    with pytest.raises(ConfigError, match=r"federation\.rounds: a value of type ndarray"):
        plan({"federation": {"rounds": np.arange(2)}})
