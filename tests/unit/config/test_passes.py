"""Several pairs in one pass: where that is private, and what is refused before anything runs."""

import pytest

from privfed_dpo.config import parse_config
from privfed_dpo.errors import ConfigError

BASE = ("data.clients=4", "privacy.target_epsilon=3", "privacy.dropout_tolerance=0")
OWN = ("model.base=b", "data.train=x.jsonl")


@pytest.mark.parametrize("mode", ["distributed", "local", "user"])
@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("dpo.loss=hinge",), "dpo.loss=hinge has a kink"),
        (("model.dtype=bfloat16",), "model.dtype=bfloat16 rounds coarsely"),
        (("model.dtype=float16", *OWN), "model.dtype=float16 rounds coarsely"),
        (("model.quantization=8bit", *OWN), "model.quantization=8bit rounds by what is in a pass"),
    ],
)
def test_what_rounds_coarsely_or_jumps_takes_one_pair_a_pass(mode, overrides, named):
    user = ("privacy.max_update_norm=1", "privacy.sample_rate=1") if mode == "user" else ()
    private = (f"privacy.mode={mode}", *BASE, *user, *overrides)
    with pytest.raises(ConfigError, match=f"{named}.*set dpo.micro_batch_pairs=1") as refusal:
        parse_config("", private)
    assert len(refusal.value.problems) == 1
    with pytest.raises(ConfigError, match=named):
        parse_config("", [*private, "dpo.micro_batch_pairs=null", "dpo.memory_bytes=1000000"])
    assert parse_config("", [*private, "dpo.micro_batch_pairs=1"]).dpo.micro_batch_pairs == 1


def test_without_privacy_and_with_smooth_losses_in_float32_any_number_goes():
    for loss in ("hinge", "ipo"):
        free = parse_config("", ["privacy.mode=none", *BASE, f"dpo.loss={loss}"])
        assert free.dpo.micro_batch_pairs == 32
    for loss in ("sigmoid", "ipo", "simpo"):
        assert parse_config("", [*BASE, f"dpo.loss={loss}"]).dpo.micro_batch_pairs == 32
