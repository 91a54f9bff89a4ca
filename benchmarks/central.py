"""Central DP-SGD on the pooled pairs, by Opacus' own engine: what distributed mode is held against.

    .venv/bin/python -m benchmarks.central --seeds 5 --epsilons 8 3 1

Everybody's pairs lie in one place here, and one party adds all the noise. Sampler, clipping, noise,
optimizer and accountant are Opacus'; model, adapter, loss, rounds, clip norm, step size and seeds
are the config's. Opacus draws its noise from torch's generator, which is fine for a yardstick.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from opacus import PrivacyEngine
from opacus.accountants.utils import get_noise_multiplier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from privfed_dpo.assembly import Assembly, assemble
from privfed_dpo.config import Config, load_config
from privfed_dpo.dpo.evaluate import evaluate_preferences
from privfed_dpo.model.logprobs import completion_logprobs
from privfed_dpo.model.pair_batch import PairBatch


class PairPolicy(nn.Module):
    """The policy as Opacus wants it: one packed row per pair in, two log-probabilities out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PairBatch) -> torch.Tensor:
        """Score a batch, float32 [B, 2]."""
        return completion_logprobs(self.model, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epsilons", nargs="*", type=float, default=[8.0, 3.0, 1.0])
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value for every run")
    options = parser.parse_args()
    print("| central, Opacus' engine | accuracy, each seed | mean | margin | KL | epsilon spent |")
    print("|---|---|---|---|---|---|")
    for epsilon in options.epsilons:
        ends = [train_centrally(options, seed, epsilon) for seed in range(options.seeds)]
        accuracies = [end.reward_accuracy for end, _ in ends]
        cells = [
            f"epsilon {epsilon:g}",
            " ".join(f"{100 * value:.1f}" for value in accuracies),
            f"{100 * statistics.mean(accuracies):.1f} %",
            f"{statistics.mean(end.reward_margin for end, _ in ends):.2f}",
            f"{statistics.mean(end.kl for end, _ in ends):.1f}",
            f"{max(spent for _, spent in ends):.3f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def train_centrally(options: argparse.Namespace, seed: int, epsilon: float):
    """One run; returns the held-out metrics and the epsilon of Opacus' accountant."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"run.seed={seed}", "privacy.mode=none", *options.set]
        config = load_config(options.config, overrides)
        parts = assemble(config, base_folder=Path(folder))
        engine = _train(config, parts, epsilon)
        metrics, _ = evaluate_preferences(
            parts.adapter,
            parts.held_out.pairs,
            parts.held_out.reference,
            beta=config.dpo.beta,
            scorer=parts.gradients.scorer,
        )
        return metrics, engine.get_epsilon(parts.plan.delta)


def _train(config: Config, parts: Assembly, epsilon: float) -> PrivacyEngine:
    pairs = [pair for shard in parts.shards for pair in shard.pairs]
    reference = np.concatenate([shard.reference for shard in parts.shards])
    federation, privacy = config.federation, config.privacy
    # Only the pairs of a round's cohort take part in it, so a round samples this share of all.
    rate = privacy.sample_rate * parts.plan.cohort / len(parts.shards)
    noise = get_noise_multiplier(
        target_epsilon=epsilon,
        target_delta=parts.plan.delta,
        sample_rate=rate,
        steps=federation.rounds,
        accountant="prv",
    )
    engine = PrivacyEngine(accountant="prv")
    model, optimizer, loader = engine.make_private(
        module=PairPolicy(parts.adapter.model).train(),
        optimizer=torch.optim.SGD(
            parts.adapter.parameters, lr=federation.learning_rate, momentum=federation.momentum
        ),
        data_loader=DataLoader(
            TensorDataset(torch.arange(len(pairs))), batch_size=round(rate * len(pairs))
        ),
        noise_multiplier=noise,
        max_grad_norm=privacy.max_grad_norm,
        loss_reduction="mean",
    )
    batches = _forever(loader)
    for _ in range(federation.rounds):
        drawn = next(batches).numpy()
        optimizer.zero_grad()
        batch = parts.gradients.scorer.batch([pairs[i] for i in drawn])
        fixed = torch.from_numpy(reference[drawn])
        losses = parts.gradients.loss(model(batch), fixed, batch.completion_lengths)
        losses.mean().backward()
        optimizer.step()
    # Take the hooks off again: the held-out pairs need no gradients.
    model.remove_hooks()
    return engine


def _forever(loader: DataLoader) -> Iterator[torch.Tensor]:
    while True:
        for (drawn,) in loader:
            yield drawn


if __name__ == "__main__":
    main()
