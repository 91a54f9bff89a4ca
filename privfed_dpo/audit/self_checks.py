"""Self-tests of clipping, noise, randomness, sampling and divisors, on the engine's own parts.

Each takes a `Build` and a seed, and says whether it found something wrong. Statistical tests alarm
at `LEVEL`, so that a correct build is practically never accused; exact tests never err.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from privfed_dpo.audit.simulation import (
    MAX_GRAD_NORM,
    Build,
    CheckResult,
    Halves,
    Setting,
    ring_sum,
    secret,
)
from privfed_dpo.engine.contribution import Steps
from privfed_dpo.engine.plan import RunPlan

LEVEL = 1e-6
"""Probability with which one statistical self-test accuses a correct build."""

_EXPLODING = 1e6
_PROBE = Setting(clients=4, client_pairs=4, dimension=48)
_NOISE = Setting(clients=8, dimension=20_000, dropout_tolerance=2, colluders=1)
_SAMPLING = Setting(client_pairs=200, dimension=1, sample_rate=0.1)
_LOCAL = Setting(mode="local", client_pairs=20, dimension=8_000, sample_rate=0.2, local_steps=2)
_DIVISOR = Setting(mode="local", client_pairs=40, dimension=4, sample_rate=0.2)
_SAMPLED_ROUNDS = 200
_WEIGHTS = np.zeros(0, dtype=np.float32)


def sensitivity(build: Build, seed: int) -> CheckResult:
    """One pair, however wild, moves a client's integers by at most the planned bound; exactly.

    The same secrets are used with the pair and with a null record in its place, so noise cancels.
    """
    plan = _PROBE.plan()
    bound = _sensitivity_steps(plan)
    random = np.random.default_rng([seed, 1])
    quiet = random.normal(0.0, 0.01, (_PROBE.client_pairs, 2, _PROBE.dimension))
    worst = 0
    for probe in _probes(random):
        loud, null = quiet.copy(), quiet.copy()
        loud[0], null[0] = probe, 0.0
        change = _contribution(build, plan, loud, seed) - _contribution(build, plan, null, seed)
        worst = max(worst, sum(int(x) ** 2 for x in change))
    ratio = math.sqrt(worst) / bound
    return CheckResult("sensitivity", worst <= bound**2, f"{ratio:.10g} of the bound")


def noise_variance(build: Build, seed: int) -> CheckResult:
    """Shares, and their sum over the fewest survivors, have the variance that was sold."""
    plan = _NOISE.plan()
    noise = plan.noise
    if noise is None:
        return CheckResult("noise variance", passed=False, figure="no noise is planned")
    survivors = plan.threshold
    total_variance = (_NOISE.noise_multiplier * _sensitivity_steps(plan)) ** 2
    share_variance = (total_variance + noise.smoothing_steps**2) / (survivors - plan.colluders)
    shares = [_null_contribution(build, plan, seed, number) for number in range(survivors)]
    values = [
        *(_variance_test(share, share_variance) for share in shares),
        _variance_test(ring_sum(plan, shares), survivors * share_variance),
    ]
    p_value, ratio = min(values)
    return CheckResult(
        "noise variance",
        passed=bool(p_value * len(values) > LEVEL),
        figure=f"variance x {ratio:.4g}, p = {p_value:.2g}",
    )


def independence(build: Build, seed: int) -> CheckResult:
    """Noise of other clients, rounds and runs is unrelated: correlations as of chance."""
    plan = _NOISE.plan()
    first = build.client(plan, _null(plan), secret(seed, "a", 0), number=0)
    second = build.client(plan, _null(plan), secret(seed, "a", 1), number=1)
    again = build.client(plan, _null(plan), secret(seed, "b", 0), number=0)
    draws = {
        "client 0": first.contribute(1, _WEIGHTS),
        "client 1": second.contribute(1, _WEIGHTS),
        "the next round": first.contribute(2, _WEIGHTS),
        "another run": again.contribute(1, _WEIGHTS),
    }
    pairs = list(itertools.combinations(draws, 2))
    found = [(_correlation(draws[one], draws[other]), one, other) for one, other in pairs]
    strongest, one, other = max(found)
    p_value = 2 * float(stats.norm.sf(strongest * math.sqrt(plan.vector_length)))
    return CheckResult(
        "independence",
        passed=p_value * len(pairs) > LEVEL,
        figure=f"correlation {strongest:.3f} of {one} and {other}",
    )


def sampling(build: Build, seed: int) -> CheckResult:
    """Every pair joins with the booked rate, and batch sizes spread as Poisson sampling has it."""
    plan = _SAMPLING.plan()
    client = build.client(plan, _null(plan, _SAMPLING.client_pairs), secret(seed, "sampling"))
    for number in range(1, _SAMPLED_ROUNDS + 1):
        client.contribute(number, _WEIGHTS)
    drawn: Sequence[Sequence[int]] = getattr(client.source, "drawn", ())
    inclusions = np.bincount(
        [number for batch in drawn for number in batch], minlength=_SAMPLING.client_pairs
    )
    sizes = np.array([len(batch) for batch in drawn] + [0] * (_SAMPLED_ROUNDS - len(drawn)))
    rate, pairs = _SAMPLING.sample_rate, _SAMPLING.client_pairs
    trials = _SAMPLED_ROUNDS * pairs
    tests = {
        "rate": stats.binomtest(int(inclusions.sum()), trials, rate).pvalue,
        "inclusions": _dispersion_test(inclusions, _SAMPLED_ROUNDS, rate),
        "batch sizes": _dispersion_test(sizes, pairs, rate),
    }
    name = min(tests, key=lambda test: tests[test])
    return CheckResult(
        "sampling",
        passed=bool(tests[name] * len(tests) > LEVEL),
        figure=f"rate {inclusions.sum() / trials:.4f}, {name}: p = {tests[name]:.2g}",
    )


def empty_batch(build: Build, seed: int) -> CheckResult:
    """A client without sampled pairs sends a message like any other: its noise alone."""
    plan = _NOISE.plan()
    client = build.client(plan, _null(plan, 0), secret(seed, "empty"))
    steps = client.contribute(1, _WEIGHTS)
    noise = plan.noise
    if noise is None or steps.shape != (plan.vector_length,):
        return CheckResult("empty batch", passed=False, figure=f"shape {steps.shape}")
    p_value, ratio = _variance_test(steps, noise.share_stddev_steps**2)
    return CheckResult("empty batch", p_value > LEVEL, f"variance x {ratio:.4g}")


def non_finite(build: Build, seed: int) -> CheckResult:
    """A pair with NaN or infinite gradients counts as a null record; the message is the same."""
    plan = _PROBE.plan()
    quiet = np.full((_PROBE.client_pairs, 2, _PROBE.dimension), 1e-3)
    null = quiet.copy()
    null[0] = 0.0
    expected = _contribution(build, plan, null, seed)
    changed = 0
    for value in (np.nan, np.inf, -np.inf):
        bad = quiet.copy()
        bad[0, 0, 0] = value
        with np.errstate(invalid="ignore"):
            changed += int((_contribution(build, plan, bad, seed) != expected).sum())
    return CheckResult("NaN pair", changed == 0, f"{changed} coordinates changed")


def local_noise(build: Build, seed: int) -> CheckResult:
    """Every local step carries the client's full noise: K steps add up to K variances."""
    plan = _LOCAL.plan()
    noise = plan.noise
    if noise is None:
        return CheckResult("local noise", passed=False, figure="no noise is planned")
    client = build.client(plan, _null(plan), secret(seed, "local"))
    update = client.contribute(1, np.zeros(plan.facts.dimension, dtype=np.float32))
    moved = plan.grid().to_units(update)[: plan.facts.dimension]
    divisor = _LOCAL.sample_rate * _LOCAL.client_pairs
    step = noise.share_stddev_steps / _sensitivity_steps(plan) * MAX_GRAD_NORM / divisor
    p_value, ratio = _variance_test(moved, _LOCAL.local_steps * step**2)
    return CheckResult("local noise", p_value > LEVEL, f"variance x {ratio:.4g}, p = {p_value:.2g}")


