"""`privfed-dpo epsilon` and `privfed-dpo calibrate`: what a mechanism costs, without any run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from accounting import (
    Accounting,
    Adversary,
    Budget,
    EpsilonPair,
    IntegerNoise,
    Mode,
    NoiseShares,
    RecordCopies,
    ReleaseSchedule,
    calibrate_noise_multiplier,
    record_releases,
    unconditional_epsilon,
)
from privfed_dpo.engine.integer_noise import NoiseKind, integer_noise
from privfed_dpo.observe.plan_table import epsilon_table

_EPOCH_DECIMALS = 9  # steps * rate is a whole number up to rounding, or it is not


class Batches(StrEnum):
    """How a client draws its batches.

    POISSON: every pair joins every step independently; the sampler of this program.
    SHUFFLED: every pair is used once per epoch, in shuffled or fixed batches: priced by epochs,
        without any amplification.
    """

    POISSON = "poisson"
    SHUFFLED = "shuffled"


SampleRate = Annotated[float, typer.Option(help="of pairs in a step; not in mode user")]
Steps = Annotated[int, typer.Option(help="rounds that one client takes part in")]
LocalSteps = Annotated[int, typer.Option(help="noisy steps of a client in one round")]
Delta = Annotated[float, typer.Option(help="failure probability")]
ModeName = Annotated[Mode, typer.Option(help="who adds the noise")]
Cohort = Annotated[int, typer.Option(help="clients of a round")]
Dropouts = Annotated[int, typer.Option(help="drop-outs that must cost no privacy")]
Colluders = Annotated[int, typer.Option(help="clients that may help the server")]
BatchKind = Annotated[Batches, typer.Option(help="of a client")]
Rounds = Annotated[
    int | None,
    typer.Option(
        help="of the whole run, where copies may be in other rounds; --steps if not given"
    ),
]
Copies = Annotated[
    int,
    typer.Option(help="how often one record may be in the data", min=1),
]
SensitivitySteps = Annotated[
    float | None,
    typer.Option(help="grid steps per clip norm: prices integers"),
]
Noise = Annotated[NoiseKind, typer.Option(help="on a grid")]
Certifying = Annotated[
    Accounting,
    typer.Option(help="rdp needs a grid"),
]
Dimension = Annotated[int, typer.Option(help="on a grid: trained parameters")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]


def epsilon(  # noqa: PLR0917 - options of a command
    noise_multiplier: Annotated[float, typer.Option(help="noise on the sum over the clip norm")],
    steps: Steps,
    sample_rate: SampleRate = 1.0,
    delta: Delta = 1e-5,
    mode: ModeName = Mode.DISTRIBUTED,
    local_steps: LocalSteps = 1,
    cohort: Cohort = 1,
    dropout_tolerance: Dropouts = 0,
    colluders: Colluders = 0,
    batches: BatchKind = Batches.POISSON,
    rounds: Rounds = None,
    record_copies: Copies = 1,
    sensitivity_steps: SensitivitySteps = None,
    dimension: Dimension = 1,
    noise: Noise = NoiseKind.DISCRETE_GAUSSIAN,
    accounting: Certifying = Accounting.REDUCTION,
    as_json: AsJson = False,
) -> None:
    """Price a mechanism against every adversary, without any run."""
    releases = _releases(mode, sample_rate, steps, local_steps, batches)
    copies = _record_copies(mode, record_copies, steps, rounds, releases.participations)
    schedule = _schedule(releases, copies, noise_multiplier, cohort, dropout_tolerance, colluders)
    more: dict[str, object] = {}
    schedule = _on_grid(schedule, _Grid.of(sensitivity_steps, dimension, noise, accounting))
    reduced = sensitivity_steps is not None and accounting is Accounting.REDUCTION
    if reduced and not schedule.copies_share_sums:
        more["unconditional_rdp"] = {
            str(adversary): _finite(unconditional_epsilon(schedule, adversary, delta))
            for adversary in Adversary
        }
    _print(
        _priced(schedule, delta), delta, {"accounting": str(accounting), **more}, as_json=as_json
    )


def calibrate(  # noqa: PLR0917 - options of a command
    target_epsilon: Annotated[float, typer.Option(help="certified epsilon that may be spent")],
    steps: Steps,
    sample_rate: SampleRate = 1.0,
    delta: Delta = 1e-5,
    mode: ModeName = Mode.DISTRIBUTED,
    local_steps: LocalSteps = 1,
    cohort: Cohort = 1,
    dropout_tolerance: Dropouts = 0,
    colluders: Colluders = 0,
    batches: BatchKind = Batches.POISSON,
    rounds: Rounds = None,
    record_copies: Copies = 1,
    sensitivity_steps: SensitivitySteps = None,
    dimension: Dimension = 1,
    noise: Noise = NoiseKind.DISCRETE_GAUSSIAN,
    accounting: Certifying = Accounting.REDUCTION,
    as_json: AsJson = False,
) -> None:
    """Find the least noise that meets a target, and show that it is."""
    releases = _releases(mode, sample_rate, steps, local_steps, batches)
    copies = _record_copies(mode, record_copies, steps, rounds, releases.participations)

    grid = _Grid.of(sensitivity_steps, dimension, noise, accounting)

    def schedule_at(multiplier: float) -> ReleaseSchedule:
        plain = _schedule(releases, copies, multiplier, cohort, dropout_tolerance, colluders)
        return _on_grid(plain, grid)

    first = schedule_at(1.0)
    certificate = calibrate_noise_multiplier(
        lambda multiplier: schedule_at(multiplier).view(first.headline),
        Budget(target_epsilon - first.slack.epsilon, delta / first.slack.delta_factor),
        accounting=accounting,
    )
    priced = _priced(schedule_at(certificate.noise_multiplier), delta)
    more = {"accounting": str(accounting), "certificate": asdict(certificate)}
    _print(priced, delta, more, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Releases:
    """The part of a schedule that does not depend on the noise."""

    mode: Mode
    sample_rate: float
    participations: int
    local_steps: int


def _record_copies(
    mode: Mode, most: int, steps: int, rounds: int | None, participations: int
) -> RecordCopies | None:
    """Return the claim on copies; shuffled epochs of local steps may be more than rounds."""
    if rounds is not None and rounds < steps:
        raise typer.BadParameter(
            f"--rounds {rounds} of the whole run are fewer than the --steps {steps} that one "
            "client takes part in"
        )
    if most == 1:
        return None
    if mode in {Mode.USER, Mode.NONE}:
        raise typer.BadParameter(f"--record-copies counts copies of a pair: not in mode {mode}")
    return RecordCopies(most, max(rounds or steps, participations))


def _releases(
    mode: Mode,
    sample_rate: float,
    steps: int,
    local_steps: int,
    batches: Batches,
) -> _Releases:
    """Return what is repeated how often; shuffled batches become whole epochs at rate 1."""
    if mode is Mode.USER:
        return _Releases(mode, 1.0, steps, local_steps)
    if batches is Batches.SHUFFLED:
        epochs = round(steps * local_steps * sample_rate, _EPOCH_DECIMALS)
        return _Releases(mode, 1.0, max(1, math.ceil(epochs)), 1)
    return _Releases(mode, sample_rate, steps, local_steps)


def _schedule(  # noqa: PLR0917 - one number of the mechanism each
    releases: _Releases,
    copies: RecordCopies | None,
    noise_multiplier: float,
    cohort: int,
    dropout_tolerance: int,
    colluders: int,
) -> ReleaseSchedule:
    noise: NoiseShares | float | None = noise_multiplier
    if releases.mode in {Mode.DISTRIBUTED, Mode.USER}:
        noise = NoiseShares(noise_multiplier, cohort, dropout_tolerance, colluders)
    elif releases.mode is Mode.NONE:
        noise = None
    return ReleaseSchedule(
        mode=releases.mode,
        sample_rate=releases.sample_rate,
        noise=noise,
        participations=releases.participations,
        local_steps=releases.local_steps,
        copies=copies,
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """The integers that a run would compute on."""

    sensitivity_steps: float
    dimension: int
    noise: NoiseKind
    accounting: Accounting

    @classmethod
    def of(
        cls,
        sensitivity_steps: float | None,
        dimension: int,
        noise: NoiseKind,
        accounting: Accounting,
    ) -> _Grid | None:
        """Return the grid that the options describe; None if they describe none."""
        if sensitivity_steps is not None:
            return cls(sensitivity_steps, dimension, noise, accounting)
        if accounting is Accounting.RDP or noise is NoiseKind.SKELLAM:
            raise typer.BadParameter(
                "--accounting rdp and --noise skellam price integers: give --sensitivity-steps"
            )
        return None


def _on_grid(schedule: ReleaseSchedule, grid: _Grid | None) -> ReleaseSchedule:
    """Return the same schedule with the integer noise that a run would draw."""
    noise = schedule.noise
    if grid is None:
        return schedule
    if noise is None:
        raise typer.BadParameter("--sensitivity-steps needs noise: mode none adds none")
    if isinstance(noise, IntegerNoise):
        return schedule
    shares = noise if isinstance(noise, NoiseShares) else NoiseShares(noise, 1, 0, 0)
    releases = record_releases(
        schedule.mode,
        participations=schedule.participations,
        local_steps=schedule.local_steps,
        copies=schedule.copies,
    )
    on_integers = integer_noise(
        grid.noise,
        shares.noise_multiplier,
        grid.sensitivity_steps,
        shares.cohort,
        shares.dropout_tolerance,
        shares.colluders,
        grid.dimension,
        releases,
    )
    return replace(schedule, noise=on_integers, accounting=grid.accounting)


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
    facts = {"epsilon": bounds, "delta": delta, "accounting": more["accounting"]}
    console.print(epsilon_table(facts))
    unconditional = more.get("unconditional_rdp")
    if isinstance(unconditional, Mapping):
        against = ", ".join(f"{name} {bound:.6g}" for name, bound in unconditional.items())
        console.print(
            f"without the reduction to continuous noise: {against}",
            highlight=False,
            soft_wrap=True,
        )
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
