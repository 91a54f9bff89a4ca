"""Measurements on held-out pairs after a round: unclipped, without noise, not on private data.

Held-out pairs are the coordinator's to see. Nothing here touches training pairs, so nothing here
costs privacy; whoever passes private pairs as held-out data breaks that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.evaluate import PreferenceMetrics
from privfed_dpo.dpo.gradient_metrics import Group, gradient_metrics
from privfed_dpo.dpo.loss import PairLoss


class MeasuredPolicy(Protocol):
    """The model as the coordinator sees it: flat weights in, metrics of public pairs out."""

    def load(self, weights: npt.NDArray[np.float32]) -> None:
        """Put the flat adapter, shape [d], into the model."""

    def preferences(
        self,
        pairs: Sequence[TokenizedPair],
        reference: npt.NDArray[np.floating],
        loss: PairLoss,
        *,
        with_kl: bool = True,
    ) -> tuple[PreferenceMetrics, npt.NDArray[np.float64]]:
        """Measure the loaded adapter, as `evaluate_preferences` does."""

    def pair_gradients(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.floating]
    ) -> Iterator[torch.Tensor]:
        """Yield raw gradients in micro-batches, shape [b, d], one row per pair, in any order."""


@dataclass(frozen=True, slots=True)
class HeldOutPairs:
    """Held-out pairs with their reference and with the client whose taste each one shows.

    Attributes:
        pairs: n pairs.
        reference: shape [n, 2], reference log-probabilities.
        users: n client names; an empty string where the data name none, or somebody who is no
            client of this run.
        gradient_places: which of them are used for gradient metrics, in their order.
    """

    pairs: tuple[TokenizedPair, ...] = field(repr=False)
    reference: npt.NDArray[np.float32] = field(repr=False)
    users: tuple[str, ...] = field(repr=False)
    gradient_places: tuple[int, ...]

    def gradient_groups(self) -> Mapping[str, Group]:
        """The pairs at `gradient_places`, by user."""
        groups = _by_user([self.users[i] for i in self.gradient_places])
        return {user: self._group(chosen) for user, chosen in groups.items()}

    def gradient_group(self) -> Group:
        """The same pairs all together, in their order."""
        return self._group(range(len(self.gradient_places)))

    def only(self, places: Sequence[int]) -> HeldOutPairs:
        """Some of the pairs, without gradient metrics."""
        return HeldOutPairs(
            pairs=tuple(self.pairs[i] for i in places),
            reference=self.reference[list(places)],
            users=tuple(self.users[i] for i in places),
            gradient_places=(),
        )

    def _group(self, chosen: Sequence[int]) -> Group:
        places = [self.gradient_places[i] for i in chosen]
        return [self.pairs[i] for i in places], self.reference[places]


class HeldOutMeasure:
    """Measures a global adapter; called with flat weights, gives fields of MetricsRow.

    Args:
        policy: the model.
        held_out: the pairs; None measures nothing.
        max_grad_norm: clip bound the clip fraction refers to; None leaves it out.
        loss: what is measured; not always what is trained.
    """

    def __init__(
        self,
        policy: MeasuredPolicy,
        held_out: HeldOutPairs | None,
        *,
        max_grad_norm: float | None,
        loss: PairLoss,
    ) -> None:
        self._loss = loss
        self._policy = policy
        self._held_out = held_out
        self._max_grad_norm = max_grad_norm

    def __call__(self, weights: npt.NDArray[np.float32]) -> Mapping[str, float | None]:
        """Load the weights and measure loss, accuracy, margin, kl and gradient metrics."""
        if self._held_out is None:
            return {}
        self._policy.load(weights)
        margins, measured = self._preferences(self._held_out)
        del margins
        if self._held_out.gradient_places:
            measured |= self._gradient_metrics(self._held_out)
        return measured

    def per_client_accuracy(self, weights: npt.NDArray[np.float32]) -> dict[str, float] | None:
        """Held-out accuracy of every client with held-out pairs; None if no client has any."""
        held_out = self._held_out
        if held_out is None or not any(held_out.users):
            return None
        self._policy.load(weights)
        margins, _ = self._preferences(held_out)
        right = (margins > 0) + 0.5 * (margins == 0)
        return {
            user: float(right[[i for i, u in enumerate(held_out.users) if u == user]].mean())
            for user in sorted(set(held_out.users) - {""})
        }

    def own_accuracies(
        self, weights: Mapping[str, npt.NDArray[np.float32]]
    ) -> Mapping[str, float | None]:
        """Lowest and mean accuracy of clients' own adapters, each on its own held-out pairs.

        Args:
            weights: flat adapters by client name; clients without held-out pairs are left out.
        """
        found = [
            accuracy
            for client, flat in weights.items()
            if (accuracy := self.own_accuracy(client, flat)) is not None
        ]
        if not found:
            return {}
        return {
            "client_accuracy_min": min(found),
            "client_accuracy_mean": float(np.mean(found)),
        }

    def own_accuracy(self, client: str, weights: npt.NDArray[np.float32]) -> float | None:
        """Accuracy of an adapter on one client's held-out pairs; None if there are none."""
        held_out = self._held_out
        places = _by_user(held_out.users).get(client) if held_out else None
        if held_out is None or not places:
            return None
        self._policy.load(weights)
        margins, _ = self._preferences(held_out.only(places))
        return float(((margins > 0) + 0.5 * (margins == 0)).mean())

    def _preferences(
        self, held_out: HeldOutPairs
    ) -> tuple[npt.NDArray[np.float64], dict[str, float | None]]:
        metrics, margins = self._policy.preferences(held_out.pairs, held_out.reference, self._loss)
        return margins, {
            "loss": metrics.loss,
            "reward_accuracy": metrics.reward_accuracy,
            "reward_margin": metrics.reward_margin,
            "kl": metrics.kl,
        }

    def _gradient_metrics(self, held_out: HeldOutPairs) -> dict[str, float | None]:
        bound = self._max_grad_norm
        groups = held_out.gradient_groups()
        metrics = gradient_metrics(self._policy.pair_gradients, groups, bound or np.inf)
        return {
            "grad_norm_sq": metrics.grad_norm_sq,
            "heterogeneity": metrics.heterogeneity if len(groups) > 1 else None,
            "clip_fraction": metrics.clip_fraction if bound else None,
        }


def _by_user(users: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, user in enumerate(users):
        places.setdefault(user, []).append(place)
    return places


def choose_held_out(count: int, limit: int | None, *, seed: int) -> Sequence[int]:
    """Pick which held-out pairs are used: all, or `limit` of them by the public seed, in order."""
    if limit is None or limit >= count:
        return range(count)
    chosen = np.random.default_rng([seed, 0xE7A1]).permutation(count)[:limit]
    return [int(i) for i in np.sort(chosen)]
