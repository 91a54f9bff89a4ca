"""What README, guides and examples show in Python does run."""

import re
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
QUICK = (
    "federation.rounds=2",
    "model.warmup_steps=20",
    "evaluation.curvature_products=0",
    "run.threads=1",
)
BLOCK = re.compile(r"^```py\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run_python(arguments, folder):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={
            "PYTHONPATH": str(HOME),
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
        },
    )


def test_the_walk_through_ends_with_a_verified_run(tmp_path):
    result = run_python([HOME / "examples" / "walk_through.py", *QUICK], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "verified:" in result.stdout
    assert "RunFinished" in result.stdout


def test_the_ten_lines_of_the_guide_run(tmp_path):
    (code,) = BLOCK.findall((HOME / "docs/guide/python.md").read_text())
    assert code.count("\n") <= 11, "the guide promises ten lines"
    (tmp_path / "configs").symlink_to(HOME / "configs")
    script = tmp_path / "guide.py"
    script.write_text(code)
    result = run_python([script], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "verified:" in result.stdout
