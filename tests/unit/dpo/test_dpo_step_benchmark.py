import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "dpo_step.py"


@pytest.mark.slow
def test_the_benchmark_prints_its_ratios_and_every_form_agrees():
    only = "two rows|rows added|ghost"
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--json", "--only", only],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
    )
    (result,) = json.loads(run.stdout)["results"]
    for key in ("time", "memory"):
        assert 0 < result[f"private_over_plain_{key}"] < 10
        assert 0 < result[f"private_over_two_row_plain_{key}"] < 10
    # TRL was not chosen; what was not measured is null.
    assert result["private_over_trl_time"] is None
    assert set(result["disagreement"]) >= {"private (ours)", "plain packed", "plain two rows"}
    assert max(result["disagreement"].values()) < 1e-3
