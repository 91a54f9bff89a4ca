"""The findings of an audit on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from privfed_dpo.audit.findings import METHODS, AuditFindings, JudgedBound, Verdict
from privfed_dpo.audit.self_test import FALSE_ALARM_LEVEL, SelfTestReport
from privfed_dpo.observe.quantities import UNKNOWN, format_epsilon, format_share

_STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
_CONCLUSIONS = {
    Verdict.PASS: "No bound contradicts the certified epsilon.",
    Verdict.WARN: "No bound exceeds the certified epsilon, but one comes close to it.",
    Verdict.FAIL: "A lower bound EXCEEDS the certified epsilon: the claim is refuted.",
}


def render_findings(findings: AuditFindings) -> RenderableType:
    """Lay out every bound beside its claim, then membership inference and notes."""
    parts: list[RenderableType] = []
    if findings.bounds:
        parts.append(_bounds(findings.bounds))
        parts.append(Text(_CONCLUSIONS[findings.verdict], style=_STYLES[findings.verdict]))
    parts += [
        Text(
            f"membership, {report.about}: AUC {report.auc:.3f}, {format_share(report.tpr_at_fpr)} "
            f"found at {format_share(report.fpr)} false positives ({report.members} against "
            f"{report.others})"
        )
        for report in findings.membership
    ]
    parts += [Text(f"note: {note}", style="dim") for note in findings.notes]
    return Group(*parts)


def _bounds(bounds: tuple[JudgedBound, ...]) -> Table:
    first = bounds[0].bound
    title = f"Lower bounds on epsilon at delta = {first.delta:.3g}, {first.confidence:.1%} each"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("canaries", "method", "against"):
        table.add_column(heading)
    for heading in ("m", "right", "bound", "certified", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for judged in bounds:
        bound = judged.bound
        table.add_row(
            judged.canaries,
            METHODS[bound.method],
            judged.adversary.value,
            str(bound.canaries),
            UNKNOWN if bound.correct is None else f"{bound.correct}/{bound.guesses}",
            f"{bound.epsilon:.3f}",
            format_epsilon(judged.certified),
            Text(judged.verdict.value.upper(), style=_STYLES[judged.verdict]),
        )
    return table


def render_self_test(report: SelfTestReport) -> RenderableType:
    """Lay out which check caught which planted bug, and how the correct build fared."""
    table = Table(title="Planted bugs", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("bug", "caught by", "figure"):
        table.add_column(heading)
    for bug in report.bugs:
        if not bug.caught_by:
            table.add_row(bug.bug, Text("MISSED", style="bold red"), "")
        for place, found in enumerate(bug.caught_by):
            table.add_row("" if place else bug.bug, found.check, found.figure)
    correct = report.correct
    caught = sum(bool(bug.caught_by) for bug in report.bugs)
    means = ", ".join(f"{METHODS[name]} {mean:.2f}" for name, mean in correct.mean_bounds.items())
    level, certified = format_share(FALSE_ALARM_LEVEL), format_epsilon(correct.certified)
    falsely = f"{len(correct.alarms)} false alarms in {correct.seeds} runs of all checks"
    above = f"{correct.above} of {len(correct.bounds)} bounds above the certified {certified}"
    lines = [
        f"{caught} of {len(report.bugs)} planted bugs caught",
        f"correct build: {falsely} (level {level} a run)",
        f"its lanes at 95 %: {above}; means: {means}",
        *(f"FALSE ALARM: {alarm.check}: {alarm.figure}" for alarm in correct.alarms),
    ]
    style = "green" if report.passed else "bold red"
    verdict = Text("Self-test passed." if report.passed else "Self-test FAILED.", style=style)
    return Group(table, *map(Text, lines), verdict)
