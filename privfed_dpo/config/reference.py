"""The commented reference of every key, made from the configuration tree itself."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from privfed_dpo.config.section import subsection
from privfed_dpo.config.sections import Config

_WIDTH = 96


def reference_yaml() -> str:
    """Return a YAML file with every key at its default, each under its description."""
    head = (
        "# Every key with its unit, range and default. Copy what you need; a key left out keeps\n"
        "# the value shown here. Overrides on the command line look like privacy.target_epsilon=4\n"
    )
    return head + "\n".join(_section_lines(Config, 0)) + "\n"


def key_help() -> list[tuple[str, str, str]]:
    """Return (dotted name, default as YAML, description) of every key, in order."""
    return list(_keys(Config, ""))


def _keys(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        below = subsection(field)
        if below is not None:
            yield from _keys(below, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _default(field), _description(field)


def _section_lines(section: type[BaseModel], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in section.model_fields.items():
        below = subsection(field)
        if below is None:
            for line in textwrap.wrap(_description(field), _WIDTH - len(indent)):
                yield f"{indent}# {line}"
            yield f"{indent}{name}: {_default(field)}"
            continue
        yield ""
        yield f"{indent}# {(below.__doc__ or '').strip()}"
        yield f"{indent}{name}:"
        yield from _section_lines(below, depth + 1)


def _default(field: FieldInfo) -> str:
    return yaml.safe_dump(field.default).removesuffix("\n").removesuffix("\n...")


def _description(field: FieldInfo) -> str:
    choices = _choices(field)
    return f"{field.description or ''}{f' ({choices})' if choices else ''}"


def _choices(field: FieldInfo) -> str:
    arguments = getattr(field.annotation, "__args__", ())
    words = [str(a) for a in arguments if isinstance(a, (str, int))]
    return " | ".join(words)
