"""Personal adapters against shared, local-only and centralised ones: tables of the guide.

    .venv/bin/python -m benchmarks.personal --seeds 3
    .venv/bin/python -m benchmarks.personal --search --seeds 2

The first trains one run per seed with all references. The second trains the shared adapter once per
seed, on seeds that no other table uses, and then personal adapters at one change of setting each.
Other configurations and data are given by --config and --set.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from privfed_dpo.config import PersonalConfig, load_config
from privfed_dpo.engine.checkpoint import load_checkpoint
from privfed_dpo.lifecycle import reopen, train
from privfed_dpo.personal import compare_clients

OPPOSED = [
    "data.heterogeneity=0",
    "data.synthetic.opposed_share=0.3",
    "data.synthetic.verdict=own",
    "data.eval_pairs=1000",
    "evaluation.pairs=null",
    "evaluation.every=25",
    "evaluation.gradient_pairs=0",
]
FIRST_SEARCH_SEED = 100
CHANGES: dict[str, dict[str, object]] = {
    "as shipped": {},
    "no pull": {"proximal": 0.0},
    "proximal 0.03": {"proximal": 0.03},
    "proximal 0.1": {"proximal": 0.1},
    "learning_rate 0.2": {"learning_rate": 0.2},
    "steps 60": {"steps": 60},
    "validation_share 0.1": {"validation_share": 0.1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--set", nargs="*", default=OPPOSED, help="section.key=value")
    options = parser.parse_args()
    if options.search:
        search(options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """One run a seed, and a row for each kind of adapter."""
    wanted = ["personal.enabled=true", "evaluation.references=[local_only, centralised]"]
    found = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            changes = [f"run.seed={seed}", f"run.dir={run}", *wanted, *options.set]
            train(load_config(options.config, changes))
            summary = json.loads((run / "summary.json").read_text())
        found.append(summary["comparison"]["arms"])
        print(json.dumps({"seed": seed, "heterogeneity": summary["heterogeneity"]}), flush=True)
    print("| adapter | mean over clients, each seed | mean | worst client, each seed |")
    print("|---|---|---|---|")
    for arm in found[0]:
        print(_row(arm, [one[arm] for one in found]))


def search(options: argparse.Namespace) -> None:
    """Personal adapters beside one shared adapter a seed, one change of setting at a time."""
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in CHANGES}
    for seed in range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            changes = [f"run.seed={seed}", f"run.dir={run}", *options.set]
            train(load_config(options.config, [*changes, "evaluation.compared_clients=10"]))
            assembly = reopen(run)
            checkpoint = load_checkpoint(
                run / "checkpoint",
                plan_hash=assembly.plan.plan_hash,
                data_fingerprint=assembly.data_fingerprint,
            )
            shared = checkpoint.state.weights.astype(np.float32)
            for name, change in CHANGES.items():
                personal = PersonalConfig(enabled=True, **change)  # type: ignore[arg-type]
                config = assembly.config.model_copy(update={"personal": personal})
                compared = compare_clients(
                    replace(assembly, config=config), shared, run, entropy=secrets.token_bytes
                )
                arms = compared["arms"]  # type: ignore[index]
                found[name].append(arms["personal"])
                print(
                    f"{seed} {name}", arms["personal"]["mean"], arms["shared"]["mean"], flush=True
                )
    print("| one change | mean over clients, each seed | mean | worst client, each seed |")
    print("|---|---|---|---|")
    for name, ends in found.items():
        print(_row(name, ends))


def _row(name: str, ends: list[Mapping[str, float]]) -> str:
    means = [end["mean"] for end in ends]
    cells = [
        name,
        " ".join(f"{100 * mean:.1f}" for mean in means),
        f"{100 * statistics.mean(means):.1f} %",
        " ".join(f"{100 * end['min']:.1f}" for end in ends),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
