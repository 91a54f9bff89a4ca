"""Adapters that clients keep to themselves, and what to compare the shared one with.

A client's own model is base + shared + personal: its adapter starts as the shared one, goes on
with DPO on the client's own pairs under a pull back to it (Ditto: Li et al. 2021), and is never
sent. The shared adapter and all that anybody else sees do not depend on it, so they keep their
guarantee (joint differential privacy: Kearns et al. 2014). It protects nothing of its client from
whoever may query it, and no figure computed from it is private.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from privfed_dpo.assembly import Assembly
from privfed_dpo.config import Config
from privfed_dpo.engine.contribution import PrivateShard
from privfed_dpo.engine.objective import trained_loss
from privfed_dpo.mechanism.keystream import Entropy
from privfed_dpo.solo import PulledUpdate, Weights, run_optimizer, train_alone

CLIENTS_FOLDER = "clients"
NOT_PRIVATE = (
    "Figures of personal, local_only and centralised adapters are computed from clients' training "
    "pairs without any noise: no epsilon covers them. They exist because this run was a "
    "simulation; in a deployment a client computes its own at home, and nobody can compute "
    "centralised."
)

Accuracies = dict[str, float]


@dataclass(frozen=True, slots=True)
class PersonalAdapter:
    """What a client ends up with.

    Attributes:
        weights: flat adapter, shape [d]; stays with the client.
        steps: how many steps were kept; 0 is the shared adapter itself.
    """

    weights: Weights = field(repr=False)
    steps: int


def fit_personal(
    assembly: Assembly, client: int, shared: Weights, *, entropy: Entropy
) -> PersonalAdapter:
    """Train one client's own adapter at that client.

    Part of the pairs, drawn by the public seed, is kept out and decides after how many steps the
    loss on them was lowest.

    Args:
        assembly: model, loss and the client's pairs.
        client: its number.
        shared: the adapter everybody has, shape [d].
        entropy: source of the client's secrets.
    """
    config, shard = assembly.config.personal, assembly.shards[client]
    kept_out = round(config.validation_share * len(shard.pairs))
    if kept_out < 1 or kept_out == len(shard.pairs):
        return PersonalAdapter(shared, 0)
    order = np.random.default_rng([assembly.config.run.seed, client, 0xD177]).permutation(
        len(shard.pairs)
    )
    validation = _part(shard, order[:kept_out])
    best = PersonalAdapter(shared, 0)
    lowest, steps = _loss(assembly, shared, validation), 0

    def keep_best(weights: Weights) -> None:
        nonlocal best, lowest, steps
        steps += 1
        loss = _loss(assembly, weights, validation)
        if loss < lowest:
            best, lowest = PersonalAdapter(weights.copy(), steps), loss

    rule = run_optimizer(assembly.config)
    train_alone(
        assembly,
        _part(shard, order[kept_out:]),
        start=shared,
        steps=config.steps,
        sample_rate=1.0,
        update=PulledUpdate(
            kind=rule.kind,
            learning_rate=config.learning_rate or rule.learning_rate,
            momentum=rule.momentum,
            anchor=shared.astype(np.float64),
            pull=config.proximal,
        ),
        entropy=entropy,
        after_step=keep_best,
    )
    return best


def compare_clients(
    assembly: Assembly, shared: Weights, folder: Path, *, entropy: Entropy
) -> dict[str, object] | None:
    """Train what the configuration wants to see beside the shared adapter, and measure it.

    Args:
        assembly: the run; its adapter holds `shared` again when this returns.
        shared: the trained adapter, shape [d].
        folder: the run folder, for adapters that are to be kept.
        entropy: source of all secrets.

    Returns:
        Plain data for the summary; None if nothing was asked for, or if the clients' pairs or
        their held-out pairs are not here, see `why_not_compared`.
    """
    config = assembly.config
    wanted = config.evaluation.references
    clients = _compared(assembly)
    if not (wanted or config.personal.enabled) or not clients:
        return None
    arms = {"shared": _accuracies(assembly, ((name, shared) for name in clients))}
    steps: dict[str, int] = {}

    def personal() -> Iterator[tuple[str, Weights]]:
        for name, number in clients.items():
            own = fit_personal(assembly, number, shared, entropy=entropy)
            steps[name] = own.steps
            if config.personal.keep:
                _keep(assembly, number, own, folder)
            yield name, own.weights

    if config.personal.enabled:
        arms["personal"] = _accuracies(assembly, personal())
    if "local_only" in wanted:
        arms["local_only"] = _local_only(assembly, clients, entropy)
    if "centralised" in wanted:
        pooled = _centralised(assembly, entropy)
        arms["centralised"] = _accuracies(assembly, ((name, pooled) for name in clients))
    assembly.source.load(shared)
    return {
        "arms": {arm: _described(found, arms["shared"]) for arm, found in arms.items()},
        "personal_steps": steps or None,
        "settings": _settings(config, assembly),
        "not_private": NOT_PRIVATE,
    }


def why_not_compared(assembly: Assembly) -> str | None:
    """Say why `compare_clients` has nothing to compare; None if it has, or was not asked."""
    config = assembly.config
    if not (config.evaluation.references or config.personal.enabled) or _compared(assembly):
        return None
    if assembly.held_out is None:
        return "there are no held-out pairs"
    if not any(assembly.held_out.users):
        return "no held-out pair belongs to any client"
    return "no client has both its training pairs and held-out pairs here"


def _compared(assembly: Assembly) -> Mapping[str, int]:
    """Number of each client that is compared, by name: those with pairs and held-out pairs here."""
    users = set(assembly.held_out.users) if assembly.held_out else set()
    names = assembly.plan.facts.client_names
    here = [bool(shard.pairs) for shard in assembly.shards]
    able = [number for number, held in enumerate(here) if held and names[number] in users]
    most = assembly.config.evaluation.compared_clients
    if most is not None and most < len(able):
        order = np.random.default_rng([assembly.config.run.seed, 0xC11E]).permutation(len(able))
        able = sorted(able[place] for place in order[:most])
    return {names[number]: number for number in able}


def _keep(assembly: Assembly, number: int, own: PersonalAdapter, folder: Path) -> None:
    """Write a client's adapter where only a simulation has a place for it."""
    assembly.adapter.write(own.weights)
    assembly.adapter.save(folder / CLIENTS_FOLDER / f"{number:05d}")


