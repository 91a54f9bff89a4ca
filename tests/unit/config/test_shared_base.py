"""Where a base cannot be spread over processes, the configuration says so."""

import pytest

from privfed_dpo.config import parse_config
from privfed_dpo.errors import ConfigError

SHARED = "run: {processes: 2, shard_base: true}\ndata: {clients: 3}\nprivacy: {noise_multiplier: 1}"
ELSEWHERE = ["model.base=some/model", "data.train=pairs.jsonl"]


def test_it_goes_with_several_processes_and_recomputed_activations():
    config = parse_config(SHARED, ["dpo.gradient_checkpointing=true", "model.device=cuda"])
    assert config.run.shard_base


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["run.processes=1"], "run.processes=1 is too few"),
        ([*ELSEWHERE, "model.quantization=4bit"], "cannot cut weights packed"),
        (["model.adapter.full_weights=true"], "would save nothing"),
        (["model.device=cuda:1"], "names a single one"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_config(SHARED, overrides)


def test_without_it_the_same_settings_stand():
    packed = ["model.quantization=4bit", "dpo.micro_batch_pairs=1"]
    for overrides in (["run.processes=1"], [*ELSEWHERE, *packed]):
        assert not parse_config(SHARED, ["run.shard_base=false", *overrides]).run.shard_base
