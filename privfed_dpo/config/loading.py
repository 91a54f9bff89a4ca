"""YAML file, then `section.key=value` overrides, then every error at once."""

from __future__ import annotations

import difflib
import re
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from privfed_dpo.config.combinations import impossible_combinations
from privfed_dpo.config.section import subsection
from privfed_dpo.config.sections import Config
from privfed_dpo.errors import ConfigError, ContradictoryConfig


class _Loader(yaml.SafeLoader):
    """Safe YAML that also reads 1e-5 as a number and refuses a key given twice."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"a key must be a name, not {key!r}", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply overrides.

    Args:
        path: YAML file with any of the sections of `Config`.
        overrides: `section.key=value` strings; values are read as YAML.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: with every problem found: unreadable file, unknown keys (and the nearest
            valid name), wrong types and ranges, impossible combinations.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            (f"cannot read the config {path}: {error.strerror}",),
            advice=f"Give the path of a YAML file, such as {_example()}.",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            (f"the config {path} is not UTF-8 text",), advice="Give the path of a YAML file."
        ) from error
    return parse_config(text, overrides, source=str(path))


def _example() -> Path:
    """A config that exists here: in a checkout, or where installing put it."""
    name = Path("configs/quickstart.yaml")
    shipped = Path(sysconfig.get_path("data")) / "share" / "privfed-dpo" / name
    return shipped if shipped.is_file() and not name.is_file() else name


def parse_config(text: str, overrides: Sequence[str] = (), *, source: str = "config") -> Config:
    """Like `load_config`, from YAML text; `source` names it in messages.

    Raises:
        ContradictoryConfig: each value is valid, but they cannot work together.
        ConfigError: any other problem.
    """
    tree = parse_mapping(text, source=source)
    misplaced = _apply_overrides(tree, overrides)
    config, wrong, impossible = _validate(tree)
    problems = (*misplaced, *wrong, *impossible)
    if problems:
        kind = ConfigError if misplaced or wrong else ContradictoryConfig
        raise kind(problems, advice="configs/reference.yaml lists every key with its unit.")
    return config


def parse_mapping(text: str, *, source: str) -> dict[str, Any]:
    """Read a YAML mapping: safe, 1e-5 is a number, a key given twice is refused.

    Args:
        text: YAML; empty text is an empty mapping.
        source: its name in messages.

    Raises:
        ConfigError: not YAML, or not a mapping.
    """
    try:
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError((f"{source} is not valid YAML: {error}",)) from error
    except RecursionError as error:
        raise ConfigError(
            (f"{source} is nested too deeply to be a mapping of sections",)
        ) from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError((f"{source} must be a mapping of sections, not a {_kind(tree)}",))
    return tree


def dump_config(config: Config) -> str:
    """Return the resolved configuration as YAML that `load_config` reads back unchanged."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_overrides(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Read what was typed behind a command; the last value of a key holds.

    Args:
        overrides: `section.key=value` strings; values are read as YAML.

    Returns:
        Values by key, and one sentence for each string that cannot be read.
    """
    values: dict[str, Any] = {}
    problems = []
    for override in overrides:
        name, equals, text = override.partition("=")
        parts = name.split(".")
        if not equals or len(parts) < 2 or not all(parts):  # noqa: PLR2004
            problems.append(f"{override!r} is not an override of the form section.key=value")
            continue
        try:
            values[name] = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
        except yaml.YAMLError:
            problems.append(f"the value of {name} is not valid YAML: {text!r}")
    return values, problems


def _apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    values, problems = read_overrides(overrides)
    for name, value in values.items():
        parts = name.split(".")
        branch = tree
        for part in parts[:-1]:
            below = branch.get(part)
            if below is None:
                below = branch[part] = {}
            if not isinstance(below, dict):
                problems.append(f"{name}: {part} is not a section")
                break
            branch = below
        else:
            branch[parts[-1]] = value
    return problems


def _validate(tree: dict[str, Any]) -> tuple[Config, list[str], list[str]]:
    """Validate; where fields are wrong, look at the rest with those fields at their defaults.

    Returns:
        The config, what is wrong with single fields, and which fields contradict each other.
    """
    problems: list[str] = []
    wrong: set[str] = set()
    pruned = _without_tuples(tree)
    while True:
        try:
            config = Config.model_validate(pruned)
            break
        except ValidationError as error:
            found = {item["loc"]: item for item in error.errors()}
            locations = {_real_location(loc) for loc in found}
            problems += _sentences(error)
            for location in locations:
                wrong.add(".".join(location))
                _remove(pruned, location)
    impossible = [c for c in impossible_combinations(config) if not _mentions(c, wrong)]
    return config, problems, impossible


def _mentions(sentence: str, names: set[str]) -> bool:
    """Whether a sentence speaks of a key, or of a key of a section, that is wrong by itself."""
    return any((name if "." in name else f"{name}.") in sentence for name in names)


def _sentences(error: ValidationError) -> list[str]:
    sentences: dict[tuple[str, ...], str] = {}
    for item in error.errors():
        location = _real_location(item["loc"])
        name = ".".join(location)
        if item["type"] == "extra_forbidden":
            sentences[location] = f"unknown key {name}{_nearest(location)}"
            continue
        said = "input should be a list" if item["type"] == "tuple_type" else item["msg"]
        said = f"{said[0].lower()}{said[1:]}"
        text = f"{name}: {said}, not {item['input']!r}"
        if location in sentences:
            text = f"{sentences[location]}; or {said}"
        sentences[location] = text
    return list(sentences.values())


def _real_location(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Drop the union branches pydantic appends: keep only names that lead into the tree."""
    node: type[BaseModel] | None = Config
    real: list[str] = []
    for part in location:
        if node is None:
            break
        real.append(str(part))
        node = subsection(node.model_fields.get(str(part)))
    return tuple(real)


def _nearest(location: tuple[str, ...]) -> str:
    leaves = {name.rpartition(".")[2]: name for name in [*Config.model_fields, *key_names()]}
    siblings = {
        leaf: name
        for leaf, name in leaves.items()
        if name.rpartition(".")[0] == ".".join(location[:-1])
    }
    close = [
        choices[match]
        for choices in (siblings, leaves)
        for match in difflib.get_close_matches(location[-1], list(choices), n=1, cutoff=0.75)
    ]
    return f"; did you mean {close[0]}?" if close else ""


def nearest_key(name: str) -> str | None:
    """Return None for a dotted key that exists, else text that suggests one, or is empty."""
    return None if name in key_names() else _nearest(tuple(name.split(".")))


def key_names(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Return the dotted names of all keys, in their documented order."""
    names: list[str] = []
    for name, field in section.model_fields.items():
        below = subsection(field)
        if below is not None:
            names += key_names(below, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def _remove(tree: dict[str, Any], location: tuple[str, ...]) -> None:
    for part in location[:-1]:
        tree = tree[part]
    tree.pop(location[-1], None)


def _without_tuples(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the tree; YAML lists become tuples, which strict fields ask for."""
    return {key: _plain(value) for key, value in tree.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _kind(value: object) -> str:
    return "list" if isinstance(value, list) else type(value).__name__