def _local_only(assembly: Assembly, clients: Mapping[str, int], entropy: Entropy) -> Accuracies:
    def trained() -> Iterator[tuple[str, Weights]]:
        for name, number in clients.items():
            yield name, _reference(assembly, assembly.shards[number], entropy)

    return _accuracies(assembly, trained())


def _centralised(assembly: Assembly, entropy: Entropy) -> Weights:
    """Everybody's pairs in one place."""
    pooled = PrivateShard(
        pairs=tuple(pair for shard in assembly.shards for pair in shard.pairs),
        reference=np.concatenate([shard.reference for shard in assembly.shards]),
    )
    return _reference(assembly, pooled, entropy)


def _reference(assembly: Assembly, shard: PrivateShard, entropy: Entropy) -> Weights:
    """As many steps as the run's, each with as many pairs as there are, at most the run's."""
    return train_alone(
        assembly,
        shard,
        start=assembly.start,
        steps=_run_steps(assembly),
        sample_rate=min(1.0, assembly.plan.expected_batch_pairs / len(shard.pairs)),
        update=run_optimizer(assembly.config),
        entropy=entropy,
    )


def _run_steps(assembly: Assembly) -> int:
    return assembly.plan.rounds * assembly.plan.local_steps


def _accuracies(assembly: Assembly, adapters: Iterator[tuple[str, Weights]]) -> Accuracies:
    measured = {name: assembly.measure.own_accuracy(name, flat) for name, flat in adapters}
    return {name: found for name, found in measured.items() if found is not None}


def _loss(assembly: Assembly, weights: Weights, shard: PrivateShard) -> float:
    """The loss that is trained, on pairs that are not."""
    assembly.source.load(weights)
    metrics, _ = assembly.source.preferences(
        shard.pairs, shard.reference, trained_loss(assembly.config), with_kl=False
    )
    return metrics.loss


def _part(shard: PrivateShard, places: np.ndarray[tuple[int], np.dtype[np.int64]]) -> PrivateShard:
    return replace(
        shard,
        pairs=tuple(shard.pairs[place] for place in places),
        reference=shard.reference[places],
    )


def _described(found: Accuracies, shared: Accuracies) -> dict[str, object]:
    mean = float(np.mean(list(found.values())))
    return {
        "mean": mean,
        "min": min(found.values()),
        "shared_minus_this": float(np.mean(list(shared.values()))) - mean,
        "per_client": found,
    }


def _settings(config: Config, assembly: Assembly) -> dict[str, object]:
    rule = run_optimizer(config)
    return {
        "reference_steps": _run_steps(assembly),
        "reference_pairs_a_step": assembly.plan.expected_batch_pairs,
        "optimizer": rule.kind,
        "learning_rate": rule.learning_rate,
        "momentum": rule.momentum,
        "max_grad_norm": config.privacy.max_grad_norm,
        "personal": config.personal.model_dump(),
    }
