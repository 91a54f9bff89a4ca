"""Whatever file, folder, test or page a document points to is there."""

import ast
import re
from functools import cache
from pathlib import PurePath

import pytest

from tests.architecture.documents import (
    DOCUMENTS,
    ROOT,
    code_spans,
    links,
    named_tests,
    paths,
    text_of,
)

SMALLEST_PITFALL_LIST = 25


@pytest.mark.parametrize("page", DOCUMENTS)
def test_every_path_exists(page):
    missing = [path for path in paths(page) if not (ROOT / path).exists()]
    assert not missing, f"{page} names {missing}"


@pytest.mark.parametrize("page", DOCUMENTS)
def test_every_link_leads_somewhere(page):
    folder = (ROOT / page).parent
    broken = [target for target in links(page) if target and not (folder / target).exists()]
    assert not broken, f"{page} links to {broken}"


@cache
def names_in(file):
    """Functions and classes at the top level of a test module."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@cache
def names_anywhere():
    """Names of all tests, and of the modules that hold them."""
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    return {name for file in files for name in (*names_in(file), PurePath(file).stem)}


@pytest.mark.parametrize("page", DOCUMENTS)
def test_every_named_test_exists(page):
    missing = [f"{file}::{name}" for file, name in named_tests(page) if name not in names_in(file)]
    bare = {span for span in code_spans(page) if re.fullmatch(r"test_\w+", span)}
    missing += sorted(bare - names_anywhere())
    assert not missing, f"{page} names {missing}"


def test_every_pitfall_has_a_severity_and_a_test():
    prevented, _, yours = text_of("docs/PITFALLS.md").partition("## Not prevented")
    entries = prevented.split("\n### ")[1:]
    assert len(entries) >= SMALLEST_PITFALL_LIST
    for entry in entries:
        title = entry.splitlines()[0]
        assert any(f"({word}" in title for word in ("Critical", "Serious", "Minor")), title
        assert "Shown by `tests/" in " ".join(entry.split()), title
    assert yours.count("\n- **") >= 4


def test_the_layers_page_names_every_part():
    page = text_of("ARCHITECTURE.md") + text_of("README.md")
    for package in (ROOT / "privfed_dpo").iterdir():
        if (package / "__init__.py").is_file():
            assert f"{package.name}/" in page, package.name


def test_the_pages_name_no_machine_of_ours():
    for page in DOCUMENTS:
        for trace in ("/root/", "/home/", "/tmp/"):
            assert trace not in text_of(page), f"{page}: {trace}"
