"""Which charts the report of a sweep holds, each with its words and the table behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accounting import Adversary
from privfed_dpo.observe.quantities import (
    UNKNOWN,
    format_epsilon,
    format_number,
    format_share,
)
from privfed_dpo.report.drawing import LINES, Reference
from privfed_dpo.report.scatter import Spread, SpreadSeries, spread_chart
from privfed_dpo.sweep.price import own_epsilon
from privfed_dpo.sweep.results import (
    Setting,
    SweepResults,
    pareto_front,
    settings,
    value_text,
)
from privfed_dpo.sweep.sweep_file import EPSILON_KEY, LARGER_IS_BETTER, MODE_KEY

OBJECTIVES: Mapping[str, str] = {
    "reward_accuracy": "held-out accuracy",
    "reward_margin": "held-out reward margin",
    "loss": "held-out loss",
    "kl": "KL to the reference",
}
_UNITS = {"reward_accuracy": "share", "reward_margin": "nats", "loss": "nats", "kl": "nats"}
_ARMS: Mapping[str, str] = {
    "local_only": "each client alone, no privacy",
    "centralised": "all pairs in one place, no privacy",
}
_MOST_KEYS = 4


@dataclass(frozen=True, slots=True)
class SweepFigure:
    """A chart, its words, and its numbers.

    Attributes:
        name: of its file.
        title: what is shown.
        caption: how to read it, with units.
        svg: the chart.
        heads: headings of its table.
        rows: its table, one tuple of texts for each point.
    """

    name: str
    title: str
    caption: str
    svg: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sweep_figures(results: SweepResults) -> tuple[SweepFigure, ...]:
    """Draw what was measured, and only that.

    Args:
        results: finished runs are drawn; others stand in the page's table of runs.
    """
    drawn = _Drawn(results)
    keys = [key for key in results.swept if key not in {EPSILON_KEY, MODE_KEY}]
    figures = (
        drawn.utility(),
        drawn.pareto(),
        drawn.audit(),
        *(drawn.by_key(key, place) for place, key in enumerate(keys[:_MOST_KEYS])),
    )
    return tuple(figure for figure in figures if figure is not None)


def settings_table(results: SweepResults) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Headings and rows of what every setting reached, for a sweep in which nothing is drawn."""
    return _Drawn(results).everything()


def setting_name(setting: Setting, keys: Sequence[str]) -> str:
    """A setting in words: its label, or its swept values."""
    if setting.label:
        return setting.label
    return ", ".join(_value_name(key, setting.values.get(key)) for key in keys) or "all runs"


def value_layout(metric: str) -> Callable[[float | None], str]:
    """How values of an objective are printed."""
    return format_share if metric == "reward_accuracy" else format_number


