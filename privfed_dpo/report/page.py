"""One self-contained HTML page about a run, written from its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from markupsafe import Markup

from privfed_dpo.errors import DataError
from privfed_dpo.observe.plan_facts import (
    EpsilonBound,
    PlanSection,
    bound_titles,
    epsilon_bounds,
    plan_sections,
)
from privfed_dpo.observe.quantities import (
    UNKNOWN,
    format_bytes,
    format_epsilon,
    format_number,
    format_seconds,
    format_share,
)
from privfed_dpo.observe.run_folder import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    PLAN_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    read_json,
    read_rows,
    write_text_atomic,
)
from privfed_dpo.report.audit_facts import AUDIT_HEADS, audit_facts
from privfed_dpo.report.client_facts import CLIENT_HEADS, client_facts
from privfed_dpo.report.figures import report_figures
from privfed_dpo.report.floor_table import floor_table
from privfed_dpo.report.templates import fill_page
from secure_agg import Phase

UNFINISHED = "unfinished"
_GOOD = {"finished", "budget_spent"}
_HEADLINE = ("coalition", "server")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run folder says.

    Attributes:
        name: name of the folder.
        config: text of `config.yaml`, or empty.
        environment: content of `environment.json`.
        plan: content of `plan.json`.
        rows: metrics rows in the order of rounds.
        summary: content of `summary.json`; empty while a run is not finished.
    """

    name: str
    config: str
    environment: Mapping[str, Any]
    plan: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any]


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder.

    The page needs no network and no other file. It holds what the folder's files say and nothing
    else, so writing it again gives the same page.

    Args:
        run_dir: a run folder; a run that is not finished gives a report of what there is.

    Returns:
        Path of the page.

    Raises:
        DataError: there is no run in this folder, or one of its files is damaged.
    """
    page = run_dir / REPORT_FILE
    run = read_run(run_dir)
    try:
        text = render_page(run)
    except (AttributeError, LookupError, TemplateError, TypeError, ValueError) as error:
        raise DataError(
            f"the files of {run_dir} hold values that no run writes "
            f"({type(error).__name__}: {error})",
            source=str(run_dir),
            advice="`privfed-dpo verify` says which files were altered; restore them.",
        ) from error
    write_text_atomic(page, text)
    return page


def read_run(run_dir: Path) -> RunFacts:
    """Read the files a report is made of.

    Args:
        run_dir: a run folder.

    Returns:
        Their content; a file that is not there is empty.

    Raises:
        DataError: neither plan nor metrics exist, or a file is damaged.
    """
    rows = read_rows(run_dir / METRICS_FILE)
    plan = read_json(run_dir / PLAN_FILE)
    if not rows and not plan:
        raise DataError(
            f"{run_dir} holds no run",
            source=str(run_dir),
            advice="Give a folder that `privfed-dpo train` wrote.",
        )
    return RunFacts(
        name=run_dir.resolve().name,
        config=_config_text(run_dir / CONFIG_FILE),
        environment=read_json(run_dir / ENVIRONMENT_FILE),
        plan=plan,
        rows=rows,
        summary=read_json(run_dir / SUMMARY_FILE),
    )


def _config_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text", source=str(path), advice="Restore the file."
        ) from error


def render_page(run: RunFacts) -> str:
    """Lay a run out as HTML; every text from the folder is escaped."""
    plan, summary = run.plan or summary_plan(run.summary), run.summary
    figures = [
        {"title": figure.title, "caption": figure.caption, "svg": Markup(figure.svg)}  # noqa: S704 - drawn here, no text of the folder in it
        for figure in report_figures(
            run.rows,
            plan,
            summary.get("per_client"),
            (summary.get("comparison") or {}).get("arms"),
        )
    ]
    return fill_page(
        "page.html",
        name=run.name,
        status=str(summary.get("status") or UNFINISHED),
        good=summary.get("status") in _GOOD,
        reason=summary.get("reason") or "",
        private=plan.get("mode") != "none",
        secure=plan.get("secure_aggregation") is not False,
        tiles=_tiles(run, plan),
        statement=str(summary.get("statement") or "").splitlines(),
        delta=plan.get("delta"),
        bounds=_bounds(run, plan),
        bound_titles=bound_titles(plan),
        figures=figures,
        protocol=_protocol(run, plan),
        dropped=_dropped(run.rows),
        samples=summary.get("samples") or (),
        floor=floor_table(summary.get("floor")),
        audit=audit_facts(summary.get("audit")),
        audit_heads=AUDIT_HEADS,
        clients=client_facts(summary),
        client_heads=CLIENT_HEADS,
        sections=_sections(plan, summary),
        rows=[_row(row) for row in run.rows],
        versions=_versions(run),
        hashes=_hashes(summary, plan),
        config=run.config,
    )


def summary_plan(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plan as the summary repeats it."""
    plan = summary.get("plan")
    return plan if isinstance(plan, Mapping) else {}


def _bounds(run: RunFacts, plan: Mapping[str, Any]) -> tuple[EpsilonBound, ...]:
    """What was spent if the run is finished, else what the plan allows."""
    epsilon = run.summary.get("epsilon") or plan.get("epsilon")
    return epsilon_bounds(epsilon, on_a_graph=bool(plan.get("gossip")))