def public_divisor(build: Build, seed: int) -> CheckResult:
    """A client's own step is its clipped sum over q n, whatever the size of the batch."""
    plan = _DIVISOR.plan()
    halves = _null(plan, _DIVISOR.client_pairs)
    halves[:, 0, 0] = MAX_GRAD_NORM
    secrets = ("divisor", "round")
    with_pairs = build.client(plan, halves, secret(seed, *secrets))
    without = build.client(plan, np.zeros_like(halves), secret(seed, *secrets))
    weights = np.zeros(plan.facts.dimension, dtype=np.float32)
    public = _DIVISOR.sample_rate * _DIVISOR.client_pairs
    worst = 0.0
    for number in range(1, 9):
        change = with_pairs.contribute(number, weights) - without.contribute(number, weights)
        moved = -float(plan.grid().to_units(change)[0])
        drawn: Sequence[Sequence[int]] = getattr(with_pairs.source, "drawn", ())
        worst = max(worst, abs(moved * public / MAX_GRAD_NORM - len(drawn[-1])))
    return CheckResult("public divisor", worst < 1e-3, f"off by {worst:.3g} pairs")  # noqa: PLR2004


def _probes(random: np.random.Generator) -> list[npt.NDArray[np.float64]]:
    """Gradient halves of one pair, each shape [2, d], meant to break a clip bound."""
    axis = np.zeros((2, _PROBE.dimension))
    axis[:, 0] = _EXPLODING
    one_sided = axis.copy()
    one_sided[1] = 0.0
    dense = [random.normal(0.0, _EXPLODING, (2, _PROBE.dimension)) for _ in range(6)]
    return [axis, one_sided, *dense, np.full((2, _PROBE.dimension), 1e-9)]


