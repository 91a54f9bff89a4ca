"""Hooks before a commit, make targets and CI run the same checks; one version everywhere."""

import re
import tomllib

import pytest
import yaml

import privfed_dpo
from tests.architecture.documents import ROOT, text_of

HOOKS = {
    hook["id"]: hook["entry"]
    for repo in yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    for hook in repo["hooks"]
}
MAKEFILE = text_of("Makefile")
PROJECT = tomllib.loads(text_of("pyproject.toml"))


def recipe(target):
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE).group(1)
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in lines.splitlines()]


def bare(command):
    """The check without what only one of both needs: which files."""
    return [word for word in command.split() if word not in (".", "--force-exclude")]


@pytest.mark.parametrize("target", ["lint", "types", "arch"])
def test_hooks_and_make_run_the_same_checks(target):
    hooks = [bare(entry) for entry in HOOKS.values()]
    for command in recipe(target):
        assert bare(command) in hooks, f"no hook runs {command}"


def test_ci_runs_what_make_test_runs():
    assert text_of(".ci/run").splitlines()[-1] == "make test"
    needed = re.search(r"^test: (.*?) ##", MAKEFILE, re.MULTILINE).group(1).split()
    assert {"lint", "types", "arch"} <= set(needed)


def test_one_version_everywhere():
    version = PROJECT["project"]["version"]
    assert version == privfed_dpo.__version__
    newest = re.search(r"^## (\S+?),", text_of("CHANGELOG.md"), re.MULTILINE)
    assert newest.group(1) == version, "the newest entry of CHANGELOG.md"


def test_the_three_packages_are_typed():
    for package in ("accounting", "secure_agg", "privfed_dpo"):
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"][package]


def test_whatever_lies_beside_the_code_is_packed():
    """Templates, styles and shims are named in package-data, or they would be missing."""
    packed = PROJECT["tool"]["setuptools"]["package-data"]
    for package in ("accounting", "secure_agg", "privfed_dpo"):
        patterns = packed[package]
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                name = path.relative_to(ROOT / package)
                assert any(name.match(pattern) for pattern in patterns), f"{package}/{name}"


def test_every_config_is_packed():
    packed = PROJECT["tool"]["setuptools"]["data-files"]
    for folder in ("configs", "configs/sweeps"):
        assert packed[f"share/privfed-dpo/{folder}"] == [f"{folder}/*.yaml"]
