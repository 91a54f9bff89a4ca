"""A small checkpoint with data, and policies whose processes share its base."""

from __future__ import annotations

from privfed_dpo.config import parse_config
from privfed_dpo.lifecycle import plan
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.loading import load_model
from privfed_dpo.policy import adapter_spec, model_spec
from privfed_dpo.workers.life import WorkerSpec
from privfed_dpo.workers.shared import SharedPolicy
from tests.support.checkpoints import write_checkpoint
from tests.support.preference_files import preference_rows, texts_of, write_jsonl
from tests.support.toy_models import make_pair, shaken, toy_pairs

SHARED = ("run.processes=2", "run.shard_base=true")
MAX_LENGTH = 64

_CONFIG = """
run: {{threads: 1, cache_dir: {home}/cache}}
data: {{train: {home}/train.jsonl, eval: {home}/eval.jsonl, max_length: {max_length}}}
model:
  base: {home}/base
  device: cpu
  adapter: {{rank: 2, target_modules: all-linear}}
dpo: {{beta: 0.5, micro_batch_pairs: 4}}
privacy: {{noise_multiplier: 1.0, sample_rate: 0.5}}
federation: {{rounds: 2, learning_rate: 0.02}}
evaluation: {{pairs: null, gradient_pairs: 6}}
"""


def write_home(folder, family="llama", **extra):
    """Writes a checkpoint of four blocks (GPT-2: two) with training and held-out pairs."""
    rows = preference_rows(users=4, per_user=5)
    write_jsonl(folder / "train.jsonl", rows)
    write_jsonl(folder / "eval.jsonl", preference_rows(users=3, per_user=3, seed=1))
    blocks = {} if family == "gpt2" else {"num_hidden_layers": 4}
    write_checkpoint(folder / "base", family, texts_of(rows), **{**blocks, **extra})
    return folder


def config_of(home, *overrides):
    """A run over that checkpoint."""
    return parse_config(_CONFIG.format(home=home, max_length=MAX_LENGTH), overrides)


def parts_of(home, *overrides):
    """Configuration, adapter away from its start, and what workers build."""
    config = config_of(home, *overrides)
    loaded = load_model(model_spec(config))
    adapter = shaken(Adapter.attach(loaded, adapter_spec(config)), scale=0.05)
    base = config.model.base
    return config, adapter, WorkerSpec.of_run(config, base=base, fingerprint=loaded.fingerprint)


def shared_policy(home, *overrides):
    """A policy of two processes that share the base; to be closed."""
    config, adapter, spec = parts_of(home, *SHARED, *overrides)
    return SharedPolicy.over_shared_base(adapter, spec, plan(config), max_length=MAX_LENGTH)


def some_pairs(count):
    """Pairs of uneven lengths within any of these checkpoints' vocabularies."""
    return [
        make_pair(*([token % 64 for token in part] for part in (p.prompt, p.chosen, p.rejected)))
        for p in toy_pairs(count, seed=2)
    ]
