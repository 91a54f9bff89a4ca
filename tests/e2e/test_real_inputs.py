"""Preference files and folders as users bring them, through whole runs or up to the plan."""

import json

import datasets
import numpy as np
import pytest

from privfed_dpo.assembly import assemble
from privfed_dpo.config import parse_config
from privfed_dpo.errors import DataError, PlanRefused
from privfed_dpo.inputs import load_inputs
from privfed_dpo.lifecycle import plan, train
from privfed_dpo.verification import verify_run
from tests.support import preference_files as files
from tests.support.checkpoints import CHATML, write_checkpoint
from tests.support.reloaded_adapter import reloaded_margins

CONFIG = """
model: {adapter: {rank: 2}}
dpo: {beta: 0.5}
privacy: {target_epsilon: 8, sample_rate: 0.5}
federation: {rounds: 2, learning_rate: 0.02}
evaluation: {pairs: null, gradient_pairs: 6}
"""
TRAIN = files.preference_rows(users=5, per_user=6)
EVAL = files.preference_rows(users=4, per_user=3, seed=1)
MEASURED = ("loss", "reward_accuracy", "reward_margin", "kl", "grad_norm_sq", "heterogeneity")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    texts = files.texts_of(TRAIN)
    write_checkpoint(folder / "chat", "llama", texts, chat_template=CHATML)
    write_checkpoint(folder / "plain", "llama", texts)
    files.write_jsonl(folder / "train.jsonl", TRAIN)
    files.write_jsonl(folder / "eval.jsonl", EVAL)
    return folder


@pytest.fixture
def config_for(home, tmp_path):
    def make(train_path, *overrides, base="chat"):
        fixed = [
            f"run.dir={tmp_path / 'run'}",
            f"run.cache_dir={home / 'cache'}",
            f"model.base={home / base}",
            f"data.train={train_path}",
        ]
        return parse_config(CONFIG, [*fixed, *overrides])

    return make


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_reloads_to_the_same_scores(folder, base, eval_path):
    margins = reloaded_margins(folder / "adapter", base, eval_path, beta=0.5)
    final = rows_of(folder)[-1]
    assert np.abs(margins).max() > 1e-3, "the adapter must have learnt something"
    assert final["reward_margin"] == pytest.approx(margins.mean(), rel=1e-3, abs=1e-5)
    assert final["loss"] == pytest.approx(np.logaddexp(0, -margins).mean(), rel=1e-4)
    assert final["reward_accuracy"] == pytest.approx((margins > 0).mean())


# Whole runs


def test_a_run_on_compressed_text_ends_with_an_adapter_anyone_can_load(home, config_for, tmp_path):
    train_path = files.write_jsonl_gz(tmp_path / "train.jsonl.gz", TRAIN)
    folder = train(config_for(train_path, f"data.eval={home / 'eval.jsonl'}"))
    start, *_, final = rows_of(folder)
    assert start["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert start["reward_accuracy"] == 0.5
    assert all(final[name] is not None for name in MEASURED)
    assert_reloads_to_the_same_scores(folder, home / "chat", home / "eval.jsonl")
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["per_client"]) == {f"user-{n}" for n in range(4)}


def test_a_run_on_message_lists_uses_the_chat_template(home, config_for, tmp_path):
    train_path = files.write_parquet(tmp_path / "train.parquet", files.as_messages(TRAIN))
    eval_path = files.write_jsonl(tmp_path / "eval.jsonl", files.as_whole_conversations(EVAL))
    folder = train(config_for(train_path, f"data.eval={eval_path}"))
    assert_reloads_to_the_same_scores(folder, home / "chat", eval_path)
    assert verify_run(folder).ok


def test_a_run_without_held_out_pairs_measures_nothing_and_works(home, config_for, tmp_path):
    folder = train(config_for(home / "train.jsonl"))
    for row in rows_of(folder):
        assert {row[name] for name in MEASURED} == {None}
        assert row["epsilon"] is not None
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["initial"] is None
    assert summary["per_client"] is None
    assert (folder / "report.html").is_file()
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems


def test_a_run_on_anonymous_pairs_dealt_evenly(home, config_for, tmp_path):
    anonymous = files.with_implicit_prompt(files.without(TRAIN, "user", "topic"))
    train_path = files.write_jsonl(tmp_path / "train.jsonl", anonymous)
    eval_path = files.write_jsonl(tmp_path / "eval.jsonl", files.without(EVAL, "user"))
    config = config_for(
        train_path, f"data.eval={eval_path}", "data.partition=iid", "data.clients=5"
    )
    folder = train(config)
    final = rows_of(folder)[-1]
    assert final["heterogeneity"] is None, "nobody is named, so there are no groups to compare"
    assert json.loads((folder / "summary.json").read_text())["per_client"] is None
    plan_facts = json.loads((folder / "plan.json").read_text())
    assert (plan_facts["clients"], plan_facts["pairs_total"]) == (5, 30)
    assert (plan_facts["pairs_min"], plan_facts["pairs_max"]) == (6, 6)


