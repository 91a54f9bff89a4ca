"""What the documents say, in a form that tests can check."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

DOCUMENTS = tuple(
    sorted(
        path.relative_to(ROOT).as_posix()
        for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    )
)
"""Every Markdown page a reader is pointed to."""

RUN_FOLDER = frozenset(
    "config.yaml environment.json plan.json ledger.jsonl metrics.jsonl summary.json report.html "  # noqa: SIM905
    "audit.json audit_lanes.npz audit_pairs.npz audit_scores.npz adapter/ checkpoint/ base/ clients/ runs/ "
    "figures/ tensorboard/".split()
)
"""Files that a run writes; they are named in the pages but are not in the repository."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(\.venv/bin/)?(privfed-dpo|make)( |$)")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"\.?[\w-]+(?:[./][\w.-]+)*/?")
_SUFFIXES = (".py", ".md", ".yaml", ".toml", ".txt", ".json", ".jsonl", ".html", ".npz")


def text_of(document: str) -> str:
    """The text of one page."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> Iterator[str]:
    """Fenced blocks of one language."""
    for found, body in _FENCE.findall(text_of(document)):
        if found == language:
            yield body


def code_spans(document: str) -> Iterator[str]:
    """Inline code, outside fenced blocks."""
    yield from _SPAN.findall(_FENCE.sub("", text_of(document)))


def links(document: str) -> Iterator[str]:
    """Targets of Markdown links, without fragments."""
    for target in _LINK.findall(_FENCE.sub("", text_of(document))):
        if "://" not in target:
            yield target.partition("#")[0]


def commands(document: str) -> Iterator[tuple[str, ...]]:
    """Commands a reader could type, `privfed-dpo ...` and `make ...`, split as a shell would."""
    lines = [line for body in blocks(document, "sh") for line in body.splitlines()]
    for line in (*lines, *code_spans(document)):
        if _COMMAND.match(line):
            program, *arguments = shlex.split(line, comments=True)
            yield (Path(program).name, *arguments)


def paths(document: str) -> Iterator[str]:
    """Paths of the repository that a page names: inline code, and the trees in text blocks."""
    trees = [
        line.split()[0]
        for body in blocks(document, "text")
        for line in body.splitlines()
        if line and not line[0].isspace()
    ]
    for span in (*code_spans(document), *trees):
        name = span.partition("::")[0]
        looks_like_one = name.endswith(("/", *_SUFFIXES)) and "/" in name
        if looks_like_one and _PATH.fullmatch(name) and name not in RUN_FOLDER:
            yield name


def named_tests(document: str) -> Iterator[tuple[str, str]]:
    """Tests a page points to as evidence: file, and name of the test or state machine."""
    for span in code_spans(document):
        file, separator, name = span.partition("::")
        if separator:
            yield file, name
