"""`privfed-dpo audit`: what experiments say against a run's epsilon, and whether they would."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console

from privfed_dpo.audit.findings import Verdict
from privfed_dpo.audit.run_audit import audit_run
from privfed_dpo.audit.self_test import self_test
from privfed_dpo.audit.tables import render_findings, render_self_test
from privfed_dpo.lifecycle import reopen
from privfed_dpo.report.page import write_report


def audit_folder(run: Path, *, as_json: bool) -> bool:
    """Audit a run folder, print the findings, keep them, and write the report again.

    Args:
        run: a folder whose training has ended.
        as_json: print one JSON object instead of tables.

    Returns:
        Whether the claim stands: no bound exceeds the certified epsilon.
    """
    findings = audit_run(run, reopen)
    write_report(run)
    if as_json:
        typer.echo(json.dumps(findings.as_dict(), indent=2))
    else:
        Console().print(render_findings(findings))
    return findings.verdict is not Verdict.FAIL


def audit_the_audit(*, seeds: int, as_json: bool) -> bool:
    """Plant known privacy bugs, print what caught each, and try the correct build.

    Args:
        seeds: runs of the correct build.
        as_json: print one JSON object instead of tables.

    Returns:
        Whether every bug was caught and the correct build was not accused.
    """
    with Console(stderr=True).status("self-test") as status:
        report = self_test(seeds=seeds, observer=lambda name: status.update(f"self-test: {name}"))
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        Console().print(render_self_test(report))
    return report.passed
