"""Templates of pages and cards: where they lie, and how strictly they are filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_HERE = Path(__file__).parent


def fill_page(template: str, /, *, beside: Path | None = None, **facts: Any) -> str:
    """Fill in an HTML template; every text among the facts is escaped.

    Args:
        template: file name of the template.
        beside: folder to look in first; what a page includes may also stand in this package.
        facts: what the template shows; one that it names and does not get is an error.
    """
    return _fill(template, beside, facts, autoescape=True)


def fill_markdown(template: str, /, **facts: Any) -> str:
    """Fill in a Markdown template of this package; nothing is escaped.

    Args:
        template: file name of the template.
        facts: as for `fill_page`, from the run's own files only.
    """
    return _fill(template, None, facts, autoescape=False)


def _fill(template: str, beside: Path | None, facts: dict[str, Any], *, autoescape: bool) -> str:
    environment = Environment(
        loader=FileSystemLoader([*([beside] if beside else []), _HERE]),
        autoescape=autoescape,  # noqa: S701 - Markdown is no markup that runs
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(facts)