def _sections(plan: Mapping[str, Any], summary: Mapping[str, Any]) -> tuple[PlanSection, ...]:
    network = {"network_privacy": summary.get("network_privacy")}
    return plan_sections({**plan, **network}) if plan else ()


def _tiles(run: RunFacts, plan: Mapping[str, Any]) -> list[dict[str, str]]:
    summary = run.summary
    first = summary.get("initial") or (run.rows[0] if run.rows else {})
    last = summary.get("final") or (run.rows[-1] if run.rows else {})
    done = summary.get("rounds_done", sum(row.get("status") == "released" for row in run.rows))
    planned = plan.get("rounds", UNKNOWN)
    return [
        _tile("held-out accuracy", _change(first, last, "reward_accuracy", format_share)),
        _tile("reward margin", _change(first, last, "reward_margin", format_number)),
        _tile("epsilon, certified", _headline_epsilon(run, plan, last)),
        _tile("rounds released", f"{done} of {planned}"),
        _tile("clients", str(plan.get("clients", UNKNOWN))),
        _tile("time", format_seconds(summary.get("seconds_total") or _sum(run.rows, "seconds"))),
    ]


def _tile(label: str, value: str) -> dict[str, str]:
    return {"label": label, "value": value}


def _change(first: Mapping[str, Any], last: Mapping[str, Any], key: str, layout: Any) -> str:
    return f"{layout(first.get(key))} → {layout(last.get(key))}".replace(
        " %", "\N{NO-BREAK SPACE}%"
    )


def _headline_epsilon(run: RunFacts, plan: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    if plan.get("mode") == "none":
        return format_epsilon(None)
    spent = run.summary.get("epsilon") or {}
    for adversary in _HEADLINE:
        if adversary in spent:
            certified = "rdp" if plan.get("accounting") == "rdp" else "pld"
            return format_epsilon((spent[adversary] or {}).get(certified))
    epsilon = last.get("epsilon")
    return UNKNOWN if epsilon is None else format_epsilon(epsilon)


def _protocol(run: RunFacts, plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    trained = [row for row in run.rows if row["round"] > 0]
    survivors = [row["survivors"] for row in trained if row.get("survivors")]
    statuses = Counter(str(row.get("status")) for row in trained)
    mean = sum(survivors) / len(survivors) if survivors else None
    secure = plan.get("secure_aggregation")
    return [
        ("secure aggregation", UNKNOWN if secure is None else "on" if secure else "OFF"),
        ("rounds", ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))),
        ("survivors of a released round, mean", format_number(mean, 1)),
        ("survivors of a released round, fewest", str(min(survivors, default=UNKNOWN))),
        ("survivors needed to open a sum", str(plan.get("threshold", UNKNOWN))),
        ("sent by all clients", format_bytes(_sum(trained, "upload_bytes"))),
        ("sent to all clients", format_bytes(_sum(trained, "download_bytes"))),
    ]


def _dropped(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Clients lost over the whole run, by phase, in the order of the protocol."""
    lost: Counter[str] = Counter()
    for row in rows:
        lost.update(row.get("dropped") or {})
    order = [phase.value for phase in Phase]
    known = [(phase, lost[phase]) for phase in order if phase in lost]
    return known + [(phase, count) for phase, count in lost.items() if phase not in order]


def _sum(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = [row[column] for row in rows if row.get(column) is not None]
    return sum(values) if values else None


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as label and text."""
    facts: list[tuple[str, str]] = []
    for key, item in value.items():
        label = f"{prefix}{key}".replace("_", " ")
        if isinstance(item, Mapping):
            facts += _flat(item, f"{label} / ")
        elif isinstance(item, float):
            facts.append((label, format_number(item)))
        else:
            facts.append((label, UNKNOWN if item is None else str(item)))
    return facts


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    survivors, cohort = row.get("survivors"), row.get("cohort")
    epsilon = row.get("epsilon")
    return {
        "round": str(row["round"]),
        "status": str(row.get("status", UNKNOWN)),
        "epsilon": UNKNOWN if epsilon is None else format_epsilon(epsilon),
        "accuracy": format_share(row.get("reward_accuracy")),
        "loss": format_number(row.get("loss")),
        "margin": format_number(row.get("reward_margin")),
        "gradient": format_number(row.get("grad_norm_sq")),
        "survivors": UNKNOWN if survivors is None else f"{survivors} of {cohort}",
        "upload": format_bytes(row.get("upload_bytes")),
        "seconds": format_seconds(row.get("seconds")),
    }


def _versions(run: RunFacts) -> list[tuple[str, str]]:
    versions = run.summary.get("versions") or run.environment.get("versions") or {}
    facts = {key: value for key, value in run.environment.items() if key != "versions"}
    return _flat(facts) + [(name, str(version)) for name, version in versions.items()]


def _hashes(summary: Mapping[str, Any], plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = (
        ("run", summary.get("run_id")),
        ("last line of the ledger", summary.get("ledger_head")),
        ("adapter (SHA-256)", summary.get("adapter_sha256")),
        ("model and tokenizer", plan.get("model_fingerprint")),
    )
    return [(label, str(value)) for label, value in named if value]
