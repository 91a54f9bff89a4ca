"""Records of decisions: numbered, complete, listed; a reason for every dependency."""

import re
import tomllib

import pytest

from tests.architecture.documents import ROOT, text_of

RECORDS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
)


def package(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower()


DEPENDENCIES = [package(line) for line in PROJECT["dependencies"]]
EXTRAS = [package(line) for extra in PROJECT["optional-dependencies"].values() for line in extra]


def test_numbers_run_without_a_gap():
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name[:4])
def test_a_record_is_complete_and_listed_under_its_title(path):
    text = path.read_text()
    title = re.match(rf"# {path.name[:4]}\. (.+)\n", text).group(1)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences"]
    assert re.search(r"^Status: (accepted|replaced by \d{4}), \d{4}-\d{2}$", text, re.MULTILINE)
    listed = re.search(
        rf"^\| \[{path.name[:4]}\]\({path.name}\) \| (.+) \|$",
        text_of("docs/decisions/README.md"),
        re.MULTILINE,
    )
    assert listed, f"{path.name} is not in the list"
    assert listed.group(1).replace("`", "") == title


@pytest.mark.parametrize("name", sorted({*DEPENDENCIES, *EXTRAS}))
def test_every_dependency_has_a_reason_and_a_pin(name):
    record = text_of("docs/decisions/0011-dependencies.md").lower()
    if name in DEPENDENCIES:
        assert re.search(rf"^\| {re.escape(name)} \|", record, re.MULTILINE), f"no row for {name}"
    else:
        assert re.search(rf"\b{re.escape(name)}\b", record), f"{name} is not mentioned"
    assert name in PINS, f"constraints.txt does not pin {name}"
    assert re.fullmatch(r"\d[\w.+]*", PINS[name])


def test_no_reason_is_left_over():
    rows = re.findall(
        r"^\| ([\w-]+) \|", text_of("docs/decisions/0011-dependencies.md"), re.MULTILINE
    )
    assert set(rows) - {"package"} <= {*DEPENDENCIES, *EXTRAS}
