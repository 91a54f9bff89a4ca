"""Help that fits a screen, and completion that knows commands, keys and their values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo
from typer.utils import get_params_from_function

from privfed_dpo.config.loading import key_names
from privfed_dpo.config.reference import key_choices

_COLUMNS = 80
_FIRST_COLUMN = 30
_SHORT = 65
_VERBS = ("install", "show")
_KINDS = ("argument", "option")


class OneScreenCommand(TyperCommand):
    """A command whose help is a line or two for each parameter."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write usage, what the command does, arguments and options."""
        formatter.width = min(formatter.width, _COLUMNS)
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        told = dict(_argument_help(self.callback))
        kinds = {kind: [p for p in self.params if p.param_type_name == kind] for kind in _KINDS}
        rows = [(p.make_metavar(ctx), told.get(p.name or "", "")) for p in kinds["argument"]]
        rows += [_option_row(p, ctx) for p in kinds["option"]]
        _write_rows(formatter, "Takes", [*rows, ("--help", "show this message")])
        self.format_epilog(ctx, formatter)


class OneScreenGroup(TyperGroup):
    """All commands, with a line for each."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write usage, commands and options."""
        formatter.width = min(formatter.width, _COLUMNS)
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        commands = [(name, _short(command.help)) for name, command in self.commands.items()]
        _write_rows(formatter, "Commands", commands)
        completion = [(f"--{verb}-completion", f"{verb} it, for this shell") for verb in _VERBS]
        more = [("--version", "print it"), ("--help", "show this, or a command's help")]
        _write_rows(formatter, "Options", [*completion, *more])


def complete_override(incomplete: str) -> list[str]:
    """Complete `section.key=value`: keys, and values where there are few.

    Args:
        incomplete: what was typed so far.

    Returns:
        Words that begin so. Where only one key is left and it takes one of a few values, these.
    """
    key, equals, _ = incomplete.partition("=")
    keys = [name for name in key_names() if name.startswith(key)]
    if equals or len(keys) == 1:
        choices = key_choices()
        values = [f"{name}={value}" for name in keys for value in choices.get(name, ())]
        return [word for word in values if word.startswith(incomplete)] or (
            [] if equals else [f"{keys[0]}="]
        )
    return [f"{name}=" for name in keys]


def _short(text: str | None) -> str:
    """The first line of a docstring, or as much of it as stands before a semicolon or colon."""
    line = inspect.cleandoc(text or "").partition("\n")[0].rstrip(".")
    return line if len(line) <= _SHORT else re.split("[;:]", line)[0]


def _argument_help(callback: Any) -> Iterator[tuple[str, str]]:
    for name, meta in get_params_from_function(inspect.unwrap(callback)).items():
        if isinstance(meta.default, ArgumentInfo):
            yield name, meta.default.help or ""
        annotated = [part for part in get_args(meta.annotation) if isinstance(part, ArgumentInfo)]
        for info in annotated:
            yield name, info.help or ""


def _option_row(option: Any, ctx: typer.Context) -> tuple[str, str]:
    help_text = option.help or ""
    words = [max(option.opts, key=len)]
    default = option.get_default(ctx)
    notes = ["required"] if option.required else []
    if default is not None and not isinstance(default, bool):
        notes.append(f"default {getattr(default, 'value', default)}")
    if hasattr(option.type, "choices"):
        words.append((option.name or "").rpartition("_")[2].upper())
        others = (getattr(choice, "value", choice) for choice in option.type.choices)
        named = ", ".join(str(other) for other in others if other != default)
        notes.append(f"or {named}" if notes else named)
    elif not option.is_flag:
        words.append(_PLACEHOLDERS.get(option.type.name, option.type.name.upper()))
    return " ".join(words), f"{help_text} [{'; '.join(notes)}]" if notes else help_text


_PLACEHOLDERS = {"integer": "N", "integer range": "N", "float": "X", "text": "TEXT", "path": "PATH"}


def _write_rows(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:
    with formatter.section(title):
        formatter.write_dl(rows, col_max=_FIRST_COLUMN)
