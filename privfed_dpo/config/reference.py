"""The commented reference of every key, made from the configuration tree itself."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from types import UnionType
from typing import Literal, Union, get_args, get_origin

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
    return [(name, _default(field), _description(field)) for name, field in _fields(Config, "")]


def key_choices() -> dict[str, tuple[str, ...]]:
    """Return the values of every key that takes one of a few, as YAML words."""
    return {name: words for name, field in _fields(Config, "") if (words := _words(field))}


def _fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        below = subsection(field)
        if below is not None:
            yield from _fields(below, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


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


def _words(field: FieldInfo) -> tuple[str, ...]:
    """What may be written: named values, switches, and null where it is allowed."""
    one = get_origin(field.annotation) not in (Union, UnionType)
    kinds = (field.annotation,) if one else get_args(field.annotation)
    named = [str(a) for kind in kinds if get_origin(kind) is Literal for a in get_args(kind)]
    if bool in kinds:
        named += ["true", "false"]
    return (*named, "null") if named and type(None) in kinds else tuple(named)
