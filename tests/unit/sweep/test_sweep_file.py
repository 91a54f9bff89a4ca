"""The sweep file is strict: every mistake is told, all at once, before anything runs."""

import pytest

from privfed_dpo.errors import ConfigError
from privfed_dpo.sweep.points import draw, expand
from privfed_dpo.sweep.sweep_file import NO_PRIVACY, load_sweep
from tests.architecture.documents import ROOT
from tests.support.sweeps import sweep_file


def problems_of(folder, text):
    with pytest.raises(ConfigError) as error:
        sweep_file(folder, text)
    return error.value.problems


def test_every_mistake_is_told_at_once(tmp_path):
    problems = problems_of(
        tmp_path,
        """
        grid:
          privacy.target_epsilonn: [1]
          run.seed: [1, 2]
          privacy.mode: [local, local]
        search: {trials: 2, ranges: {privacy.mode: {choice: [local]}}}
        seeds: [1, 1]
        set: {privacy.mode: local}
        adjust: [{when: {dpo.beta: 1.0}, set: {dpo.bta: 2}}]
        references: {"<b>": {dpo.beta: 1.0}}
        """,
    )
    told = "\n".join(problems)
    for part in (
        "unknown key privacy.target_epsilonn; did you mean privacy.target_epsilon?",
        "run.seed belongs to the sweep; give seeds",
        "privacy.mode is in grid and in search",
        "privacy.mode names a value twice",
        "privacy.mode is in set and is swept",
        "seeds names a seed twice",
        "dpo.beta is not swept",
        "unknown key dpo.bta",
        "'<b>' is no label",
    ):
        assert part in told
    assert len(problems) == 9


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("grd: {}", "unknown key grd in the sweep file"),
        ("grid: {privacy.mode: []}", "grid.privacy.mode"),
        ("seeds: [-1]", "seeds.0"),
        ("objective: accuracy", "objective"),
        ("search: {trials: 0, ranges: {dpo.beta: {log: [1, 2]}}}", "search.trials"),
        ("search: {trials: 1, ranges: {dpo.beta: {log: [0.0, 2.0]}}}", "lies above zero"),
        ("search: {trials: 1, ranges: {dpo.beta: {float: [2.0, 1.0]}}}", "low below high"),
        ("search: {trials: 1, ranges: {dpo.beta: {}}}", "exactly one of"),
        ("search: {trials: 1, ranges: {dpo.beta: {int: [1, 2], choice: [1]}}}", "exactly one of"),
        ("grid: {dpo.beta: [1], dpo.beta: [2]}", "given twice"),
        ("adjust: [{when: {privacy.mode: none}, set: {dpo.beta: 1}}]", "not swept"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, part):
    assert part in "\n".join(problems_of(tmp_path, text))


def test_a_value_that_never_holds_is_told(tmp_path):
    text = """
    grid: {privacy.mode: [local]}
    adjust: [{when: {privacy.mode: distributed}, set: {dpo.beta: 1.0}}]
    """
    assert "never is 'distributed'" in problems_of(tmp_path, text)[0]


def test_a_value_may_be_a_mapping_and_mappings_are_compared_too(tmp_path):
    key = "model.adapter.rank_pattern"
    spec = sweep_file(tmp_path, f"grid: {{{key}: [{{q_proj: 4}}, {{q_proj: 2}}, {{}}]}}")
    points, _ = expand(spec)
    patterns = [point.config.model.adapter.rank_pattern for point in points]
    assert patterns == [{"q_proj": 4}, {"q_proj": 2}, {}]
    assert len({point.name for point in points}) == 3
    assert points[0].name == "rank_pattern-q-proj-4_seed-0"
    twice = f"grid: {{{key}: [{{q_proj: 4, v_proj: 2}}, {{v_proj: 2, q_proj: 4}}]}}"
    assert f"{key} names a value twice" in problems_of(tmp_path, twice)[0]


