"""Combinations around drift between clients that cannot work, or would do nothing."""

from __future__ import annotations

from privfed_dpo.config.sections import Config


def drift_problems(config: Config) -> list[str]:
    """Return one sentence for each contradiction around FedProx."""
    return _proximal(config)


def _proximal(config: Config) -> list[str]:
    federation = config.federation
    strength, rate = federation.proximal, federation.local_learning_rate
    if strength == 0.0:
        return []
    problems: list[str] = []
    if federation.local_steps == 1:
        problems.append(
            f"federation.proximal={strength:g} does nothing with federation.local_steps=1: the "
            "first step begins where the pull is zero; set it to 0, or take more local steps"
        )
    if strength * rate > 1.0:
        problems.append(
            f"federation.proximal={strength:g} times federation.local_learning_rate={rate:g} is "
            "above 1: a step back would overshoot where the round began; lower one of them"
        )
    return problems
