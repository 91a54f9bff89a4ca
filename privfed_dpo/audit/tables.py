"""The findings of an audit on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from privfed_dpo.audit.findings import AuditFindings, JudgedBound, Verdict
from privfed_dpo.observe.quantities import UNKNOWN, format_epsilon, format_share

_STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
METHODS = {
    "one_run": "one run",
    "one_run_gaussian": "one run, f-DP",
    "rates": "rates",
    "rates_gaussian": "rates, f-DP",
    "gaussian_fit": "Gaussian fit",
}
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
