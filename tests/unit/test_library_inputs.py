"""From Python: what is given in a natural form is taken, and in a wrong one refused with the right."""

from pathlib import Path

import pytest

from privfed_dpo import Run, plan
from privfed_dpo.config import flat_settings
from privfed_dpo.errors import ConfigError, DataError


def test_a_run_may_be_named_by_text(tmp_path):
    run = Run(str(tmp_path))
    assert run == Run(tmp_path)
    assert run.adapter_folder == Path(tmp_path) / "adapter"
    with pytest.raises(DataError, match="holds no run that has ended"):
        _ = run.epsilon


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((None,), "a NoneType is no configuration"),
        ((3,), "a int is no configuration"),
        (("base.yaml", {"federation.rounds": 2}), "is no override of the form"),
        (("base.yaml", ["federation.rounds=2"]), "is no override of the form"),
    ],
)
def test_what_is_no_configuration_is_refused_with_one_that_is(arguments, word):
    with pytest.raises(ConfigError, match=word) as refusal:
        plan(*arguments)
    assert "plan({'federation': {'rounds': 2}})" in refusal.value.advice


def test_settings_are_a_mapping():
    with pytest.raises(
        ConfigError, match=r"a mapping of keys to values, not 'federation\.rounds=1'"
    ):
        flat_settings("federation.rounds=1")
