"""`privfed-dpo secagg`: one real round of secure aggregation in this process, measured."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from privfed_dpo.errors import ConfigError
from privfed_dpo.observe.quantities import format_bytes
from secure_agg import InvalidParams, Phase
from secure_agg.rehearsal import Rehearsal, rehearse

_ABORTED = 4


def secagg(  # noqa: PLR0917 - options of a command
    clients: Annotated[int, typer.Option(help="cohort size")] = 100,
    dim: Annotated[int, typer.Option(help="words in a vector")] = 1_000_000,
    dropout: Annotated[float, typer.Option(help="share of clients that vanish")] = 0.1,
    phase: Annotated[
        Phase | None, typer.Option(help="phase they vanish in; all five in turn if not given")
    ] = None,
    bits: Annotated[int, typer.Option(help="word size: 16, 32 or 64")] = 32,
    threads: Annotated[int, typer.Option(help="coordinate ranges worked on at once")] = 1,
    seed: Annotated[int, typer.Option(help="decides vectors and who vanishes")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Run one real secure sum here and show what each phase cost."""
    try:
        outcome = rehearse(
            clients=clients,
            dimension=dim,
            dropout_share=dropout,
            drop_phase=phase,
            modulus_bits=bits,
            threads=threads,
            seed=seed,
            clock=time.process_time,
        )
    except InvalidParams as error:
        raise ConfigError(
            error.problems, advice="privfed-dpo secagg --help lists the options."
        ) from error
    if as_json:
        typer.echo(json.dumps(_facts(outcome), indent=2))
    else:
        _show(outcome, Console())
    if not outcome.exact:
        raise typer.Exit(_ABORTED)


def _facts(outcome: Rehearsal) -> dict[str, object]:
    near = outcome.plan.neighbourhood
    return {
        "exact": outcome.exact,
        "aborted": outcome.aborted,
        "clients": outcome.plan.clients,
        "survivors": outcome.survivors,
        "dimension": outcome.dimension,
        "modulus_bits": outcome.modulus_bits,
        "threshold": outcome.plan.threshold,
        "neighbours": near.degree if near else outcome.plan.clients - 1,
        "plan": outcome.plan.describe().splitlines(),
        "phases": {
            str(statistics.phase): {
                name: value for name, value in asdict(statistics).items() if name != "phase"
            }
            for statistics in outcome.phases
        },
    }


def _show(outcome: Rehearsal, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("phase", no_wrap=True)
    for name in ("messages", "to clients", "from clients", "clients CPU", "slowest", "server CPU"):
        table.add_column(name, justify="right")
    table.add_column("lost", justify="right")
    for one in outcome.phases:
        table.add_row(
            str(one.phase),
            str(one.requests + one.replies),
            format_bytes(one.download_bytes),
            format_bytes(one.upload_bytes),
            f"{one.client_seconds:.2f} s",
            f"{1000 * one.slowest_client_seconds:.1f} ms",
            f"{one.server_seconds:.2f} s",
            str(one.dropped),
        )
    console.print(table)
    console.print(outcome.plan.describe(), highlight=False, soft_wrap=True)
    if outcome.aborted:
        console.print(f"aborted: {outcome.aborted}", highlight=False, soft_wrap=True)
    else:
        console.print(
            f"sum over {outcome.survivors} survivors is "
            f"{'exact, bit for bit' if outcome.exact else 'WRONG'}",
            highlight=False,
        )