class _Drawn:
    """One sweep's settings, ready to be drawn."""

    def __init__(self, results: SweepResults) -> None:
        self._results = results
        self._metric = results.objective
        self._layout = value_layout(results.objective)
        self._settings = [one for one in settings(results.runs) if one.measured(self._metric)]
        self._private = [
            one for one in self._settings if one.private and one.epsilon and not one.label
        ]
        self._keys = [key for key in results.swept if key != EPSILON_KEY]
        unit, name = _UNITS[self._metric], OBJECTIVES[self._metric]
        label = name if unit == "share" else f"{name}, {unit}"
        self._axis: dict[str, Any] = {"unit": unit, "y_label": label}

    def utility(self) -> SweepFigure | None:
        series, left_out = self._series(
            self._private, self._keys, lambda setting: setting.epsilon or 0.0
        )
        if not series:
            return None
        return SweepFigure(
            name="utility",
            title=f"{OBJECTIVES[self._metric].capitalize()} against epsilon",
            caption="Mean over the seeds, with the range from the worst seed to the best. Epsilon "
            "is certified (PLD) against the server with its colluders, on a logarithmic axis. "
            f"{'Grey dashes: runs to compare with.' if self._compared() else ''}{left_out}",
            svg=spread_chart(
                "utility",
                series,
                x_label="certified epsilon of one run",
                references=self._references(),
                **self._axis,
            ),
            **self._table([*self._private, *self._compared()], self._arms()),
        )

    def everything(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        table = self._table(self._settings, self._arms())
        return table["heads"], table["rows"]

    def pareto(self) -> SweepFigure | None:
        if not self._private:
            return None
        points = [(one.epsilon or 0.0, _mean(one.measured(self._metric))) for one in self._private]
        on_front = pareto_front(points, self._metric)
        kept = sorted(point for point, kept in zip(points, on_front, strict=True) if kept)
        beaten = [point for point, kept in zip(points, on_front, strict=True) if not kept]
        series = [SpreadSeries("on the front", tuple(Spread(x, (y,)) for x, y in kept))]
        if beaten:
            others = tuple(Spread(x, (y,)) for x, y in beaten)
            series.append(SpreadSeries("beaten by another", others, joined=False))
        keys = self._results.swept
        rows = [
            (setting_name(setting, keys), format_epsilon(x), self._layout(y), "yes" if on else "no")
            for setting, (x, y), on in zip(self._private, points, on_front, strict=True)
        ]
        way = "larger" if self._metric in LARGER_IS_BETTER else "smaller"
        return SweepFigure(
            name="pareto",
            title="Pareto front",
            caption="Settings on the front are those that no other setting beats: none has a "
            f"smaller epsilon and a {way} mean {OBJECTIVES[self._metric]}. Differences within the "
            "spread of the seeds are not differences between settings.",
            svg=spread_chart(
                "pareto", series, x_label="certified epsilon of one run", **self._axis
            ),
            heads=("setting", "epsilon", f"mean {OBJECTIVES[self._metric]}", "on the front"),
            rows=tuple(rows),
        )

    def audit(self) -> SweepFigure | None:
        audited = [
            (run, own, float(run.result["audit_epsilon"]))
            for run in self._results.runs
            if run.result
            and run.result.get("audit_epsilon") is not None
            and (own := own_epsilon(run, Adversary.COALITION))
        ]
        if not audited:
            return None
        points = tuple(sorted((Spread(own, (bound,)) for _, own, bound in audited), key=_place))
        return SweepFigure(
            name="audit",
            title="Empirical audit beside the claim",
            caption="The largest lower bound on epsilon that the audit of each run could show, "
            "beside the certified epsilon. A point above the line would refute the claim; a point "
            "far below says little, since an audit sees what it tries only.",
            svg=spread_chart(
                "audit",
                [SpreadSeries("one run", points, joined=False)],
                x_label="certified epsilon of one run",
                unit="epsilon at least",
                diagonal="claim",
            ),
            heads=("run", "epsilon at least", "certified", "verdict"),
            rows=tuple(
                (
                    run.name,
                    format_number(bound, 3),
                    format_epsilon(own),
                    str((run.result or {}).get("audit_verdict") or UNKNOWN),
                )
                for run, own, bound in audited
            ),
        )

    def by_key(self, key: str, place: int) -> SweepFigure | None:
        numeric = [
            one
            for one in self._settings
            if not one.label
            and isinstance(one.values.get(key), int | float)
            and not isinstance(one.values.get(key), bool)
            and one.values[key] > 0
        ]
        values = sorted({float(one.values[key]) for one in numeric})
        if len(values) < 2:  # noqa: PLR2004 - one value shows no dependence
            return None
        keys = [other for other in self._results.swept if other != key]
        series, left_out = self._series(numeric, keys, lambda one: float(one.values[key]))
        return SweepFigure(
            name=key,
            title=f"{OBJECTIVES[self._metric].capitalize()} against {key}",
            caption=f"Mean over the seeds, with the range from the worst to the best.{left_out}",
            svg=spread_chart(
                f"key-{place}",
                series,
                x_label=key,
                logarithmic=values[-1] / values[0] >= 8,  # noqa: PLR2004
                **self._axis,
            ),
            **self._table(numeric),
        )

    def _series(
        self, chosen: Sequence[Setting], keys: Sequence[str], x_of: Callable[[Setting], float]
    ) -> tuple[list[SpreadSeries], str]:
        """Settings that agree in `keys` as one line each; and words on lines without room."""
        grouped: dict[str, list[Spread]] = {}
        for one in chosen:
            name = setting_name(one, keys)
            grouped.setdefault(name, []).append(Spread(x_of(one), one.measured(self._metric)))
        series = [
            SpreadSeries(name, tuple(sorted(points, key=_place)))
            for name, points in grouped.items()
        ]
        left_out = len(series) - len(LINES)
        note = f" {left_out} more lines stand in the table only." if left_out > 0 else ""
        return series[: len(LINES)], note

    def _compared(self) -> list[Setting]:
        """Settings drawn as reference lines: without privacy, or labelled in the file."""
        return [one for one in self._settings if one.label or not one.private]

    def _references(self) -> list[Reference]:
        lines: dict[tuple[str, tuple[str, ...]], Reference] = {}
        for one in self._compared():
            name = one.label or f"no privacy, {setting_name(one, self._keys)}".removesuffix(
                ", all runs"
            )
            same = (one.label, tuple(run.key for run in one.runs))
            shared = same in lines
            label = "no privacy" if shared and not one.label else name
            lines[same] = Reference(label, _mean(one.measured(self._metric)))
        arms = [Reference(name, _mean(values)) for name, values in self._arms()]
        return [*lines.values(), *arms]

    def _arms(self) -> list[tuple[str, tuple[float, ...]]]:
        """What clients reach alone, or with all pairs in one place; see `evaluation.references`."""
        if self._metric != "reward_accuracy":
            return []
        found: dict[tuple[str, ...], tuple[str, str, tuple[float, ...]]] = {}
        for one in self._settings:
            for arm, name in _ARMS.items():
                if values := one.measured(f"{arm}_accuracy"):
                    made_by = (arm, *(run.key for run in one.runs))
                    found.setdefault(made_by, (name, setting_name(one, self._keys), values))
        names = Counter(name for name, _, _ in found.values())
        return [
            (name if names[name] == 1 else f"{name} ({setting})", values)
            for name, setting, values in found.values()
        ]

    def _table(
        self, chosen: Sequence[Setting], arms: Sequence[tuple[str, tuple[float, ...]]] = ()
    ) -> dict[str, Any]:
        named = [
            (
                setting_name(one, self._results.swept),
                format_epsilon(one.epsilon) if one.private else "none",
                one.measured(self._metric),
            )
            for one in chosen
        ]
        rows = [
            (
                name,
                epsilon,
                ", ".join(self._layout(value) for value in values),
                *(self._layout(value) for value in (_mean(values), min(values), max(values))),
            )
            for name, epsilon, values in [*named, *((name, "none", found) for name, found in arms)]
        ]
        heads = ("setting", "epsilon", "each seed", "mean", "lowest", "highest")
        return {"heads": heads, "rows": tuple(rows)}


def _place(point: Spread) -> float:
    return point.x


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _value_name(key: str, value: object) -> str:
    leaf = key.rpartition(".")[2].replace("_", " ")
    if key == MODE_KEY:
        return str(value)
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else value_text(value)
    return f"{leaf.removeprefix('target ')} {text}"
