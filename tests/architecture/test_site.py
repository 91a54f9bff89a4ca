"""The site shows every page there is; `make site` builds it, strictly."""

import yaml

from tests.architecture.documents import ROOT


def pages(tree):
    if isinstance(tree, str):
        return {tree}
    if isinstance(tree, dict):
        tree = list(tree.values())
    return set().union(*map(pages, tree))


def test_every_page_has_a_place_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    docs = ROOT / "docs"
    written = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    own = {page for page in written if not page.startswith(("decisions/0", "proofs/"))}
    assert own - pages(nav) == set(), "add them to nav in mkdocs.yml"
