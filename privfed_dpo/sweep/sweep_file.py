"""The sweep file: which runs to make, and by what they are judged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from privfed_dpo.config.loading import nearest_key, parse_mapping, read_overrides
from privfed_dpo.config.section import Seed
from privfed_dpo.errors import ConfigError

EPSILON_KEY = "privacy.target_epsilon"
MODE_KEY = "privacy.mode"
NO_PRIVACY = "inf"
"""How the values of EPSILON_KEY say that a run has no privacy."""

Value: TypeAlias = str | int | float | bool | tuple[str, ...] | Mapping[str, Any] | None
Values: TypeAlias = Mapping[str, Value]
Objective = Literal["reward_accuracy", "reward_margin", "loss", "kl"]

LARGER_IS_BETTER = frozenset({"reward_accuracy", "reward_margin"})
_OWN_KEYS = {
    "run.seed": "give seeds: [...]",
    "run.dir": "every run gets a folder in the sweep's",
    "run.cache_dir": "all runs share one cache",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Range(_Part):
    """From where a search draws one key; exactly one of the four is given.

    Attributes:
        int_: whole numbers from the first to the last, both included.
        float_: evenly from the interval.
        log: evenly in the logarithm; both ends above zero.
        choice: one of these values.
    """

    int_: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(None, alias="int")
    float_: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(
        None, alias="float"
    )
    log: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    choice: Annotated[list[Any], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        given = [kind for kind in (self.int_, self.float_, self.log, self.choice) if kind]
        if len(given) != 1:
            raise ValueError("give exactly one of int, float, log, choice")
        for low, high in (ends for ends in (self.int_, self.float_, self.log) if ends):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError("give [low, high], two finite numbers, low below high")
        if self.log and self.log[0] <= 0:
            raise ValueError("a log range lies above zero")
        return self


class Search(_Part):
    """Points drawn at random, before the first run: no result decides what is tried next."""

    trials: Annotated[int, Field(ge=1)]
    sampler_seed: Seed = 0
    ranges: Annotated[dict[str, Range], Field(min_length=1)]


class Adjustment(_Part):
    """Settings that go with swept values: `set` holds wherever all of `when` does."""

    when: Annotated[dict[str, Any], Field(min_length=1)]
    set: Annotated[dict[str, Any], Field(min_length=1)]


class _File(_Part):
    base: str | dict[str, Any]
    set: dict[str, Any] = {}
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    search: Search | None = None
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    objective: Objective = "reward_accuracy"
    adjust: list[Adjustment] = []
    references: dict[str, dict[str, Any]] = {}
    skip_refused: bool = False


@dataclass(frozen=True, slots=True)
class SweepSpec:
    """A sweep file, checked by itself; what its runs are, `sweep.points` says.

    Attributes:
        source: name of the file, for messages.
        base: the base configuration, as YAML.
        base_source: name of the base configuration, for messages.
        changes: settings of every run, over those of the base.
        grid: swept key to its values.
        search: random draws, crossed with the grid.
        seeds: values of `run.seed`, crossed with everything.
        objective: metric of the last row by which runs are compared.
        adjust: settings that go with swept values.
        references: label to settings of runs that are drawn as lines to compare with.
        skip_refused: whether impossible combinations are left out, recorded, not refused.
    """

    source: str
    base: str
    base_source: str
    changes: Values
    grid: Mapping[str, tuple[Value, ...]]
    search: Search | None
    seeds: tuple[int, ...]
    objective: str
    adjust: tuple[tuple[Values, Values], ...]
    references: Mapping[str, Values]
    skip_refused: bool


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read a sweep file.

    Args:
        path: YAML; a `base` that is a path is relative to it.
        overrides: `section.key=value` strings for every run, over the file's `set`.

    Raises:
        ConfigError: with every problem found; the runs themselves are not looked at yet.
    """
    text = _read(path, "the sweep file", "configs/sweeps/smoke.yaml")
    tree = parse_mapping(text, source=str(path))
    typed, unreadable = read_overrides(overrides)
    if typed and isinstance(tree.get("set", {}), dict):
        tree["set"] = {**tree.get("set", {}), **typed}
    try:
        file = _File.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            tuple(_sentence(item) for item in error.errors()),
            advice="docs/guide/sweep.md shows what a sweep file holds.",
        ) from error
    problems = [*unreadable, *_problems(file)]
    if problems:
        raise ConfigError(
            tuple(problems), advice="configs/reference.yaml lists every key with its unit."
        )
    if isinstance(file.base, str):
        place = path.parent / file.base
        base = _read(place, "the base of the sweep,", "a run's config")
        parse_mapping(base, source=str(place))
    else:
        place, base = path, yaml.safe_dump(file.base, sort_keys=False, allow_unicode=True)
    return SweepSpec(
        source=str(path),
        base=base,
        base_source=str(place),
        changes=_values(file.set),
        grid={key: tuple(_value(key, v) for v in values) for key, values in file.grid.items()},
        search=file.search,
        seeds=tuple(file.seeds),
        objective=file.objective,
        adjust=tuple((_values(part.when), _values(part.set)) for part in file.adjust),
        references={label: _values(settings) for label, settings in file.references.items()},
        skip_refused=file.skip_refused,
    )


