"""The list of plantable bugs stays usable while the package changes."""

import ast
from pathlib import Path

import pytest

import secure_agg
from tests.mutants.secure_agg_bugs import BUGS

PACKAGE = Path(secure_agg.__file__).parent


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_a_bug_can_be_planted_in_exactly_one_place(bug):
    source = (PACKAGE / bug.file).read_text()
    assert source.count(bug.old) == 1
    planted = source.replace(bug.old, bug.new)
    assert planted != source
    ast.parse(planted)


def test_there_are_enough_bugs_with_distinct_names():
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 15
