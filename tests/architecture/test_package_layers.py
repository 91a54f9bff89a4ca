"""The shape of the three packages: who loads what, how long files are, what is not in them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.documents import ROOT

PACKAGES = ("accounting", "secure_agg", "privfed_dpo")
MODULES = sorted(
    path for package in (*PACKAGES, "experiments") for path in (ROOT / package).rglob("*.py")
)
LONGEST_FILE_LINES = 350
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}


def loaded_after(statement):
    """Top-level packages in memory after a statement, in a fresh interpreter."""
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_the_cores_load_no_machine_learning():
    loaded = loaded_after("import accounting, secure_agg")
    heavy = {"torch", "transformers", "peft", "opacus", "datasets", "pydantic", "matplotlib"}
    assert not loaded & heavy


def test_the_cores_do_not_load_each_other():
    alone = loaded_after("import accounting")
    assert "dp_accounting" in alone
    assert not alone & {"secure_agg", "privfed_dpo", "cryptography"}
    alone = loaded_after("import secure_agg")
    assert "cryptography" in alone
    assert not alone & {"accounting", "privfed_dpo", "dp_accounting", "scipy"}


def test_help_is_shown_without_loading_torch():
    loaded = loaded_after("from privfed_dpo.cli import app")
    assert not loaded & {"torch", "transformers", "peft", "opacus"}, (
        "commands import what they need"
    )


def test_import_contracts_hold():
    command = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " 0 broken" in run.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_published(package):
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_is_short_named_and_finished(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE_LINES
    assert path.stem not in NAMES_THAT_SAY_NOTHING
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it holds"
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    for mark in ("TODO", "FIXME", "XXX", "NotImplementedError"):
        assert mark not in text


def test_no_test_is_skipped():
    marks = ("mark." + "skip", "pytest." + "skip(", "mark." + "xfail")
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not [mark for mark in marks if mark in text], path
