"""Plant known bugs one at a time and see the tests fail: `python -m tests.mutants.secure_agg`.

Each bug goes into a copy of the package in a temporary folder; the copy's tests run until the first
failure. A bug that no test notices is printed and makes the command fail. The recorded vectors are
left out: they would notice any changed byte without saying what it breaks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.secure_agg_bugs import BUGS, Bug

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/unit/secure_agg", "tests/property/secure_agg", "tests/stateful/secure_agg")
# Tests about files that are not copied.
LEFT_OUT = ("__pycache__", "test_mutant_list.py", "test_protocol_documents.py")


def plant(bug: Bug | None, folder: Path) -> None:
    """Copy package and tests into `folder`, with `bug` in it."""
    for part in ("secure_agg", *TESTS, "tests/support"):
        shutil.copytree(
            ROOT / part,
            folder / part,
            ignore=shutil.ignore_patterns(*LEFT_OUT),
        )
    for part in ("pyproject.toml", "tests/__init__.py"):
        shutil.copy(ROOT / part, folder / part)
    if bug is not None:
        source = folder / "secure_agg" / bug.file
        source.write_text(source.read_text().replace(bug.old, bug.new))


def first_failure(bug: Bug | None) -> str:
    """Run the tests on the copy; returns the first failing test, or an empty string."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plant(bug, folder)
        # One profile for all: no random start, so a killed mutant stays killed.
        environment = {**os.environ, "CI": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": name}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", *TESTS]
        run = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if run.returncode == 0:
            return ""
        named = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return named[0].split(" - ")[0] if named else f"exit code {run.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="copies tested at the same time")
    parser.add_argument("--only", default="", help="plant only bugs whose name contains this")
    options = parser.parse_args()
    chosen = [bug for bug in BUGS if options.only in bug.name]
    started = time.monotonic()
    if failure := first_failure(None):
        return report(f"the tests fail without any bug: {failure}", code=1)
    survived = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for bug, failure in zip(chosen, pool.map(first_failure, chosen), strict=True):
            survived += not failure
            report(f"{'killed  ' if failure else 'SURVIVED'}  {bug.name:45}  {failure}")
    noticed = len(chosen) - survived
    seconds = time.monotonic() - started
    return report(f"{noticed} of {len(chosen)} bugs noticed, {seconds:.0f} s", code=bool(survived))


def report(line: str, *, code: int = 0) -> int:
    """Print a line at once; returns `code` for the shell."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
