"""Settings from Python: nested or dotted, with paths and numpy's numbers among the values."""

import datetime as dt
import enum
import pathlib

import numpy as np
import pytest

from privfed_dpo.config import as_sections, flat_settings, plain_settings
from privfed_dpo.errors import ConfigError


def problems_of(function, settings):
    with pytest.raises(ConfigError) as caught:
        function(settings)
    return caught.value.problems


def test_names_become_sections():
    assert as_sections({"a.b.c": 1, "a.b.d": 2, "e.f": 3}) == {
        "a": {"b": {"c": 1, "d": 2}},
        "e": {"f": 3},
    }


def test_sections_become_names_in_either_form_and_in_both():
    assert flat_settings(
        {
            "data": {"clients": 4, "columns": {"user": "who"}},
            "data.partition": "iid",
            "model.adapter": {"rank": 2},
            "model": {"adapter": {"alpha": 3.0}},
        }
    ) == {
        "data.clients": 4,
        "data.columns.user": "who",
        "data.partition": "iid",
        "model.adapter.rank": 2,
        "model.adapter.alpha": 3.0,
    }


def test_a_key_whose_value_is_a_mapping_keeps_it_whole():
    pattern = {"self_attn.q_proj": 2}
    for settings in (
        {"model": {"adapter": {"rank_pattern": pattern}}},
        {"model.adapter.rank_pattern": pattern},
    ):
        assert flat_settings(settings) == {"model.adapter.rank_pattern": pattern}


def test_every_name_that_is_no_key_is_refused_at_once():
    problems = problems_of(
        flat_settings,
        {
            "data": {"clinets": 4},
            "privacy.noise_multiplyer": 2.0,
            "federation": 3,
            "rounds": 2,
            5: 1,
        },
    )
    assert problems == (
        "unknown key data.clinets; did you mean data.clients?",
        "unknown key privacy.noise_multiplyer; did you mean privacy.noise_multiplier?",
        "federation is a section: give a mapping of its keys, not 3",
        "unknown key rounds; did you mean federation.rounds?",
        "unknown key 5",
    )


def test_a_key_in_both_forms_is_refused():
    settings = {"data": {"clients": 4}, "data.clients": 5}
    assert problems_of(flat_settings, settings) == ("data.clients is given twice",)


def test_paths_and_foreign_numbers_become_what_a_file_can_hold():
    class Kind(enum.StrEnum):
        SIGMOID = "sigmoid"

    plain = plain_settings(
        {
            "path": pathlib.Path("a") / "b",
            "numbers": [np.int64(3), np.float32(0.5), np.float64(0.25), np.bool_(True)],
            "text": np.str_("words"),
            "member": Kind.SIGMOID,
            "names": {"v_proj", "q_proj"},
            "below": {"nothing": None, "pair": (1, True)},
        }
    )
    assert plain == {
        "path": str(pathlib.Path("a") / "b"),
        "numbers": [3, 0.5, 0.25, True],
        "text": "words",
        "member": "sigmoid",
        "names": ["q_proj", "v_proj"],
        "below": {"nothing": None, "pair": [1, True]},
    }
    kinds = [type(value) for value in (*plain["numbers"], plain["text"], plain["member"])]
    assert kinds == [int, float, float, bool, str, str]


def test_what_no_file_can_hold_is_named():
    settings = {
        "data": {"clients": np.arange(3), 7: 1},
        "run": {"dir": dt.date(2026, 1, 1), "seed": object()},
        "model": {"base": np.datetime64("2026-01-01")},
    }
    assert problems_of(plain_settings, settings) == (
        "data.clients: a value of type ndarray has no place here",
        "data: a key must be a name, not 7",
        "run.dir: a value of type date has no place here",
        "run.seed: a value of type object has no place here",
        "model.base: a value of type date has no place here",
    )
