"""E11: a small language model under the real engine keeps the orderings.

Every arm is a whole run of the product (`privfed_dpo.lifecycle.train`) on the embedded task. Arms
take the same number of local steps in all, and are compared by where the adapter ends: its squared
distance from the arm with everybody in every round, K = 1, and no noise.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from experiments.findings import Chart, Curve, Effort, Experiment, Finding, Outcome
from experiments.fitting import log_slope, over_seeds, ratio_over_seeds
from experiments.population import Reals
from experiments.predict import participation_factor
from privfed_dpo.config import parse_config
from privfed_dpo.lifecycle import train

CLIENTS, PAIRS, STEPS, RATE = 8, 12, 24, 0.1
SETTINGS = f"""
run: {{threads: 1}}
data: {{clients: {CLIENTS}, pairs_per_client: {PAIRS}, eval_pairs: 200}}
model: {{base: tiny-llama, adapter: {{rank: 2, target_modules: [o_proj, down_proj]}}}}
dpo: {{beta: 1.0}}
privacy: {{mode: none, max_grad_norm: null, sample_rate: 1.0}}
federation: {{rounds: {STEPS}, server_optimizer: sgd, learning_rate: 1.0, momentum: 0.0}}
secure_agg: {{enabled: false}}
evaluation: {{every: 1000, pairs: 200, gradient_pairs: 0}}
"""
LOCAL_STEPS = (2, 4, 8)
COHORTS = (1, 2, 4)
NOISE_MULTIPLIERS = (0.1, 0.2, 0.4)
CLIP = 1.0
"""Above nearly every pair's gradient norm here, so that clipping hardly moves the end."""

OPPOSED = 0.5
MOST_SEEDS = 4


def run(effort: Effort) -> Outcome:
    """Train all arms over a few seeds and fit how far they end from the centralised one."""
    arms = [_Arms.trained(seed) for seed in range(min(effort.seeds, MOST_SEEDS))]
    factors = [participation_factor(CLIENTS, size) for size in COHORTS]
    weights = arms[0].central.size
    variance = RATE**2 * STEPS * (CLIP / PAIRS) ** 2 * weights / CLIENTS
    predicted = [variance * z**2 for z in NOISE_MULTIPLIERS]
    drift = [arm.distances(arm.drift) for arm in arms]
    cohorts = [arm.distances(arm.cohorts) for arm in arms]
    noise = [arm.distances(arm.noise) for arm in arms]
    findings = (
        Finding(
            "LM: with everybody and K = 1 it does not matter who holds which pair",
            "0",
            "relative distance, dealt at random",
            over_seeds([arm.dealt for arm in arms]),
            (-1e-5, 1e-5),
        ),
        Finding(
            "LM: more local steps end farther away, at equal K R",
            "above 0",
            "slope over K-1",
            over_seeds([log_slope([k - 1 for k in LOCAL_STEPS], row) for row in drift]),
            (0.5, np.inf),
        ),
        Finding(
            "LM: drift grows as tastes are opposed (each taste flipped with probability 1/2)",
            "above 1",
            "relative drift at K = 8 over common tastes",
            ratio_over_seeds([arm.opposed / arm.common for arm in arms]),
            (1.0, np.inf),
        ),
        Finding(
            "LM: larger cohorts end nearer (invited as the engine does)",
            "above 0",
            "slope over (N-S)/(S(N-1))",
            over_seeds([log_slope(factors, row) for row in cohorts]),
            (0.5, np.inf),
        ),
        Finding(
            "LM: more local privacy noise ends farther away",
            "above 0",
            "slope over z",
            over_seeds([log_slope(NOISE_MULTIPLIERS, row) for row in noise]),
            (0.5, np.inf),
        ),
        Finding(
            "LM: ... by the variance of E10, eta^2 R z^2 C^2 d / (n^2 N)",
            "1",
            "measured / predicted",
            ratio_over_seeds([np.exp(np.log(np.divide(row, predicted)).mean()) for row in noise]),
            (0.85, 1.2),
        ),
        Finding(
            "LM: it learns: held-out accuracy, from 0.5 by construction",
            "above 0.5",
            "accuracy, centralised",
            over_seeds([arm.accuracy for arm in arms]),
            (0.5, 1.0),
        ),
    )
    notes = ("Four seeds show orderings, not exponents: the intervals of both slopes are wide.",)
    return Outcome(findings, _chart(np.array(drift), np.array(noise), predicted), notes)