def _read(path: Path, what: str, example: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            (f"cannot read {what} {path}: {reason}",),
            advice=f"Give the path of a YAML file, such as {example}.",
        ) from error


def _problems(file: _File) -> list[str]:
    searched = file.search.ranges if file.search else {}
    named = [("set", key) for key in file.set] + [("grid", key) for key in file.grid]
    named += [("search.ranges", key) for key in searched]
    named += [("adjust.set", key) for part in file.adjust for key in part.set]
    named += [
        (f"references.{label}", key) for label, part in file.references.items() for key in part
    ]
    problems = [problem for where, key in named if (problem := _key_problem(where, key))]
    problems += [f"{key} is in grid and in search" for key in file.grid if key in searched]
    problems += [
        f"{key} is in set and is swept" for key in file.set if key in {*file.grid, *searched}
    ]
    swept = {*file.grid, *searched}
    for part in file.adjust:
        problems += [
            f"adjust.when: {key} is not swept, so it never holds"
            for key in part.when
            if key not in swept
        ]
        problems += [
            f"adjust.when: {key} never is {value!r} in the grid"
            for key, value in part.when.items()
            if key in file.grid and _value(key, value) not in _all(key, file.grid[key])
        ]
    for key, values in file.grid.items():
        known = {json.dumps(v, sort_keys=True, default=str) for v in _all(key, values)}
        if len(known) < len(values):
            problems.append(f"grid: {key} names a value twice")
    if len(set(file.seeds)) < len(file.seeds):
        problems.append("seeds names a seed twice")
    problems += [
        f"references: {label!r} is no label; use letters, digits, blanks and hyphens"
        for label in file.references
        if not label.replace(" ", "").replace("-", "").isalnum()
    ]
    return problems


def _key_problem(where: str, key: str) -> str:
    if key in _OWN_KEYS:
        return f"{where}: {key} belongs to the sweep; {_OWN_KEYS[key]}"
    suggestion = nearest_key(key)
    return "" if suggestion is None else f"{where}: unknown key {key}{suggestion}"


def _values(settings: Mapping[str, Any]) -> dict[str, Value]:
    return {key: _value(key, value) for key, value in settings.items()}


def _all(key: str, values: list[Any]) -> list[Value]:
    return [_value(key, value) for value in values]


def _value(key: str, value: Any) -> Value:
    """A value as plain, comparable data; every way to say "no privacy" becomes NO_PRIVACY."""
    if key == EPSILON_KEY and (
        (isinstance(value, str) and value.lower() in {"inf", "infinity", "none"})
        or (isinstance(value, float) and math.isinf(value) and value > 0)
    ):
        return NO_PRIVACY
    return tuple(value) if isinstance(value, list) else value


def _sentence(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"] if part not in {"str", "dict[str,any]"})
    if item["type"] == "extra_forbidden":
        return f"unknown key {name} in the sweep file"
    message = item["msg"].removeprefix("Value error, ")
    given = "" if item["type"] == "missing" else f", not {item['input']!r}"
    return f"{name}: {message[0].lower()}{message[1:]}{given}"
