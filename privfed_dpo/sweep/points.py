"""From a sweep file to the configurations of its runs, each different from all others."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import optuna

from privfed_dpo.config import Config, dump_config, parse_config
from privfed_dpo.errors import ConfigError, ContradictoryConfig
from privfed_dpo.sweep.sweep_file import EPSILON_KEY, NO_PRIVACY, Range, Search, SweepSpec, Value

_LONGEST_NAME = 100
_WITHOUT_PRIVACY: Mapping[str, Value] = {
    "privacy.mode": "none",
    EPSILON_KEY: None,
    "privacy.noise_multiplier": None,
    "evaluation.audit_lanes": 0,
}
"""Without noise there is none to audit in lanes; canary pairs still show what leaks."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run to make.

    Attributes:
        name: of its folder; short, readable, unique in the sweep.
        label: of the reference line it belongs to; empty for the sweep's own runs.
        cells: swept key to value; several where different values make the same run, as modes do
            without privacy.
        seed: value of `run.seed`.
        config: what to run; folder and cache are not decided yet.
        key: hash of the config: equal keys are equal runs.
    """

    name: str
    label: str
    cells: tuple[Mapping[str, Value], ...]
    seed: int
    config: Config = field(repr=False)
    key: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A combination that cannot run.

    Attributes:
        name: what its run would be called.
        label: see `Point`.
        values: swept key to value.
        seed: value of `run.seed`.
        reason: why, one sentence or more.
    """

    name: str
    label: str
    values: Mapping[str, Value]
    seed: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Cell:
    label: str
    values: Mapping[str, Value]
    seed: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        parts = [_slug(self.label)] if self.label else []
        parts += [f"{key.rpartition('.')[2]}-{_slug(_text(v))}" for key, v in self.values.items()]
        return "_".join([*parts, f"seed-{self.seed}"])[:_LONGEST_NAME]


def expand(spec: SweepSpec) -> tuple[tuple[Point, ...], tuple[Refusal, ...]]:
    """Make the configuration of every run of a sweep.

    Grid, draws and seeds are crossed; reference runs take every seed. Cells whose configurations
    turn out the same become one run.

    Returns:
        Runs in the order of the file, and the combinations that were left out because the file
        says `skip_refused`.

    Raises:
        ConfigError: with every problem of every run, each told once.
    """
    found: dict[str, Point] = {}
    refused: list[Refusal] = []
    problems: dict[str, list[str]] = {}
    for cell in _cells(spec):
        try:
            config = parse_config(spec.base, cell.overrides, source=spec.base_source)
        except ContradictoryConfig as error:
            if spec.skip_refused:
                reason = "; ".join(error.problems)
                refused.append(Refusal(cell.name, cell.label, cell.values, cell.seed, reason))
                continue
            _note(problems, error, cell.name)
        except ConfigError as error:
            _note(problems, error, cell.name)
        else:
            _add(found, cell, config)
    if problems:
        raise combined_error(problems)
    return _with_unique_names(list(found.values())), tuple(refused)


def combined_error(problems: Mapping[str, Sequence[str]], advice: str = "") -> ConfigError:
    """One error for what is wrong with many runs.

    Args:
        problems: sentence to the names of the runs it is said of.
        advice: what to do; a hint at `skip_refused` by default.
    """
    sentences = [
        f"{sentence} (run {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''})"
        for sentence, names in problems.items()
    ]
    return ConfigError(
        tuple(sentences),
        advice=advice
        or "Change the sweep file; skip_refused: true leaves out combinations that cannot work, "
        "if any can.",
    )


def run_key(config: Config) -> str:
    """Hash of all that makes a run what it is: everything but its folder and cache, hex."""
    place = config.run.model_copy(update={"dir": None, "cache_dir": None})
    return hashlib.sha256(
        dump_config(config.model_copy(update={"run": place})).encode()
    ).hexdigest()


def _cells(spec: SweepSpec) -> Iterator[_Cell]:
    draws = draw(spec.search) if spec.search else ({},)
    combinations = itertools.product(*spec.grid.values())
    for grid_values, drawn in itertools.product(list(combinations), draws):
        values = {**dict(zip(spec.grid, grid_values, strict=True)), **drawn}
        settings = {**spec.changes, **values}
        for when, then in spec.adjust:
            if all(key in values and values[key] == value for key, value in when.items()):
                settings |= then
        for seed in spec.seeds:
            yield _Cell("", values, seed, _overrides(settings, seed))
    for label, then in spec.references.items():
        for seed in spec.seeds:
            yield _Cell(label, {}, seed, _overrides({**spec.changes, **then}, seed))


def draw(search: Search) -> tuple[Mapping[str, Value], ...]:
    """Draw the points of a search; the same seed draws the same points."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=search.sampler_seed))
    points = []
    for _ in range(search.trials):
        trial = study.ask()
        points.append({key: _drawn(trial, key, span) for key, span in search.ranges.items()})
    return tuple(points)


def _drawn(trial: optuna.Trial, key: str, span: Range) -> Value:
    if span.int_:
        return trial.suggest_int(key, span.int_[0], span.int_[1])
    if span.float_:
        return trial.suggest_float(key, span.float_[0], span.float_[1])
    if span.log:
        return trial.suggest_float(key, span.log[0], span.log[1], log=True)
    choices = span.choice or []
    chosen = choices[trial.suggest_int(key, 0, len(choices) - 1)]
    return tuple(chosen) if isinstance(chosen, list) else chosen


def _overrides(settings: Mapping[str, Value], seed: int) -> tuple[str, ...]:
    changed: dict[str, Value] = {**settings, "run.seed": seed}
    if changed.get(EPSILON_KEY) == NO_PRIVACY:
        changed |= _WITHOUT_PRIVACY
    return tuple(f"{key}={json.dumps(value, default=str)}" for key, value in changed.items())


def _add(found: dict[str, Point], cell: _Cell, config: Config) -> None:
    key = run_key(config)
    known = found.get(key)
    if known is None:
        found[key] = Point(cell.name, cell.label, (cell.values,), cell.seed, config, key)
    elif cell.label == known.label and cell.values not in known.cells:
        found[key] = replace(known, cells=(*known.cells, cell.values))


def _with_unique_names(points: Sequence[Point]) -> tuple[Point, ...]:
    uses = Counter(point.name for point in points)
    return tuple(
        point if uses[point.name] == 1 else replace(point, name=f"{point.name}_{point.key[:8]}")
        for point in points
    )


def _note(problems: dict[str, list[str]], error: ConfigError, name: str) -> None:
    for sentence in error.problems:
        problems.setdefault(sentence, []).append(name)


def _text(value: Value) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "x"
