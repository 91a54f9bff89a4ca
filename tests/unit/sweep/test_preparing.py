"""What a sweep refuses before its first run: an objective that nothing would measure."""

import pytest

from privfed_dpo.errors import ConfigError
from privfed_dpo.sweep.checks import require_measurable
from privfed_dpo.sweep.conduct import prepare
from privfed_dpo.sweep.points import expand
from privfed_dpo.sweep.store import Address
from tests.support.sweeps import sweep_file

OWN_DATA = """
base:
  data: {train: pairs.jsonl}
  model: {base: ./model}
  privacy: {target_epsilon: 8, delta: 1.0e-5}
"""
GRID = "grid: {federation.learning_rate: [0.1, 0.2]}"


def unplanned(config):
    raise AssertionError("no plan is made of a run that could not be compared")


def test_own_data_without_held_out_pairs_are_refused_before_anything_is_run(tmp_path):
    folder = tmp_path / "sweep"
    with pytest.raises(ConfigError) as caught:
        prepare(sweep_file(tmp_path, GRID, OWN_DATA), Address(folder), unplanned, str)
    (problem,) = caught.value.problems
    assert problem.startswith("data.eval is not set, so nothing measures the objective")
    assert "reward_accuracy (run learning_rate-0.1_seed-0 and 1 more)" in problem
    assert "data.eval" in caught.value.advice
    assert not folder.exists()


def test_one_run_that_cannot_be_measured_is_enough(tmp_path):
    text = """
    set: {data.eval: held_out.jsonl}
    references: {blind: {data.eval: null}}
    """
    with pytest.raises(ConfigError, match=r"\(run blind_seed-0\)"):
        require_measurable(expand(sweep_file(tmp_path, text, OWN_DATA))[0], "loss")


@pytest.mark.parametrize("base", [OWN_DATA.replace("train:", "eval: held_out.jsonl, train:"), None])
def test_held_out_pairs_or_the_embedded_task_will_do(tmp_path, base):
    spec = sweep_file(tmp_path, GRID, base) if base else sweep_file(tmp_path, GRID)
    require_measurable(expand(spec)[0], spec.objective)
