import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.config import dump_config, load_config, parse_config
from privfed_dpo.config.loading import key_names
from privfed_dpo.config.reference import key_help, reference_yaml
from privfed_dpo.errors import ConfigError

GOOD = "privacy: {target_epsilon: 8}\ndata: {clients: 20}\n"


def problems_of(text, overrides=()):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, overrides)
    return caught.value.problems


def test_overrides_win_over_the_file_and_round_trip():
    config = parse_config(GOOD, ["privacy.target_epsilon=3", "model.adapter.rank=4"])
    assert config.privacy.target_epsilon == 3
    assert config.model.adapter.rank == 4
    assert parse_config(dump_config(config)) == config


def test_scientific_notation_without_a_dot_is_a_number():
    assert parse_config(GOOD, ["privacy.delta=1e-5"]).privacy.delta == 1e-5


def test_every_problem_is_reported_at_once():
    text = """
privacy: {taget_epsilon: 8, delta: x, sample_rate: 2}
federation: {local_steps: 3}
privcy: {mode: none}
dpo: {loss: foo}
model: {adapter: {rnk: 4}}
"""
    found = problems_of(text, ["data.clients=1.5", "rounds=3"])
    joined = "\n".join(found)
    for part in (
        "unknown key privacy.taget_epsilon; did you mean privacy.target_epsilon?",
        "unknown key privcy; did you mean privacy?",
        "unknown key model.adapter.rnk; did you mean model.adapter.rank?",
        "privacy.delta:",
        "privacy.sample_rate:",
        "dpo.loss:",
        "data.clients:",
        "'rounds=3' is not an override",
        "federation.local_steps=1",
    ):
        assert part in joined


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "evaluation.sample_prompts=['']",
            "evaluation.sample_prompts: text must not be empty, not ''",
        ),
        (
            "evaluation.sample_prompts=[fine, '  ']",
            "evaluation.sample_prompts: text must not be empty, not '  '",
        ),
        (
            r'evaluation.sample_prompts=["a\ud800"]',
            (
                "evaluation.sample_prompts: text must be whole characters, without lone "
                r"surrogates, not ('a\ud800',)"
            ),
        ),
        (
            r'run.dir="a\ud800"',
            r"run.dir: text must be whole characters, without lone surrogates, not 'a\ud800'",
        ),
    ],
)
def test_text_that_says_nothing_or_fits_into_no_file_is_refused(override, problem):
    assert problems_of(GOOD, [override]) == (problem,)


def test_a_key_of_another_section_is_pointed_to():
    (problem,) = problems_of(GOOD, ["privacy.rounds=3"])
    assert problem == "unknown key privacy.rounds; did you mean federation.rounds?"


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("privacy.max_grad_norm=null", "needs privacy.max_grad_norm"),
        ("privacy.target_epsilon=null", "needs privacy.target_epsilon"),
        ("federation.local_steps=2", "takes federation.local_steps=1"),
        ("federation.cohort=21", "is more than data.clients=20"),
        ("privacy.dropout_tolerance=10", "too much for 20 clients"),
        ("data.clients=null", "needs data.clients"),
        ("data.train=x.jsonl", "knows only the words of the embedded task"),
        ("dpo.loss=robust", "needs dpo.label_smoothing"),
        ("dpo.target_margin=1.0", "has no meaning for dpo.loss=sigmoid"),
        ("dpo.micro_batch_pairs=null", "needs dpo.memory_bytes"),
        ("model.adapter={full_weights: true, rslora: true}", "has no factors"),
        ("model.quantization=4bit", "needs a checkpoint"),
    ],
)
def test_impossible_combinations(override, part):
    assert any(part in problem for problem in problems_of(GOOD, [override]))


def test_the_ipo_loss_needs_a_reference():
    found = problems_of(GOOD, ["dpo.loss=ipo", "dpo.reference_free=true"])
    assert found == ("dpo.loss=ipo is not defined with dpo.reference_free=true",)


def test_a_missing_file_and_broken_yaml_are_config_errors(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "absent.yaml")
    assert "not valid YAML" in problems_of("privacy: {")[0]
    assert "must be a mapping" in problems_of("- a\n- b")[0]
    assert "given twice" in problems_of("run: {seed: 1, seed: 2}")[0]


@given(st.sampled_from(key_names()), st.text(max_size=20))
def test_no_value_of_any_key_escapes_as_another_error(key, value):
    with contextlib.suppress(ConfigError):
        assert parse_config(GOOD, [f"{key}={value}"]) is not None


def test_the_reference_file_is_current_and_names_every_key():
    committed = Path("configs/reference.yaml").read_text(encoding="utf-8")
    assert committed == reference_yaml(), "run: make reference"
    assert [name for name, _, _ in key_help()] == key_names()
    for _, _, description in key_help():
        assert description
    defaults = parse_config(committed, ["privacy.target_epsilon=8", "data.clients=20"])
    assert defaults == parse_config(GOOD)


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path):
    private = "privacy.target_epsilon=8"
    config = load_config(path, [private, "data.clients=20"] if path.stem == "reference" else [])
    assert config.privacy.target_epsilon == 8
