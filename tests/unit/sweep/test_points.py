"""Which runs a sweep file comes to."""

import pytest

from privfed_dpo.errors import ConfigError, DataError, PlanRefused
from privfed_dpo.sweep.checks import plan_points
from privfed_dpo.sweep.points import expand, run_key
from tests.support.sweeps import plan_facts, sweep_file


class Plan:
    def __init__(self, config):
        self.config = config

    def describe(self):
        return {**plan_facts(self.config), "more": 1}


def test_grid_draws_and_seeds_are_crossed(tmp_path):
    spec = sweep_file(
        tmp_path,
        """
        grid:
          privacy.target_epsilon: [1, 2]
          privacy.mode: [distributed, local]
        search: {trials: 3, ranges: {dpo.beta: {float: [0.1, 1.0]}}}
        seeds: [4, 5]
        """,
    )
    points, refused = expand(spec)
    assert len(points) == 2 * 2 * 3 * 2
    assert not refused
    assert len({point.name for point in points}) == len({point.key for point in points}) == 24
    assert {point.config.run.seed for point in points} == {4, 5}
    assert {point.config.privacy.target_epsilon for point in points} == {1.0, 2.0}


def test_modes_without_privacy_are_one_run(tmp_path):
    text = """
grid:
  privacy.mode: [distributed, local]
  privacy.target_epsilon: [4, inf]
seeds: [0, 1]
"""
    points, _ = expand(sweep_file(tmp_path, text))
    free = [point for point in points if point.config.privacy.mode == "none"]
    assert len(points) == 4 + 2
    assert [len(point.cells) for point in free] == [2, 2]
    assert all(point.config.privacy.target_epsilon is None for point in free)
    adjusted = text + "adjust: [{when: {privacy.mode: local}, set: {dpo.beta: 0.7}}]\n"
    points, _ = expand(sweep_file(tmp_path, adjusted))
    assert len(points) == 4 + 4, "an adjusted setting makes them two"
    assert {p.config.dpo.beta for p in points if "local" in p.name} == {0.7}
    assert {p.config.dpo.beta for p in points if "distributed" in p.name} == {0.1}


def test_changes_to_the_base_hold_for_every_run(tmp_path):
    text = """
    set: {federation.rounds: 7}
    grid: {privacy.target_epsilon: [1, 2]}
    references: {free: {privacy.mode: none, federation.rounds: 9}}
    """
    points, _ = expand(sweep_file(tmp_path, text))
    assert [point.config.federation.rounds for point in points] == [7, 7, 9]
    assert {key for point in points for cell in point.cells for key in cell} == {
        "privacy.target_epsilon"
    }


def test_equal_names_of_different_runs_are_told_apart(tmp_path):
    text = "grid: {run.threads: [1], data.train: [a/b, a-b], data.max_length: [64]}"
    base = "base: {data: {clients: 3}, privacy: {mode: none}, model: {base: m}}\n"
    points, _ = expand(sweep_file(tmp_path, text, base))
    assert len({point.name for point in points}) == 2


def test_references_take_every_seed_and_no_swept_value(tmp_path):
    text = """
    grid: {privacy.target_epsilon: [1]}
    seeds: [0, 1]
    references: {no clipping: {privacy.mode: none, privacy.max_grad_norm: null}}
    """
    points, _ = expand(sweep_file(tmp_path, text))
    labelled = [point for point in points if point.label]
    assert [point.seed for point in labelled] == [0, 1]
    assert {point.config.privacy.max_grad_norm for point in labelled} == {None}
    assert all("no-clipping" in point.name for point in labelled)


def test_the_key_of_a_run_ignores_where_it_is_kept(tmp_path):
    points, _ = expand(sweep_file(tmp_path, "seeds: [0, 1]"))
    config = points[0].config
    moved = config.model_copy(
        update={"run": config.run.model_copy(update={"dir": "x", "cache_dir": "y"})}
    )
    assert run_key(moved) == run_key(config) != points[1].key


IMPOSSIBLE = """
grid:
  privacy.mode: [distributed, local]
  federation.local_steps: [1, 2]
seeds: [0, 1]
"""


def test_an_impossible_combination_is_told_once_with_its_runs(tmp_path):
    with pytest.raises(ConfigError) as error:
        expand(sweep_file(tmp_path, IMPOSSIBLE))
    (problem,) = error.value.problems
    assert "takes federation.local_steps=1" in problem
    assert "(run mode-distributed_local_steps-2_seed-0 and 1 more)" in problem
    assert "skip_refused" in error.value.advice


def test_impossible_combinations_can_be_left_out_with_the_reason(tmp_path):
    points, refused = expand(sweep_file(tmp_path, IMPOSSIBLE + "skip_refused: true\n"))
    assert len(points) == 6
    assert [one.seed for one in refused] == [0, 1]
    assert "takes federation.local_steps=1" in refused[0].reason


def test_a_bad_value_is_never_skipped(tmp_path):
    text = "grid: {privacy.sample_rate: [0.1, 1.5]}\nskip_refused: true"
    with pytest.raises(ConfigError, match=r"privacy\.sample_rate"):
        expand(sweep_file(tmp_path, text))


def test_every_plan_is_made_before_anything_runs(tmp_path):
    points, _ = expand(sweep_file(tmp_path, "grid: {privacy.target_epsilon: [1, 2, 3]}"))

    def plan(config):
        if config.privacy.target_epsilon == 2:
            raise PlanRefused("no noise is enough", advice="Raise it.")
        if config.privacy.target_epsilon == 3:
            raise DataError("no such file")
        return Plan(config)

    with pytest.raises(ConfigError) as error:
        plan_points(points, plan, skip_refused=False)
    assert [p.partition(" (run")[0] for p in error.value.problems] == [
        "no noise is enough Raise it.",
        "no such file",
    ]
    with pytest.raises(ConfigError, match="no such file"):
        plan_points(points, plan, skip_refused=True)
    planned, refused = plan_points(points[:2], plan, skip_refused=True)
    assert [one.point.name for one in planned] == [points[0].name]
    assert "more" not in planned[0].plan
    assert [one.reason for one in refused] == ["no noise is enough"]


def test_known_plans_are_not_made_again(tmp_path):
    points, _ = expand(sweep_file(tmp_path, "seeds: [0, 1]"))
    asked = []
    planned, _ = plan_points(
        points,
        lambda config: asked.append(config.run.seed) or Plan(config),
        skip_refused=False,
        known={points[0].key},
    )
    assert asked == [1] == [one.point.seed for one in planned]
