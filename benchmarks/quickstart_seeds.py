"""The quickstart over several seeds, private and not: the table in the README.

    .venv/bin/python -m benchmarks.quickstart_seeds --seeds 3

Data, model, adapter and cohorts change with the seed. Both arms share every other setting, the clip
norm included; only the noise is left out in the baseline.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from privfed_dpo.config import load_config
from privfed_dpo.lifecycle import train

ARMS = {
    "distributed, epsilon 8": ["privacy.mode=distributed", "privacy.target_epsilon=8"],
    "distributed, epsilon 3": ["privacy.mode=distributed", "privacy.target_epsilon=3"],
    "distributed, epsilon 1": ["privacy.mode=distributed", "privacy.target_epsilon=1"],
    "not private": ["privacy.mode=none"],
    "without a server, epsilon 8": ["privacy.mode=gossip", "privacy.target_epsilon=8"],
    "without a server, not private": ["privacy.mode=none", "gossip.enabled=true"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), help="all that fit the config")
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value for every run")
    options = parser.parse_args()
    print("| run | accuracy, each seed | mean | margin | KL | epsilon | survivors | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for arm in options.arms or fitting_arms(options.config):
        print(row(arm, options), flush=True)


def fitting_arms(config: Path) -> list[str]:
    """Arms with a server, or those without one, as the config is written for."""
    decentralised = load_config(config).decentralised
    return [arm for arm in ARMS if arm.startswith("without a server") == decentralised]


def row(arm: str, options: argparse.Namespace) -> str:
    """Train all seeds of one arm and lay them out as a table row."""
    ends = [finish(options, seed, ARMS[arm]) for seed in range(options.seeds)]
    finals = [end["final"] for end in ends]
    accuracies = [final["reward_accuracy"] for final in finals]
    epsilons = [end["epsilon"]["coalition"]["pld"] for end in ends]
    cells = [
        arm,
        " ".join(f"{100 * value:.1f}" for value in accuracies),
        f"{100 * statistics.mean(accuracies):.1f} %",
        f"{statistics.mean(final['reward_margin'] for final in finals):.2f}",
        f"{statistics.mean(final['kl'] for final in finals):.1f}",
        "none" if epsilons[0] is None else f"{max(epsilons):.3f}",
        f"{statistics.mean(end['survivors']['mean'] for end in ends):.1f}",
        f"{statistics.mean(end['seconds_total'] for end in ends):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def finish(options: argparse.Namespace, seed: int, arm: list[str]) -> dict:
    """Train once in a temporary folder and return its summary."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        overrides = [f"run.seed={seed}", f"run.dir={run}", *arm, *options.set]
        train(load_config(options.config, overrides))
        return json.loads((run / "summary.json").read_text())


if __name__ == "__main__":
    main()