def _contribution(build: Build, plan: RunPlan, halves: Halves, seed: int) -> Steps:
    return build.client(plan, halves, secret(seed, "probe")).contribute(1, _WEIGHTS)


def _null_contribution(build: Build, plan: RunPlan, seed: int, number: int) -> Steps:
    client = build.client(plan, _null(plan), secret(seed, "noise", number), number=number)
    return client.contribute(1, _WEIGHTS)


def _null(plan: RunPlan, pairs: int = 2) -> Halves:
    return np.zeros((pairs, 2, plan.facts.dimension))


def _sensitivity_steps(plan: RunPlan) -> int:
    """The bound of one clipped pair in grid steps; every plan of a self-test clips."""
    return plan.ring.clipper_steps or 0


def _variance_test(
    values: npt.NDArray[np.int64] | npt.NDArray[np.float64], variance: float
) -> tuple[float, float]:
    """Two-sided chi-square p-value of a known variance around 0, and the ratio found."""
    statistic = float((values.astype(np.float64) ** 2).sum() / variance)
    law = stats.chi2(values.size)
    p_value = 2 * min(float(law.sf(statistic)), float(law.cdf(statistic)))
    return min(1.0, p_value), statistic / values.size


def _dispersion_test(counts: npt.NDArray[np.int64], trials: int, rate: float) -> float:
    """Two-sided p-value that counts are Bin(trials, rate), by their spread."""
    spread = float(((counts - trials * rate) ** 2).sum() / (trials * rate * (1 - rate)))
    law = stats.chi2(counts.size)
    return min(1.0, 2 * min(float(law.sf(spread)), float(law.cdf(spread))))


def _correlation(one: Steps, other: Steps) -> float:
    left, right = one.astype(np.float64), other.astype(np.float64)
    size = math.sqrt(float(left @ left) * float(right @ right))
    return abs(float(left @ right)) / size if size else 0.0
