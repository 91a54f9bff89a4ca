"""The command line: the only place where errors become text and exit codes."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from accounting import AccountingError, BudgetExceeded
from privfed_dpo.commands.costs import calibrate, epsilon
from privfed_dpo.commands.deployment import client, enrol, refuse_simulation
from privfed_dpo.commands.help_pages import OneScreenCommand, OneScreenGroup, complete_override
from privfed_dpo.commands.keys import keys
from privfed_dpo.commands.resumption import require_run, resumable
from privfed_dpo.commands.secagg import secagg
from privfed_dpo.commands.terminal import escaped, quieten, standard_error
from privfed_dpo.config import Config, load_config
from privfed_dpo.errors import ConfigError, PrivFedError
from secure_agg import SecAggError

_PROGRAM = "privfed-dpo"

app = typer.Typer(
    name=_PROGRAM,
    cls=OneScreenGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_command = partial(app.command, cls=OneScreenCommand)

ConfigPath = Annotated[Path, typer.Argument(help="YAML file, such as configs/quickstart.yaml")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="section.key=value, over the file; see privfed-dpo keys",
        autocompletion=complete_override,
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="a run folder written by train")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object for machines")]


def main() -> None:
    """Run the command line; never shows a traceback for a mistake of the user."""
    with warnings.catch_warnings():
        quieten()
        code = _run(lambda: app(prog_name=_PROGRAM, standalone_mode=False))
    sys.exit(code)


def _run(command: Callable[[], object]) -> int:  # noqa: C901, PLR0911 - one exit per kind of end
    stderr = standard_error()
    try:
        outcome = command()
    except ConfigError as error:
        _complain(stderr, _listed(error.problems), error.advice)
        return error.exit_code
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
        stderr.print("Interrupted.")
        return 1
    except OSError as error:
        what = str(error) if error.filename is None else f"{error.strerror}: {error.filename}"
        _complain(stderr, what, "Check the path, its permissions and free space.")
        return 1
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # a usage error of the parser
            error.show()
            return int(error.exit_code)
        raise
    return outcome if isinstance(outcome, int) else 0


def _complain(stderr: Console, text: str, advice: str) -> None:
    stderr.print(f"[bold red]error:[/] {escaped(text)}")
    if advice:
        stderr.print(f"[dim]{escaped(advice)}[/]")


def _listed(problems: tuple[str, ...]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n".join([f"{len(problems)} problems", *(f"  - {problem}" for problem in problems)])


def _config(path: Path, overrides: list[str] | None, run_dir: Path | None = None) -> Config:
    extra = [] if run_dir is None else [f"run.dir={json.dumps(str(run_dir))}"]
    return load_config(path, [*(overrides or []), *extra])


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    if wanted:
        typer.echo(f"{_PROGRAM} {metadata.version(_PROGRAM)}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Differentially private, securely aggregated, distributed preference optimization."""


