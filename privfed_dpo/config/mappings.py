"""Settings that come from Python: nested or dotted names, paths and numpy's numbers as values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from privfed_dpo.config.loading import key_names, nearest_key
from privfed_dpo.errors import ConfigError


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn nested sections into `section.key` names, so that they can be laid over others.

    Args:
        settings: `{"data": {"clients": 4}}`, `{"data.clients": 4}`, or both forms mixed.

    Returns:
        `section.key` to value. A key whose own value is a mapping keeps it whole.

    Raises:
        ConfigError: with every name that is no key or is given twice, and every section that is
            not a mapping.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(
            (f"settings are a mapping of keys to values, not {settings!r}",),
            advice="For example: {'federation.rounds': 2}.",
        )
    keys = frozenset(key_names())
    sections = {key[:place] for key in keys for place, sign in enumerate(key) if sign == "."}
    found: dict[str, Any] = {}
    problems: list[str] = []
    waiting: list[tuple[Any, Any]] = list(settings.items())
    while waiting:
        name, value = waiting.pop(0)
        if name in sections and isinstance(value, Mapping):
            waiting = [(f"{name}.{key}", below) for key, below in value.items()] + waiting
        elif name in sections:
            problems.append(f"{name} is a section: give a mapping of its keys, not {value!r}")
        elif name not in keys:
            problems.append(f"unknown key {name}{nearest_key(str(name)) or ''}")
        elif name in found:
            problems.append(f"{name} is given twice")
        else:
            found[name] = value
    if problems:
        raise ConfigError(
            tuple(problems), advice="configs/reference.yaml lists every key with its unit."
        )
    return found


def as_sections(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `section.key` names into nested sections."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *above, last = name.split(".")
        place = tree
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Copy settings into what a YAML file can hold.

    Args:
        settings: sections or values by name. Paths become text, numpy's numbers Python's own,
            tuples and sets lists.

    Raises:
        ConfigError: with every value that a file could not hold.
    """
    problems: list[str] = []
    plain: dict[str, Any] = _plain(settings, "", problems)
    if problems:
        raise ConfigError(
            tuple(problems), advice="Give text, numbers, true or false, lists or mappings."
        )
    return plain


def _plain(value: Any, name: str, problems: list[str]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of members of an enumeration, what they stand for
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        below = f"{name}." if name else ""
        return {
            _name(key, name, problems): _plain(item, f"{below}{key}", problems)
            for key, item in value.items()
        }
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [_plain(item, name, problems) for item in value]
    problems.append(f"{name}: a value of type {type(value).__name__} has no place here")
    return None


def _name(key: Any, above: str, problems: list[str]) -> Any:
    if isinstance(key, str):
        return str.__str__(key)
    problems.append(f"{above + ': ' if above else ''}a key must be a name, not {key!r}")
    return None
