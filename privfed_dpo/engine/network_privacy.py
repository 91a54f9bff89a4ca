"""What one node's view tells about another node's data: a row beside the headline, never one.

Pairwise network privacy (Cyffers, Even, Bellet, Massoulié 2022) asks what node v sees of node u,
which is less than everything if they stand apart, or if v sees sums only. Here it is computed for
the whole view at once, as a linear system (Koskela and Kulkarni 2025): v sees H (g + z), where g
are the others' steps and z the noise in them, so what it learns about them is their projection on
the row space of H. Derivation and limits: decision 0032.

Assumed, and why this is a model and no certificate: every link of the planned graph works in every
round; v looks alone; no node's gradients depend on what it received. The headline assumes none of
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from accounting import (
    Accounting,
    Adversary,
    PoissonGaussianRelease,
    ReleaseSchedule,
    Repeated,
    epsilon_pair,
)
from privfed_dpo.engine.mixing import Reals, mixing_matrix
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.topology import Topology

ASSUMPTIONS = (
    "all links up",
    "one node looks alone",
    "gradients do not depend on what a node received",
)

_MOST_WORK = 1e9
"""Multiplications that a plan spends on this row; larger graphs and longer runs have none."""

_SAME_SPACE = 1e-11
_FULL = 1.0 - 1e-9


@dataclass(frozen=True, slots=True)
class View:
    """What a node sees in every round.

    Attributes:
        masked: whether it sees the weighted sum of its neighbours, or each of them.
        mean: whether it is also given the mean over all nodes.
    """

    masked: bool
    mean: bool = True

    def rows(self, mixing: Reals, node: int) -> Reals:
        """Return one row for each number seen, over the nodes' adapters before mixing, [m, n]."""
        near = mixing[node].copy()
        near[node] = 0.0
        single = np.eye(len(mixing))[near > 0]
        seen = near[None] if self.masked else single
        return np.vstack([seen, np.ones(len(mixing))]) if self.mean else seen


def projected_share(
    mixing: Reals,
    noise_scale: Reals,
    view: View,
    node: int,
    *,
    fresh: Sequence[bool],
) -> Reals:
    """Return how much of each other node's steps one node's view of a run holds.

    Args:
        mixing: the doubly stochastic matrix of every round, shape [n, n].
        noise_scale: standard deviation of the noise in each node's step, shape [n], > 0.
        view: what the node sees.
        node: who looks; it knows its own steps.
        fresh: for each round, whether all nodes take a noisy step before its messages; the first
            is True.

    Returns:
        Shape [n]: the largest eigenvalue c of the projector on the view between the steps of each
        node, in [0, 1]; 0 for the node itself. The view tells no more about a node's steps than
        those steps would under fresh noise of variance 1/c times their own.
    """
    nodes, rounds = len(mixing), len(fresh)
    others = np.arange(nodes) != node
    starts = [number for number in range(rounds) if fresh[number]]
    rows = view.rows(mixing, node)
    powers = [rows]
    for _ in range(rounds - 1):
        powers.append(powers[-1] @ mixing)
    seen = np.zeros((rounds, len(rows), len(starts), nodes - 1))
    scale = noise_scale[others]
    for number in range(rounds):
        for place, start in enumerate(starts):
            if start <= number:
                seen[number, :, place] = powers[number - start][:, others] * scale
    stacked = seen.reshape(rounds * len(rows), -1)
    _, sizes, directions = np.linalg.svd(stacked, full_matrices=False)
    kept = directions[sizes > _SAME_SPACE * sizes[0]].reshape(-1, len(starts), nodes - 1)
    shares = np.zeros(nodes)
    shares[others] = [np.linalg.norm(kept[:, :, u], ord=2) ** 2 for u in range(nodes - 1)]
    return np.minimum(shares, 1.0)


@dataclass(frozen=True, slots=True)
class PairwiseEpsilon:
    """The worst pair at one distance.

    Attributes:
        distance: links between the two nodes.
        share: the largest share of a node's steps that a node at this distance sees.
        epsilon: what that costs a pair of preferences of the node over the run.
    """

    distance: int
    share: float
    epsilon: float


def pairwise_epsilons(plan: RunPlan) -> tuple[PairwiseEpsilon, ...] | None:
    """Price what single nodes see of each other, by distance on the graph.

    Args:
        plan: a plan.

    Returns:
        The worst pair at each distance, ascending; None with a server, without Gaussian noise, for
        graphs that are drawn anew, for averaging before the steps, or where it would take too long.
    """
    gossip = plan.gossip
    schedule = plan.schedule
    if gossip is None or gossip.graph.redraw_rounds is not None or gossip.order != "atc":
        return None
    release = _gaussian(schedule)
    graph = gossip.graph.of_round(1)
    rows = 2 if gossip.masking else max(graph.degrees) + 1
    if release is None or _work(graph, rows, plan.rounds) > _MOST_WORK:
        return None
    pairs = np.array(plan.facts.client_pairs, dtype=np.float64)
    shares = _shares(graph, pairs.min() / pairs, View(gossip.masking is not None), plan.rounds)
    distances = np.array([graph.distances(node) for node in range(graph.nodes)])
    return tuple(
        PairwiseEpsilon(far, share, _epsilon(plan, release, share))
        for far in range(1, int(distances.max()) + 1)
        if (share := float(shares[distances == far].max())) >= 0.0
    )


def describe_pairwise(plan: RunPlan) -> dict[str, object] | None:
    """The row as plain facts, with what it assumes; None where there is none."""
    found = pairwise_epsilons(plan)
    if found is None:
        return None
    return {
        "certified": False,
        "assumptions": list(ASSUMPTIONS),
        "by_distance": [
            {
                "distance": pair.distance,
                "share": round(pair.share, 6),
                "epsilon": round(pair.epsilon, 6),
            }
            for pair in found
        ],
    }


def _shares(graph: Topology, noise_scale: Reals, view: View, rounds: int) -> Reals:
    mixing = mixing_matrix(graph)
    fresh = [True] * rounds
    return np.stack(
        [projected_share(mixing, noise_scale, view, v, fresh=fresh) for v in range(graph.nodes)]
    )


def _gaussian(schedule: ReleaseSchedule) -> Repeated | None:
    """All noisy steps on one record, as sampled Gaussians; None where they are not that."""
    try:
        reduced = replace(schedule, accounting=Accounting.REDUCTION)
    except ValueError:
        return None
    (steps,) = reduced.view(Adversary.COALITION)
    return steps if isinstance(steps.event, PoissonGaussianRelease) else None


def _epsilon(plan: RunPlan, steps: Repeated, share: float) -> float:
    """Price steps of which this share is seen; never above the headline's own model."""
    if share <= 0.0 or not isinstance(steps.event, PoissonGaussianRelease):
        return 0.0
    event = steps.event
    if share < _FULL:
        event = replace(event, noise_multiplier=event.noise_multiplier / share**0.5)
    return epsilon_pair((replace(steps, event=event),), plan.delta, slack=plan.schedule.slack).pld


def _work(graph: Topology, rows: int, rounds: int) -> float:
    return float(graph.nodes) * (graph.nodes * rounds) * (rows * rounds) ** 2
