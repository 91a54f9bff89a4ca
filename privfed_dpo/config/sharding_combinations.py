"""Combinations that cannot work where a base is spread over processes."""

from __future__ import annotations

from privfed_dpo.config.sections import Config

_FEWEST_PROCESSES = 2


def sharding_problems(config: Config) -> list[str]:
    """Return one sentence for each contradiction around `run.shard_base`."""
    run, model = config.run, config.model
    if not run.shard_base:
        return []
    problems: list[str] = []
    if run.processes < _FEWEST_PROCESSES:
        problems.append(
            f"run.shard_base=true spreads the base over processes, and run.processes="
            f"{run.processes} is too few: take one per GPU, at least {_FEWEST_PROCESSES}"
        )
    if model.quantization != "none":
        problems.append(
            f"run.shard_base=true cannot cut weights packed by model.quantization="
            f"{model.quantization} into rows: use one of the two, quantization first if that is "
            "enough"
        )
    if model.adapter.full_weights:
        problems.append(
            "model.adapter.full_weights trains matrices as large as the base, whole in every "
            "process, so that run.shard_base=true would save nothing: train an adapter"
        )
    if model.device.startswith("cuda:"):
        problems.append(
            f"run.shard_base=true takes one GPU per process, by rank; model.device={model.device} "
            "names a single one: use auto, cuda or cpu"
        )
    return problems
