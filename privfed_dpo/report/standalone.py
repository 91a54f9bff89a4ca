"""A chart of a report as a file of its own, for a paper or a README."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_STYLE_SHEET = Path(__file__).parent / "page.css"
_FONT = 'font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'


def standalone_svg(svg: str, title: str) -> str:
    """Give a page's chart its own colours and ground, light or dark as the reader's system is.

    Args:
        svg: an `<svg>` element from `report.drawing` or `report.scatter`, which takes its colours
            from the page.
        title: what is shown, for those who cannot see it.

    Returns:
        An SVG document that needs no page; it loads nothing.
    """
    opening = svg.index(">") + 1
    head = re.sub(r' aria-hidden="true" focusable="false"', ' role="img"', svg[:opening])
    ground = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    style = f"<style>{_colours()} svg {{ {_FONT} }}</style>"
    return f"{head}<title>{title}</title>{style}{ground}{svg[opening:]}\n"


@cache
def _colours() -> str:
    """The page's colours, for both schemes."""
    sheet = _STYLE_SHEET.read_text(encoding="utf-8")
    end = sheet.index("* { box-sizing")
    return " ".join(sheet[:end].split())
