"""The search behind the shipped settings: one key at a time around them, on seeds never reported.

    .venv/bin/python -m benchmarks.search --seeds 3 --first-seed 100

The embedded task is public, so searching it costs no privacy; with private data it would.
docs/tuning.md shows what came out.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.quickstart_seeds import finish

VARIANTS: dict[str, list[str]] = {
    "as shipped": [],
    "learning_rate 0.2": ["federation.learning_rate=0.2"],
    "learning_rate 1": ["federation.learning_rate=1.0"],
    "learning_rate 2": ["federation.learning_rate=2.0"],
    "adam, 0.01": ["federation.server_optimizer=adam", "federation.learning_rate=0.01"],
    "max_grad_norm 0.03, learning_rate 1.5": [
        "privacy.max_grad_norm=0.03",
        "federation.learning_rate=1.5",
    ],
    "max_grad_norm 0.3": ["privacy.max_grad_norm=0.3"],
    "max_grad_norm 1": ["privacy.max_grad_norm=1.0"],
    "rounds 12, learning_rate 1": ["federation.rounds=12", "federation.learning_rate=1.0"],
    "rounds 50, learning_rate 0.25": ["federation.rounds=50", "federation.learning_rate=0.25"],
    "sample_rate 0.05": ["privacy.sample_rate=0.05"],
    "sample_rate 0.5": ["privacy.sample_rate=0.5"],
    "beta 0.3": ["dpo.beta=0.3"],
    "beta 3": ["dpo.beta=3.0"],
    "rank 1": ["model.adapter.rank=1"],
    "rank 16": ["model.adapter.rank=16"],
    "FFA (only B is trained)": ["model.adapter.freeze_a=true"],
    "query and value": ["model.adapter.target_modules=[q_proj,v_proj]"],
    "all linear layers": [
        "model.adapter.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]"
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value for every run")
    options = parser.parse_args()
    options.set = [*options.set, "evaluation.gradient_pairs=0", "evaluation.every=100"]
    print(f"| one change, epsilon {options.epsilon:g} | accuracy | from - to | loss | KL |")
    print("|---|---|---|---|---|")
    for name in options.variants:
        arm = [f"privacy.target_epsilon={options.epsilon}", *VARIANTS[name]]
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        finals = [finish(options, seed, arm)["final"] for seed in seeds]
        accuracies = [100 * final["reward_accuracy"] for final in finals]
        print(
            f"| {name} | {statistics.mean(accuracies):.1f} % "
            f"| {min(accuracies):.1f} - {max(accuracies):.1f} "
            f"| {statistics.mean(final['loss'] for final in finals):.3f} "
            f"| {statistics.mean(final['kl'] for final in finals):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