# Up to the plan, which is what data of one kind or another must agree on

WRITERS = {
    "jsonl": lambda folder, rows: files.write_jsonl(folder / "t.jsonl", rows),
    "jsonl.gz": lambda folder, rows: files.write_jsonl_gz(folder / "t.jsonl.gz", rows),
    "parquet": lambda folder, rows: files.write_parquet(folder / "t.parquet", rows),
    "folder": lambda folder, rows: files.write_folder(
        folder / "t", {"train": rows, "test": rows[:3]}
    ),
    "saved": lambda folder, rows: files.write_saved(folder / "t", {"train": rows}),
    "saved split": lambda folder, rows: files.write_saved(folder / "t", rows),
}


@pytest.fixture
def no_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")


@pytest.mark.parametrize("rows", [TRAIN, files.as_messages(TRAIN)], ids=["text", "messages"])
@pytest.mark.parametrize("kind", WRITERS)
def test_the_file_type_changes_nothing(tmp_path, config_for, no_hub_cache, kind, rows):
    path = WRITERS[kind](tmp_path, rows)
    shards = load_inputs(config_for(path)).partition.shards
    assert [shard.client for shard in shards] == [f"user-{n}" for n in range(5)]
    first = shards[0].pairs[0]
    assert first.conversational is (rows is not TRAIN)
    plain = files.write_jsonl(tmp_path / "plain.jsonl", rows)
    assert load_inputs(config_for(plain)).partition.shards == shards


def test_a_split_is_chosen_by_name(tmp_path, config_for, no_hub_cache):
    folder = files.write_folder(tmp_path / "t", {"train": TRAIN, "test": EVAL})
    found = load_inputs(config_for(folder, "data.train_split=test"))
    assert found.partition.facts.pairs_total == len(EVAL)
    with pytest.raises(DataError, match="'nowhere'"):
        load_inputs(config_for(folder, "data.train_split=nowhere"))


def test_floor_and_cap_are_public_facts_of_the_plan(tmp_path, config_for):
    rows = TRAIN + files.preference_rows(users=1, per_user=2, seed=3)[:1]
    rows += [{**row, "user": "rare"} for row in files.preference_rows(users=1, per_user=3, seed=4)]
    path = files.write_jsonl(tmp_path / "t.jsonl", rows)
    found = plan(config_for(path, "data.min_pairs=4", "data.max_pairs=5"))
    assert found.facts.client_names == tuple(f"user-{n}" for n in range(5)), "rare is left out"
    assert found.facts.client_pairs == (5,) * 5
    with pytest.raises(DataError, match="minimum of 20 pairs"):
        plan(config_for(path, "data.min_pairs=20"))
    with pytest.raises(PlanRefused, match=r"federation\.cohort=5"):
        plan(config_for(path, "data.min_pairs=7", "federation.cohort=5"))


def test_a_skewed_partition_holds_every_pair_once(tmp_path, config_for, home):
    found = plan(config_for(home / "train.jsonl", "data.partition=dirichlet", "data.clients=4"))
    assert found.facts.pairs_total == len(TRAIN)
    assert max(found.facts.client_pairs) > min(found.facts.client_pairs)


def test_natural_clients_need_a_user(tmp_path, config_for):
    path = files.write_jsonl(tmp_path / "t.jsonl", files.without(TRAIN, "user"))
    with pytest.raises(DataError, match="30 of 30 pairs have no 'user'") as caught:
        plan(config_for(path))
    assert "iid" in caught.value.advice


def test_message_lists_need_a_chat_template(tmp_path, config_for):
    path = files.write_jsonl(tmp_path / "t.jsonl", files.as_messages(TRAIN))
    with pytest.raises(DataError, match="message lists, but the tokenizer has no chat template"):
        train(config_for(path, base="plain"))
    assert not (tmp_path / "run" / "ledger.jsonl").exists(), "nothing was spent"


def test_a_limit_on_length_is_kept_by_cutting_not_by_dropping(config_for, home):
    assembly = assemble(config_for(home / "train.jsonl", "data.max_length=8"))
    held = [pair for shard in assembly.shards for pair in shard.pairs]
    assert len(held) == len(TRAIN)
    assert max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in held) == 8


def test_the_model_bounds_the_length_where_the_config_does_not(tmp_path, config_for, home):
    long = [{**row, "prompt": row["prompt"] * 40} for row in TRAIN]
    path = files.write_jsonl(tmp_path / "t.jsonl", long)
    assembly = assemble(config_for(path, "data.max_length=4096"))
    longest = max(
        len(p.prompt) + max(len(p.chosen), len(p.rejected))
        for shard in assembly.shards
        for p in shard.pairs
    )
    assert longest <= 128, "the checkpoint has 128 positions"