@_command()
def plan(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a run would promise and cost, before any compute."""
    resolved = _config(config, overrides)
    from privfed_dpo import lifecycle
    from privfed_dpo.deployment.coordinator import plan_deployed
    from privfed_dpo.engine.network_privacy import describe_pairwise
    from privfed_dpo.observe.plan_table import render_plan
    from privfed_dpo.policy import process_memory

    make = lifecycle.plan if resolved.deployment.roster is None else plan_deployed
    promised = make(resolved)
    network = {"network_privacy": describe_pairwise(promised)}
    facts = {**promised.describe(), **network, **process_memory(resolved)}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        Console().print(render_plan(facts))


_command()(keys)
_command()(epsilon)
_command()(calibrate)
_command()(secagg)
_command()(enrol)
_command()(client)


@_command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="run folder to create (run.dir)")
    ] = None,
) -> None:
    """Train; leaves a run folder: adapter, ledger, metrics, report."""
    resolved = _config(config, overrides, run_dir)
    refuse_simulation(resolved)
    from privfed_dpo import lifecycle
    from privfed_dpo.observe.console import ProgressConsole
    from privfed_dpo.observe.run_folder import new_run_folder

    folder = new_run_folder(resolved)
    with resumable(folder), ProgressConsole() as observer:
        lifecycle.train(resolved, folder=folder, observers=[observer])
    _tell_where(folder)


@_command()
def server(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="run folder to create (run.dir)")
    ] = None,
) -> None:
    """Train with clients on other machines; leaves a run folder, too."""
    resolved = _config(config, overrides, run_dir)
    from privfed_dpo.deployment.coordinator import serve
    from privfed_dpo.deployment.journal import in_folder
    from privfed_dpo.observe.console import ProgressConsole
    from privfed_dpo.observe.run_folder import new_run_folder

    folder = new_run_folder(resolved)
    with resumable(folder), ProgressConsole() as observer:
        serve(resolved, journal=in_folder(folder), folder=folder, observers=[observer])
    _tell_where(folder)


@_command()
def resume(run: RunFolder) -> None:
    """Go on with an interrupted run; what it spent is not forgotten."""
    require_run(run)
    from privfed_dpo import lifecycle
    from privfed_dpo.deployment.coordinator import is_deployed, resume_deployed
    from privfed_dpo.deployment.journal import in_folder
    from privfed_dpo.observe.console import ProgressConsole

    with resumable(run), ProgressConsole() as observer:
        if is_deployed(run):
            resume_deployed(run, journal=in_folder(run), observers=[observer])
        else:
            lifecycle.resume(run, observers=[observer])
    _tell_where(run)


def _tell_where(run: Path) -> None:
    head = json.loads((run / "summary.json").read_text(encoding="utf-8"))["ledger_head"]
    typer.echo(f"ledger head: {head} (note it elsewhere, for verify --head)")
    typer.echo(f"run folder: {run}")


@_command()
def report(run: RunFolder) -> None:
    """Write report.html of a run again, from its folder alone."""
    from privfed_dpo.report.page import write_report

    typer.echo(str(write_report(run)))


@_command()
def verify(
    run: RunFolder,
    head: Annotated[
        str | None, typer.Option(help="last line's hash, as noted elsewhere when the run ended")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute epsilon from the ledger; fails if anything was altered."""
    from privfed_dpo.verification import verify_run

    verdict = verify_run(run, known_head=head)
    if as_json:
        typer.echo(json.dumps(verdict.as_dict(), indent=2))
    else:
        typer.echo(verdict.as_text())
    if not verdict.ok:
        raise typer.Exit(1)


@_command()
def sweep(  # noqa: PLR0917 - options of a command
    file: Annotated[Path, typer.Argument(help="YAML file, such as configs/sweeps/smoke.yaml")],
    folder: Annotated[
        Path, typer.Option("--dir", help="folder of the sweep; goes on if it is one")
    ],
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(min=1, help="processes that share the runs")] = 1,
    storage: Annotated[
        str | None,
        typer.Option(help="database URL that workers on many machines share; default: a journal"),
    ] = None,
    study: Annotated[str, typer.Option(help="name of the sweep in that database")] = "sweep",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="make runs that failed once more")
    ] = False,
    give_up_elsewhere: Annotated[
        bool,
        typer.Option(
            "--give-up-elsewhere", help="start over what machines hold that will not come back"
        ),
    ] = False,
) -> None:
    """Make many runs, compare them, and price the choice among them."""
    from privfed_dpo.commands.sweep import run_sweep
    from privfed_dpo.sweep.store import Address

    done = run_sweep(
        file,
        Address(folder, storage, study),
        overrides or (),
        workers=workers,
        retry_failed=retry_failed,
        give_up_elsewhere=give_up_elsewhere,
    )
    if not done:
        raise typer.Exit(1)


@_command()
def audit(
    run: Annotated[Path | None, typer.Argument(help="a run folder written by train")] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="plant known bugs and see that each is caught")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="self-test: runs of the correct build")] = 20,
    as_json: AsJson = False,
) -> None:
    """Try to prove a run's epsilon wrong; fails if that succeeds."""
    if self_test == (run is not None):
        raise ConfigError(("audit takes either a run folder or --self-test",))
    from privfed_dpo.commands import audit as command

    if run is None:
        passed = command.audit_the_audit(seeds=seeds, as_json=as_json)
    else:
        passed = command.audit_folder(run, as_json=as_json)
    if not passed:
        raise typer.Exit(1)
