"""`privfed-dpo keys`: what every key of the configuration means."""

from __future__ import annotations

import difflib
import textwrap
from typing import Annotated

import typer

from privfed_dpo.config.reference import key_help
from privfed_dpo.errors import ConfigError

_WIDTH = 79


def complete_section(incomplete: str) -> list[str]:
    """Complete the name of a section."""
    sections = dict.fromkeys(name.partition(".")[0] for name, _, _ in key_help())
    return [name for name in sections if name.startswith(incomplete)]


def keys(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="sections or words to look for; all keys if not given",
            autocompletion=complete_section,
        ),
    ] = None,
) -> None:
    """Explain the keys of a config: meaning, unit, default."""
    known = key_help()
    wanted = [
        entry
        for entry in known
        if not words or any(word.lower() in f"{entry[0]} {entry[2]}".lower() for word in words)
    ]
    if words and all(word in _sections(known) for word in words):
        wanted = [entry for entry in known if entry[0].partition(".")[0] in words]
    if not wanted:
        near = difflib.get_close_matches(" ".join(words or ()), [name for name, _, _ in known], n=1)
        raise ConfigError(
            (f"no key speaks of {' or '.join(words or ())}",),
            advice=f"Did you mean {near[0]}?" if near else "privfed-dpo keys lists all of them.",
        )
    for name, default, meaning in wanted:
        typer.echo(f"{name}={default}")
        typer.echo(textwrap.fill(meaning, _WIDTH, initial_indent="    ", subsequent_indent="    "))


def _sections(known: list[tuple[str, str, str]]) -> set[str]:
    return {name.partition(".")[0] for name, _, _ in known}
