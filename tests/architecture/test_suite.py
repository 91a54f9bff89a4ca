"""The suite as a whole can be collected: test modules have names of their own."""

from collections import Counter

from tests.architecture.documents import ROOT


def test_no_two_test_modules_share_a_name():
    """Folders of tests are no packages, so pytest knows modules by their file names alone."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]
