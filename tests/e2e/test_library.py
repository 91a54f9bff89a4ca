"""PrivFed-DPO as a library: plans and runs, the card, publishing, and the face of TRL's trainer."""

import json
import re
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import yaml
from peft import LoraConfig, PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import privfed_dpo
from privfed_dpo import PreferenceTrainer, plan, resume, train
from privfed_dpo.errors import ConfigError, DataError, ModelError, ResumeMismatch
from privfed_dpo.publishing import publish, push_to_hub
from privfed_dpo.verification import verify_run
from tests.support import preference_files as files
from tests.support.checkpoints import write_checkpoint
from tests.support.tiny_run import TINY

ROWS = files.preference_rows(users=5, per_user=6)
HELD_OUT = files.preference_rows(users=4, per_user=3, seed=1)
SETTINGS = {
    "federation.rounds": 2,
    "federation.learning_rate": 0.02,
    "privacy.sample_rate": 0.5,
    "evaluation.gradient_pairs": 0,
    "run.threads": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("library")
    settings = yaml.safe_load(TINY)
    cache = f"run.cache_dir={home / 'cache'}"
    return train(settings, cache, "federation.rounds=2", run_dir=home / "run")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    write_checkpoint(folder, "llama", files.texts_of(ROWS))
    return folder


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, privfed_dpo; print('torch' in sys.modules, privfed_dpo.__version__)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", privfed_dpo.__version__]


def test_every_promised_name_is_there():
    assert all(getattr(privfed_dpo, name) for name in privfed_dpo.__all__)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        privfed_dpo.nothing_like_it  # noqa: B018


def test_a_plan_costs_nothing_and_takes_overrides(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    strict, loose = (plan(path, f"privacy.target_epsilon={e}") for e in (1, 8))
    assert strict.noise.noise_multiplier > loose.noise.noise_multiplier
    with pytest.raises(ConfigError, match=r"privacy\.sigma"):
        plan(path, "privacy.sigma=1")


def test_a_run_reads_its_folder(run):
    assert 7 < run.epsilon <= 8
    assert "coalition" in run.statement
    assert [row["round"] for row in run.rows] == [0, 1, 2]
    assert run.report.is_file()
    assert run.verify(run.summary["ledger_head"]).ok


def test_a_run_that_has_ended_cannot_be_resumed(run, tmp_path):
    with pytest.raises(ConfigError, match="ended"):
        resume(run.folder)
    with pytest.raises(ResumeMismatch):
        resume(tmp_path)
    with pytest.raises(DataError, match="has ended"):
        _ = type(run)(tmp_path).summary


# The card and what is published


def test_the_card_says_what_was_promised_and_how_to_check_it(run):
    card = (run.adapter_folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "peft"
    assert "base_model" not in head, "a folder's path is no id of a hub"
    assert run.statement in card
    assert f"**{np.ceil(run.epsilon * 1e3) / 1e3:.3f}**" in card
    assert f"verify .. --head {run.summary['ledger_head']}" in card


def test_a_baseline_claims_nothing(tmp_path):
    settings = yaml.safe_load(TINY)
    baseline = train(
        settings,
        f"run.cache_dir={tmp_path / 'cache'}",
        "federation.rounds=1",
        "privacy.mode=none",
        run_dir=tmp_path / "run",
    )
    card = (baseline.adapter_folder / "README.md").read_text()
    assert "No privacy is promised" in card
    assert "Guarantee" not in card
    assert baseline.epsilon is None


class Shelf:
    """A hub that keeps what it is given."""

    def __init__(self, folder):
        self.folder = folder
        self.made = []

    def create_repo(self, repo_id, **settings):
        self.made.append((repo_id, settings))
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, **settings):
        shutil.copytree(folder_path, self.folder / repo_id)


def test_what_is_published_loads_and_verifies_and_holds_no_secret(run, tmp_path):
    shelf = Shelf(tmp_path)
    address = push_to_hub(run.folder, "owner/name", hub=shelf)
    there = tmp_path / "owner" / "name"
    assert address.endswith("owner/name")
    assert shelf.made == [("owner/name", {"private": True, "exist_ok": True})]
    assert verify_run(there / "run", known_head=run.summary["ledger_head"]).ok
    assert f"verify run --head {run.summary['ledger_head']}" in (there / "README.md").read_text()
    base = AutoModelForCausalLM.from_pretrained(run.folder / "base")
    assert isinstance(PeftModel.from_pretrained(base, there), PeftModel)
    found = {path.name for path in there.rglob("*")}
    assert not found & {"checkpoint", "state.npz", "keys.secret", "base"}


@pytest.mark.parametrize("part", ["comparison", "audit"])
def test_figures_that_no_epsilon_covers_are_not_published_by_the_way(run, part, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    summary = {**run.summary, part: {"about": "training pairs"}}
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match=part):
        publish(folder, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    assert (publish(folder, tmp_path / "meant", not_private=True) / "README.md").is_file()


def test_an_unfinished_run_is_not_published(run, tmp_path):
    with pytest.raises(DataError, match="no run"):
        push_to_hub(tmp_path, "owner/name", hub=Shelf(tmp_path))


def test_servers_of_lora_adapters_find_the_names_they_look_for(run):
    """What servers that merge adapters into requests read: plain factors, named after layers."""
    tensors = load_file(run.adapter_folder / "adapter_model.safetensors")
    name = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
    pairs = {}
    for key, value in tensors.items():
        layer, factor = name.fullmatch(key).groups()
        pairs.setdefault(layer, {})[factor] = value.shape
    rank = 2
    assert pairs
    assert all(shapes["A"][0] == shapes["B"][1] == rank for shapes in pairs.values())


# The face of TRL's trainer


def test_many_users_train_together_on_a_model_in_memory(base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base)
    trainer = PreferenceTrainer(
        model,
        train_dataset=ROWS,
        eval_dataset=HELD_OUT,
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]),
        settings=SETTINGS,
        output_dir=tmp_path / "out",
    )
    assert trainer.plan().facts.client_names == tuple(f"user-{n}" for n in range(5))
    done = trainer.train()
    assert trainer.evaluate()["reward_accuracy"] is not None
    assert done.epsilon <= 8
    assert done.verify().ok
    kept = tmp_path / "out" / "inputs"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert stat.S_IMODE((kept / "train.jsonl").stat().st_mode) == 0o600
    trainer.save_model(tmp_path / "saved")
    assert isinstance(trainer.load(AutoModelForCausalLM.from_pretrained(base)), PeftModel)
    assert verify_run(tmp_path / "saved" / "run").ok


def test_one_holder_of_all_pairs_adds_all_the_noise(base, tmp_path):
    rows = files.without(ROWS, "user")
    distinct = list({repr(row): row for row in rows}.values())
    trainer = PreferenceTrainer(
        str(base),
        train_dataset=distinct,
        target_epsilon=3.0,
        settings={"federation.rounds": 2, "run.threads": 1},
        output_dir=tmp_path / "out",
    )
    facts = trainer.plan().describe()
    assert (facts["mode"], facts["clients"]) == ("local", 1)
    assert trainer.train().epsilon == pytest.approx(3.0, abs=0.01)


def test_a_baseline_has_to_be_asked_for(base, tmp_path):
    trainer = PreferenceTrainer(
        str(base), train_dataset=ROWS, target_epsilon=None, output_dir=tmp_path / "out"
    )
    assert trainer.plan().describe()["mode"] == "none"


def test_inputs_that_cannot_work_are_refused_before_anything_is_trained(base, tmp_path):
    with pytest.raises(DataError, match="no rows"):
        PreferenceTrainer(str(base), train_dataset=[], output_dir=tmp_path / "a")
    with pytest.raises(ModelError, match="tokenizer"):
        PreferenceTrainer(
            AutoModelForCausalLM.from_pretrained(base),
            train_dataset=ROWS,
            output_dir=tmp_path / "b",
        )
    (tmp_path / "c" / "inputs").mkdir(parents=True)
    (tmp_path / "c" / "inputs" / "something").touch()
    with pytest.raises(DataError, match="not empty"):
        PreferenceTrainer(str(base), train_dataset=ROWS, output_dir=tmp_path / "c")
    trainer = PreferenceTrainer(str(base), train_dataset=ROWS, output_dir=tmp_path / "d")
    with pytest.raises(DataError, match="train"):
        trainer.evaluate()
