"""No command in a page that no test runs; see `tests/e2e/test_typed_commands.py`."""

import pytest

from tests.architecture.documents import ROOT
from tests.support.documented_commands import ELSEWHERE, NEEDS, SHRINK, SLOW, typed_commands

COMMANDS = typed_commands()


@pytest.mark.parametrize("typed", COMMANDS, ids=lambda typed: typed.line[:60])
def test_a_command_is_run_or_it_is_said_why_not(typed):
    assert typed.elsewhere or typed.is_run, (
        f"{typed.page}: no test can run `{typed.line}`; say why in ELSEWHERE, and what tests it"
    )


@pytest.mark.parametrize("start", ELSEWHERE)
def test_an_exception_is_still_one_and_its_test_exists(start):
    _, instead = ELSEWHERE[start]
    assert (ROOT / instead).is_file(), f"{instead} is gone"
    if not start.startswith("make"):
        lines = [" ".join(typed.words) for typed in COMMANDS]
        assert any(line.startswith(start) for line in lines), f"no page types {start} any more"


@pytest.mark.parametrize("start", [*SHRINK, *NEEDS, *SLOW])
def test_nothing_is_shrunk_that_is_not_typed(start):
    assert any(" ".join(typed.words[1:]).startswith(start) for typed in COMMANDS)
