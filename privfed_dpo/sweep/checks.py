"""Every run's plan, before the first run starts: a bad value is told at once, not at night."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from privfed_dpo.config import Config
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.errors import PlanRefused, PrivFedError
from privfed_dpo.inputs import SYNTHETIC
from privfed_dpo.sweep.points import Point, Refusal, combined_error

_FACTS = ("mode", "unit", "rounds", "delta", "target_epsilon", "epsilon", "schedule")


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    """A run whose plan stands.

    Attributes:
        point: what to run.
        plan: the facts of the plan that a sweep needs, as `RunPlan.describe` gives them.
    """

    point: Point
    plan: Mapping[str, object] = field(repr=False)


def require_measurable(points: Iterable[Point], objective: str) -> None:
    """Refuse runs that would have no value of the objective to be compared by.

    Args:
        points: the runs.
        objective: the metric they are compared by, measured on held-out pairs.

    Raises:
        ConfigError: a run has neither held-out pairs nor the embedded task, which brings its own.
    """
    blind = [
        point.name
        for point in points
        if point.config.data.eval is None and point.config.data.train != SYNTHETIC
    ]
    if blind:
        raise combined_error(
            {f"data.eval is not set, so nothing measures the objective {objective}": blind},
            advice="Give held-out pairs that may be seen in clear in data.eval.",
        )


def plan_points(
    points: Iterable[Point],
    plan: Callable[[Config], RunPlan],
    *,
    skip_refused: bool,
    known: Collection[str] = (),
    observer: Callable[[str], object] = lambda _: None,
) -> tuple[tuple[PlannedPoint, ...], tuple[Refusal, ...]]:
    """Make the plan of every run that has none yet.

    Args:
        points: the runs.
        plan: makes a plan without any compute on the data.
        skip_refused: leave out, and return, runs whose plan is refused.
        known: keys of runs whose plan was made before.
        observer: told the name of each run before its plan is made.

    Returns:
        Runs with their plans, known ones left out; and the refused ones.

    Raises:
        ConfigError: with every reason; nothing was run.
    """
    planned: list[PlannedPoint] = []
    refused: list[Refusal] = []
    problems: dict[str, list[str]] = {}
    for point in points:
        if point.key in known:
            continue
        observer(point.name)
        try:
            facts = plan(point.config).describe()
        except PlanRefused as error:
            if not skip_refused:
                problems.setdefault(_sentence(error), []).append(point.name)
                continue
            refused += [
                Refusal(point.name, point.label, cell, point.seed, str(error))
                for cell in point.cells
            ]
        except PrivFedError as error:
            problems.setdefault(_sentence(error), []).append(point.name)
        else:
            planned.append(PlannedPoint(point, {name: facts[name] for name in _FACTS}))
    if problems:
        raise combined_error(problems)
    return tuple(planned), tuple(refused)


def _sentence(error: PrivFedError) -> str:
    return f"{error} {error.advice}".strip()