class _Arms:
    """Where the arms of one seed end.

    Attributes:
        central: adapter of the arm with everybody, K = 1 and no noise, [d].
        accuracy: its held-out accuracy.
        dealt: relative distance of the same arm with pairs dealt at random.
        drift: adapters by K.
        cohorts: adapters by S.
        noise: adapters by z.
        common: squared distance of K = 8 from K = 1, relative to the way, where tastes are common.
        opposed: the same where they are opposed.
    """

    central: Reals
    accuracy: float
    dealt: float
    drift: list[Reals]
    cohorts: list[Reals]
    noise: list[Reals]
    common: float
    opposed: float

    @classmethod
    def trained(cls, seed: int) -> _Arms:
        """Train them all."""
        arms = cls()
        arms.central, arms.accuracy = _end(seed)
        dealt, _ = _end(seed, "data.partition=iid")
        arms.dealt = float(np.linalg.norm(dealt - arms.central) / np.linalg.norm(arms.central))
        arms.drift = [_end(seed, *_local(k))[0] for k in LOCAL_STEPS]
        arms.cohorts = [_end(seed, f"federation.cohort={size}")[0] for size in COHORTS]
        arms.noise = [_end(seed, *_noisy(z))[0] for z in NOISE_MULTIPLIERS]
        arms.common, arms.opposed = (_relative_drift(seed, flips) for flips in (0.0, OPPOSED))
        return arms

    def distances(self, ends: list[Reals]) -> list[float]:
        """Squared distances from the central arm."""
        return [float(((end - self.central) ** 2).sum()) for end in ends]


def _local(local_steps: int) -> tuple[str, ...]:
    return (
        f"federation.local_steps={local_steps}",
        f"federation.rounds={STEPS // local_steps}",
    )


def _noisy(multiplier: float) -> tuple[str, ...]:
    return (
        "privacy.mode=local",
        f"privacy.max_grad_norm={CLIP}",
        f"privacy.noise_multiplier={multiplier}",
        "privacy.delta=1e-5",
    )


def _relative_drift(seed: int, flips: float) -> float:
    """Squared distance between K = 8 and K = 1 over the squared way that K = 1 went."""
    tastes = f"data.heterogeneity={flips}"
    start, _ = _end(seed, tastes, "federation.rounds=1", "federation.local_learning_rate=1e-9")
    once, _ = _end(seed, tastes)
    often, _ = _end(seed, tastes, *_local(LOCAL_STEPS[-1]))
    return float(((often - once) ** 2).sum() / ((once - start) ** 2).sum())


def _end(seed: int, *overrides: str) -> tuple[Reals, float]:
    """Train one arm; return its adapter, [d], and its held-out accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        fixed = (f"run.seed={seed}", f"run.dir={place}", f"federation.local_learning_rate={RATE}")
        train(parse_config(SETTINGS, [*fixed, *overrides]))
        tensors = load_file(place / "adapter" / "adapter_model.safetensors")
        summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
    flat = [tensors[name].ravel() for name in sorted(tensors)]
    return np.concatenate(flat).astype(np.float64), float(summary["final"]["reward_accuracy"])


def _chart(drift: Reals, noise: Reals, predicted: list[float]) -> Chart:
    x = [k - 1 for k in LOCAL_STEPS]
    mean, measured = np.exp(np.log(drift).mean(axis=0)), np.exp(np.log(noise).mean(axis=0))
    law = [float(mean[0]) * (k - 1) ** 2 for k in LOCAL_STEPS]
    curves = (
        Curve("drift, x = K - 1", x, mean, drift),
        Curve("(K - 1)^2", x, law, drawn="line"),
        Curve("privacy noise, x = z", NOISE_MULTIPLIERS, measured, noise),
        Curve("predicted", NOISE_MULTIPLIERS, predicted, drawn="line"),
    )
    return Chart(
        "A small language model", "K - 1, or z", "squared distance from centralised", curves
    )


EXPERIMENT = Experiment(
    key="E11",
    title="A small language model keeps the orderings",
    setting=f"embedded task, a Llama of 100 thousand weights, LoRA rank 2, {CLIENTS} clients with "
    f"{PAIRS} pairs, eta = {RATE}, K R = {STEPS}, full batches, {MOST_SEEDS} seeds at most",
    source="the real engine, privfed_dpo.lifecycle.train",
    run=run,
    long=True,
)
