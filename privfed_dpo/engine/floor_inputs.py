"""What the floor of a run is predicted from: its plan, and gradients on held-out pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from accounting import Mode
from privfed_dpo.engine.floor_law import RoundLaw
from privfed_dpo.engine.mixing import Spectrum, mixing_matrix
from privfed_dpo.engine.plan import RunPlan

Reals = npt.NDArray[np.float64]


class HeldOutSlopes(Protocol):
    """Gradients on held-out pairs, unclipped and without noise."""

    @property
    def pairs(self) -> int:
        """How many pairs there are."""

    @property
    def groups(self) -> int:
        """Clients with at least two held-out pairs."""

    def mean(self, weights: Reals) -> Reals:
        """Mean gradient of all pairs at an adapter, shape [d]."""

    def rows(self, weights: Reals) -> Iterator[Reals]:
        """Every pair's gradient, in batches of shape [b, d]."""

    def half(self, weights: Reals, group: int, half: int) -> Reals:
        """Mean gradient of one half, 0 or 1, of a client's pairs, shape [d]."""


@dataclass(frozen=True, slots=True)
class NoiseLevels:
    """How strong the sources of noise are, as they enter the mean of a round.

    Attributes:
        sampling: variance of one step's mean gradient, in units of E g g^T over pairs.
        privacy: variance a coordinate of one step's mean gradient; of the mean change itself if
            noise is added to sums of updates.
        privacy_in_sum: whether noise is added to sums of updates (user mode).
        participation: (N-S) / (S (N-1)).
        clients: S, clients behind a mean.
        pair_bound: clip bound on a pair's gradient; infinite without one.
        corrected: whether control variates remove drift and participation.
        eigenvalues: without a server, those of the mixing matrix but the first.
    """

    sampling: float
    privacy: float = 0.0
    privacy_in_sum: bool = False
    participation: float = 0.0
    clients: int = 1
    pair_bound: float = float("inf")
    corrected: bool = False
    eigenvalues: tuple[float, ...] | None = None


def unpredictable(plan: RunPlan) -> str | None:
    """Why the laws do not cover a run; None if they do."""
    gossip = plan.gossip
    if gossip is None and plan.objective["server_optimizer"] != "sgd":
        return "the laws are those of SGD at the server, not of an adaptive optimizer"
    if gossip is not None and gossip.graph.redraw_rounds is not None:
        return "the laws are those of one graph, and this one is drawn anew"
    if plan.drift.scaffold and plan.cohort < len(plan.facts.client_names):
        return "the noise in old control variates is not part of the laws"
    return None


def round_law(plan: RunPlan, rounds: int) -> RoundLaw:
    """Return the law of a plan's rounds.

    Args:
        plan: a plan that is not `unpredictable`.
        rounds: rounds whose sum was opened, >= 1.
    """
    objective, with_server = plan.objective, plan.gossip is None
    return RoundLaw(
        local_rate=1.0 if plan.sums_gradients else _number(objective["local_learning_rate"]),
        local_steps=plan.local_steps,
        proximal=plan.drift.proximal,
        server_rate=_number(objective["learning_rate"]) if with_server else 1.0,
        momentum=_number(objective["momentum"]) if with_server else 0.0,
        rounds=rounds,
        max_staleness=plan.drift.max_staleness,
    )


def noise_levels(plan: RunPlan, survivors: float) -> NoiseLevels:
    """Return the strength of each noise.

    Args:
        plan: the run's plan.
        survivors: mean number of clients behind an opened sum.
    """
    clients, cohort = len(plan.facts.client_names), plan.cohort
    sampled = 1.0 / plan.sample_rate - 1.0
    if plan.sums_gradients:
        sampling = sampled * clients / (cohort * plan.facts.pairs_total)
    else:
        sampling = sampled * float(np.mean(1.0 / np.array(plan.facts.client_pairs))) / cohort
    graph = plan.gossip.graph.of_round(1) if plan.gossip else None
    spread = (clients - cohort) / (cohort * (clients - 1)) if clients > 1 else 0.0
    return NoiseLevels(
        sampling=sampling,
        privacy=_privacy(plan, survivors),
        privacy_in_sum=plan.mode is Mode.USER,
        participation=0.0 if plan.drift.scaffold else spread,
        clients=cohort,
        pair_bound=plan.max_grad_norm or float("inf"),
        corrected=plan.drift.scaffold,
        eigenvalues=Spectrum.of(mixing_matrix(graph)).eigenvalues[1:] if graph else None,
    )


def _privacy(plan: RunPlan, survivors: float) -> float:
    if plan.noise is None:
        return 0.0
    share = plan.noise.share_stddev_steps
    if plan.mode is Mode.USER:
        return survivors * (share / (plan.grid().steps_per_unit * plan.cohort)) ** 2
    own = share / plan.gradient_steps_per_unit()
    if plan.sums_gradients:
        return survivors * (own / plan.expected_batch_pairs) ** 2
    divisors = plan.sample_rate * np.array(plan.facts.client_pairs)
    return float(np.mean((own / divisors) ** 2)) / plan.cohort


def _number(value: object) -> float:
    return float(str(value))
