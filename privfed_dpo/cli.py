"""The command line: the only place where errors become text and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from accounting import AccountingError, BudgetExceeded
from privfed_dpo.config import Config, load_config
from privfed_dpo.config.reference import key_help
from privfed_dpo.errors import PrivFedError
from secure_agg import SecAggError

app = typer.Typer(
    name="privfed-dpo",
    help="Differentially private, securely aggregated, distributed preference optimization.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_KEYS = "Keys, as section.key=value (default; meaning):\n\n" + "\n\n".join(
    f"{name}={default}  {meaning}" for name, default, meaning in key_help()
)

ConfigPath = Annotated[Path, typer.Argument(help="YAML file, such as configs/quickstart.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.key=value, applied over the file")
]
RunFolder = Annotated[Path, typer.Argument(help="a run folder written by train")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object for machines")]


def main() -> None:
    """Run the command line; never shows a traceback for a mistake of the user."""
    sys.exit(_run(lambda: app(standalone_mode=False)))


def _run(command: Callable[[], object]) -> int:  # noqa: PLR0911 - one exit per kind of end
    stderr = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        outcome = command()
    except PrivFedError as error:
        _complain(stderr, str(error), error.advice)
        return error.exit_code
    except BudgetExceeded as error:
        _complain(stderr, str(error), "")
        return 3
    except AccountingError as error:
        _complain(stderr, str(error), "")
        return 2
    except SecAggError as error:
        _complain(stderr, str(error), "")
        return 4
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        stderr.print(
            "Interrupted. What was spent is in the ledger; `privfed-dpo resume RUN` goes on."
        )
        return 1
    except OSError as error:
        _complain(stderr, f"{error.strerror}: {error.filename}", "Check the path and free space.")
        return 1
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # a usage error of the parser
            error.show()
            return int(error.exit_code)
        raise
    return outcome if isinstance(outcome, int) else 0


def _complain(stderr: Console, text: str, advice: str) -> None:
    stderr.print(f"[bold red]error:[/] {_escaped(text)}")
    if advice:
        stderr.print(f"[dim]{_escaped(advice)}[/]")


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def _config(path: Path, overrides: list[str] | None, run_dir: Path | None = None) -> Config:
    extra = [] if run_dir is None else [f"run.dir={json.dumps(str(run_dir))}"]
    return load_config(path, [*(overrides or []), *extra])


@app.command()
def plan(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a run would promise and cost, before any compute."""
    from privfed_dpo import lifecycle
    from privfed_dpo.observe.plan_table import render_plan

    facts = lifecycle.plan(_config(config, overrides)).describe()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        Console().print(render_plan(facts))


@app.command(epilog=_KEYS)
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="run folder to create (run.dir)")
    ] = None,
) -> None:
    """Train privately; leaves a run folder with adapter, ledger, metrics and report."""
    resolved = _config(config, overrides, run_dir)
    from privfed_dpo import lifecycle
    from privfed_dpo.observe.console import ProgressConsole

    with ProgressConsole() as observer:
        folder = lifecycle.train(resolved, observers=[observer])
    typer.echo(f"run folder: {folder}")


@app.command()
def resume(run: RunFolder) -> None:
    """Go on with an interrupted run; nothing random is used twice, nothing spent is forgotten."""
    from privfed_dpo import lifecycle
    from privfed_dpo.observe.console import ProgressConsole

    with ProgressConsole() as observer:
        folder = lifecycle.resume(run, observers=[observer])
    typer.echo(f"run folder: {folder}")


@app.command()
def report(run: RunFolder) -> None:
    """Write report.html of a run again, from its folder alone."""
    from privfed_dpo.report.page import write_report

    typer.echo(str(write_report(run)))


@app.command()
def verify(run: RunFolder, as_json: AsJson = False) -> None:
    """Recompute epsilon from the ledger alone; fails if anything was altered."""
    from privfed_dpo.verification import verify_run

    verdict = verify_run(run)
    if as_json:
        typer.echo(json.dumps(verdict.as_dict(), indent=2))
    else:
        typer.echo(verdict.as_text())
    if not verdict.ok:
        raise typer.Exit(1)
