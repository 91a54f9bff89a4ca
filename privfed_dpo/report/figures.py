"""Which charts a report holds, and what each of them says in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from privfed_dpo.report.drawing import Reference, Series, bar_chart, dot_chart, line_chart

Row = Mapping[str, Any]
_MEBIBYTE = 1024**2


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """A chart with its words.

    Attributes:
        title: what is shown.
        caption: how to read it, with units.
        svg: the chart, an inline `<svg>` element.
    """

    title: str
    caption: str
    svg: str


def report_figures(
    rows: Sequence[Row],
    plan: Mapping[str, Any],
    per_client: Mapping[str, float] | None,
    arms: Mapping[str, Any] | None = None,
) -> tuple[ReportFigure, ...]:
    """Draw what was measured, and only that.

    Args:
        rows: metrics rows in the order of rounds.
        plan: the content of `plan.json`; empty if unknown.
        per_client: final accuracy by client, if it was measured.
        arms: accuracy by client of the kinds of adapters that were compared, if any were.

    Returns:
        Charts that have at least one value; a quantity that was never measured has none.
    """
    if not rows:
        return ()
    table = _Table(rows)
    figures = (
        *_convergence(table),
        _epsilon(table, plan),
        _stationarity(table),
        _drift(table),
        _consensus(table),
        _survivors(table, plan),
        _traffic(table),
        _clients(per_client or {}),
        _compared(arms or {}),
    )
    return tuple(figure for figure in figures if figure is not None)


class _Table:
    """Rows as columns over every round from the first to the last; missing rounds are gaps."""

    def __init__(self, rows: Sequence[Row]) -> None:
        by_round = {int(row["round"]): row for row in rows}
        self.rounds = list(range(min(by_round), max(by_round) + 1))
        self._rows = [by_round.get(number, {}) for number in self.rounds]

    def series(self, label: str, column: str, *, divisor: float = 1.0) -> Series:
        values = [row.get(column) for row in self._rows]
        return Series(label, [None if value is None else value / divisor for value in values])

    def rounds_with_status(self, status: str) -> list[int]:
        return [
            number
            for number, row in zip(self.rounds, self._rows, strict=True)
            if row.get("status") == status
        ]


def _convergence(table: _Table) -> list[ReportFigure | None]:
    return [
        _figure(
            "Held-out accuracy",
            "Share of held-out pairs whose chosen answer has the higher implicit reward. "
            "An untrained model is at 50 %.",
            "accuracy",
            table,
            [table.series("accuracy", "reward_accuracy")],
            unit="share",
            references=(Reference("chance", 0.5),),
        ),
        _figure(
            "Held-out loss",
            "Mean preference loss on held-out pairs, in nats. It starts at ln 2 = 0.693 "
            "for the sigmoid loss.",
            "loss",
            table,
            [table.series("loss", "loss")],
            unit="nats",
            references=(Reference("ln 2", math.log(2)),),
        ),
        _figure(
            "Margin and distance to the reference",
            "Mean implicit reward margin of held-out pairs, and the estimated KL divergence from "
            "the reference model on held-out completions, in nats.",
            "margin",
            table,
            [table.series("reward margin", "reward_margin"), table.series("KL", "kl")],
            unit="nats",
        ),
    ]


def _epsilon(table: _Table, plan: Mapping[str, Any]) -> ReportFigure | None:
    target = plan.get("target_epsilon")
    return _figure(
        "Privacy spent",
        "Epsilon spent up to each round, aborted rounds included. Certified: at the least noise "
        "the protocol allows. RDP: by Rényi accounting. "
        "Realised: by a Rényi filter fed with the survivors there were; it is loose early on.",
        "epsilon",
        table,
        [
            table.series("certified", "epsilon"),
            table.series("RDP", "epsilon_rdp"),
            table.series("realised", "epsilon_realised"),
        ],
        unit="epsilon",
        references=() if target is None else (Reference("budget", target),),
        from_zero=True,
    )


def _stationarity(table: _Table) -> ReportFigure | None:
    columns = [
        table.series("squared gradient norm", "grad_norm_sq"),
        table.series("heterogeneity", "heterogeneity"),
    ]
    values = [value for column in columns for value in column.values if value is not None]
    return _figure(
        "Stationarity and heterogeneity",
        "Squared norm of the mean gradient, and mean squared distance of the clients' gradients "
        "from it; unclipped and without noise, on fixed held-out pairs.",
        "stationarity",
        table,
        columns,
        unit="squared norm",
        logarithmic=bool(values) and min(values) > 0,
    )


def _drift(table: _Table) -> ReportFigure | None:
    return _figure(
        "Client drift",
        "Mean squared distance of the clients' local adapters from where the round began.",
        "drift",
        table,
        [table.series("drift", "drift")],
        unit="squared distance",
    )


def _consensus(table: _Table) -> ReportFigure | None:
    columns = [
        table.series("before averaging", "consensus_error_before"),
        table.series("after averaging", "consensus_error"),
        table.series("predicted, before", "consensus_predicted"),
    ]
    values = [value for column in columns for value in column.values if value is not None]
    return _figure(
        "Disagreement between nodes",
        "Mean squared distance of the nodes' adapters from their mean, before and after they "
        "average with neighbours. Predicted: what privacy noise alone makes of it.",
        "consensus",
        table,
        columns,
        unit="squared distance",
        logarithmic=bool(values) and min(values) > 0,
    )


def _survivors(table: _Table, plan: Mapping[str, Any]) -> ReportFigure | None:
    threshold = plan.get("threshold")
    return _figure(
        "Survivors of each round",
        "Clients whose update is in the opened sum, beside those invited. Below the threshold "
        "nothing is opened and the round is aborted; its privacy cost is booked all the same.",
        "survivors",
        table,
        [table.series("in the sum", "survivors"), table.series("invited", "cohort")],
        unit="clients",
        references=() if threshold is None else (Reference("threshold", threshold),),
        from_zero=True,
        marked_rounds=table.rounds_with_status("aborted"),
    )


def _traffic(table: _Table) -> ReportFigure | None:
    return _figure(
        "Traffic of each round",
        "Bytes of all clients together, protocol included.",
        "traffic",
        table,
        [
            table.series("sent by clients", "upload_bytes", divisor=_MEBIBYTE),
            table.series("sent to clients", "download_bytes", divisor=_MEBIBYTE),
        ],
        unit="MiB",
        from_zero=True,
    )


def _clients(per_client: Mapping[str, float]) -> ReportFigure | None:
    values = sorted(value for value in per_client.values() if value is not None)
    if not values:
        return None
    return ReportFigure(
        title="Accuracy by client",
        caption=(
            f"Held-out accuracy of {len(values)} clients at the end, from the worst served to the "
            "best."
        ),
        svg=bar_chart("clients", values, unit="share", x_label="clients, ordered by accuracy"),
    )


def _compared(arms: Mapping[str, Any]) -> ReportFigure | None:
    found = {arm: facts.get("per_client") or {} for arm, facts in arms.items()}
    shared = found.get("shared") or {}
    if len(found) < 2 or not shared:  # noqa: PLR2004 - nothing to compare with
        return None
    order = sorted(shared, key=lambda client: shared[client])
    series = [
        Series(arm.replace("_", "-"), [accuracies.get(client) for client in order])
        for arm, accuracies in found.items()
    ]
    return ReportFigure(
        title="Accuracy by client and kind of adapter",
        caption=(
            f"Held-out accuracy of the {len(order)} clients compared, ordered by what the shared "
            "adapter gives them. All but the shared adapter are not private."
        ),
        svg=dot_chart("compared", series, unit="share", x_label="clients"),
    )


def _figure(
    title: str, caption: str, name: str, table: _Table, series: Sequence[Series], **options: Any
) -> ReportFigure | None:
    if not any(one.measured for one in series):
        return None
    return ReportFigure(title, caption, line_chart(name, table.rounds, series, **options))
