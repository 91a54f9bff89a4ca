"""`privfed-dpo epsilon` and `privfed-dpo calibrate`: what a mechanism costs, without any run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from accounting import (
    Adversary,
    Budget,
    EpsilonPair,
    Mode,
    NoiseShares,
    ReleaseSchedule,
    calibrate_noise_multiplier,
)
from privfed_dpo.observe.plan_table import epsilon_table

SampleRate = Annotated[float, typer.Option(help="probability that a pair joins one step")]
Steps = Annotated[int, typer.Option(help="rounds that one client takes part in")]
LocalSteps = Annotated[int, typer.Option(help="noisy steps of a client in one round")]
Delta = Annotated[float, typer.Option(help="failure probability")]
ModeName = Annotated[Mode, typer.Option(help="who adds the noise")]
Cohort = Annotated[int, typer.Option(help="clients of a round")]
Dropouts = Annotated[int, typer.Option(help="drop-outs that must cost no privacy")]
Colluders = Annotated[int, typer.Option(help="clients that may help the server")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]


def epsilon(  # noqa: PLR0917 - options of a command
    sample_rate: SampleRate,
    noise_multiplier: Annotated[
        float, typer.Option(help="noise on the sum over max_grad_norm, as guaranteed")
    ],
    steps: Steps,
    delta: Delta = 1e-5,
    mode: ModeName = Mode.DISTRIBUTED,
    local_steps: LocalSteps = 1,
    cohort: Cohort = 1,
    dropout_tolerance: Dropouts = 0,
    colluders: Colluders = 0,
    as_json: AsJson = False,
) -> None:
    """Price a mechanism: epsilon for every adversary, by two accountants."""
    schedule = _schedule(
        mode,
        sample_rate,
        noise_multiplier,
        steps,
        local_steps,
        cohort,
        dropout_tolerance,
        colluders,
    )
    _print(_priced(schedule, delta), delta, {}, as_json=as_json)


def calibrate(  # noqa: PLR0917 - options of a command
    target_epsilon: Annotated[float, typer.Option(help="certified epsilon that may be spent")],
    sample_rate: SampleRate,
    steps: Steps,
    delta: Delta = 1e-5,
    mode: ModeName = Mode.DISTRIBUTED,
    local_steps: LocalSteps = 1,
    cohort: Cohort = 1,
    dropout_tolerance: Dropouts = 0,
    colluders: Colluders = 0,
    as_json: AsJson = False,
) -> None:
    """Find the least noise that meets a target, with the certificate that it is the least."""

    def schedule_at(noise_multiplier: float) -> ReleaseSchedule:
        return _schedule(
            mode,
            sample_rate,
            noise_multiplier,
            steps,
            local_steps,
            cohort,
            dropout_tolerance,
            colluders,
        )

    headline = schedule_at(1.0).headline
    certificate = calibrate_noise_multiplier(
        lambda noise: schedule_at(noise).view(headline), Budget(target_epsilon, delta)
    )
    priced = _priced(schedule_at(certificate.noise_multiplier), delta)
    _print(priced, delta, {"certificate": asdict(certificate)}, as_json=as_json)


def _schedule(  # noqa: PLR0917 - one number of the mechanism each
    mode: Mode,
    sample_rate: float,
    noise_multiplier: float,
    steps: int,
    local_steps: int,
    cohort: int,
    dropout_tolerance: int,
    colluders: int,
) -> ReleaseSchedule:
    shared = mode is Mode.DISTRIBUTED
    shares = NoiseShares(noise_multiplier, cohort, dropout_tolerance, colluders)
    return ReleaseSchedule(
        mode=mode,
        sample_rate=sample_rate,
        noise=None if mode is Mode.NONE else shares if shared else noise_multiplier,
        participations=steps,
        local_steps=local_steps,
    )


def _priced(schedule: ReleaseSchedule, delta: float) -> dict[Adversary, EpsilonPair]:
    return {adversary: schedule.epsilon(adversary, delta) for adversary in Adversary}


def _print(
    priced: Mapping[Adversary, EpsilonPair],
    delta: float,
    more: Mapping[str, object],
    *,
    as_json: bool,
) -> None:
    bounds = {
        str(adversary): {"pld": _finite(pair.pld), "rdp": _finite(pair.rdp)}
        for adversary, pair in priced.items()
    }
    if as_json:
        typer.echo(json.dumps({"epsilon": bounds, "delta": delta, **more}, indent=2))
        return
    console = Console()
    console.print(epsilon_table({"epsilon": bounds, "delta": delta}))
    certificate = more.get("certificate")
    if isinstance(certificate, Mapping):
        console.print(
            f"noise multiplier {certificate['noise_multiplier']:.6g}: epsilon "
            f"{certificate['epsilon']:.6g} is within the target {certificate['target']:g}; "
            f"with {100 * certificate['tolerance']:g} % less noise it would be "
            f"{certificate['epsilon_just_below']:.6g}",
            highlight=False,
            soft_wrap=True,
        )


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