def test_values_of_one_size_and_another_kind_are_not_the_same(tmp_path):
    text = "grid: {model.adapter.target_modules: [auto, [q_proj], [q_proj, v_proj]], dpo.beta: [1, 1.0]}"
    assert len(sweep_file(tmp_path, text).grid["dpo.beta"]) == 2


def test_a_date_is_told_as_a_wrong_value(tmp_path):
    with pytest.raises(ConfigError, match=r"dpo\.beta"):
        expand(sweep_file(tmp_path, "grid: {dpo.beta: [2020-01-01, 1.0]}"))


@pytest.mark.parametrize("word", ["inf", ".inf", "none", "None"])
def test_no_privacy_has_several_names(tmp_path, word):
    spec = sweep_file(tmp_path, f"grid: {{privacy.target_epsilon: [1, {word}]}}")
    assert spec.grid["privacy.target_epsilon"] == (1, NO_PRIVACY)


def test_the_base_is_found_beside_the_file(tmp_path):
    (tmp_path / "base.yaml").write_text("data: {clients: 7}\nprivacy: {mode: none}\n")
    (tmp_path / "deeper").mkdir()
    path = tmp_path / "deeper" / "sweep.yaml"
    path.write_text("base: ../base.yaml\n")
    points, _ = expand(load_sweep(path))
    assert [point.config.data.clients for point in points] == [7]
    path.write_text("base: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"cannot read the base of the sweep"):
        load_sweep(path)


def test_what_is_typed_behind_the_command_holds_for_every_run_and_beats_the_file(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "base: {data: {clients: 5}, privacy: {mode: none}}\n"
        "set: {dpo.beta: 0.2, federation.rounds: 3}\n"
        "seeds: [0, 1]\n"
    )
    spec = load_sweep(path, ["dpo.beta=0.3", "model.adapter.target_modules=[q_proj, v_proj]"])
    configs = [point.config for point in expand(spec)[0]]
    assert [(one.dpo.beta, one.federation.rounds) for one in configs] == [(0.3, 3), (0.3, 3)]
    assert configs[0].model.adapter.target_modules == ("q_proj", "v_proj")
    for typed, part in [
        ("dpo.bta=1", "unknown key dpo.bta; did you mean dpo.beta?"),
        ("dpo.beta", "not an override"),
        ("run.seed=3", "give seeds"),
    ]:
        with pytest.raises(ConfigError) as error:
            load_sweep(path, [typed])
        assert part in "\n".join(error.value.problems)


def test_runs_without_privacy_have_no_lanes_to_audit(tmp_path):
    text = """
    set: {evaluation.audit_lanes: 40}
    grid: {privacy.target_epsilon: [8, inf]}
    """
    points, _ = expand(sweep_file(tmp_path, text))
    assert [point.config.evaluation.audit_lanes for point in points] == [40, 0]


def test_draws_are_repeatable_and_inside_their_ranges(tmp_path):
    text = """
    search:
      trials: 40
      sampler_seed: 3
      ranges:
        federation.rounds: {int: [3, 5]}
        dpo.beta: {float: [0.1, 1.0]}
        privacy.max_grad_norm: {log: [0.01, 1.0]}
        model.adapter.target_modules: {choice: [auto, [q_proj, v_proj]]}
    """
    search = sweep_file(tmp_path, text).search
    drawn = draw(search)
    assert drawn == draw(search)
    assert {one["federation.rounds"] for one in drawn} == {3, 4, 5}
    assert all(0.1 <= one["dpo.beta"] <= 1.0 for one in drawn)
    below = sum(one["privacy.max_grad_norm"] < 0.1 for one in drawn)
    assert 8 <= below <= 32, "half of the draws lie in the lower decade"
    assert {one["model.adapter.target_modules"] for one in drawn} == {
        "auto",
        ("q_proj", "v_proj"),
    }


@pytest.mark.parametrize("path", sorted((ROOT / "configs/sweeps").glob("*.yaml")), ids=str)
def test_the_shipped_sweeps_expand(path):
    points, refused = expand(load_sweep(path))
    assert len(points) >= 4
    assert not refused
