"""Combinations around drift between clients that cannot work, or would do nothing."""

from __future__ import annotations

from privfed_dpo.config.sections import Config


def drift_problems(config: Config) -> list[str]:
    """Return one sentence for each contradiction around FedProx, SCAFFOLD and late clients."""
    return _proximal(config) + _scaffold(config) + _staleness(config)


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


def _scaffold(config: Config) -> list[str]:
    federation, mode = config.federation, config.privacy.mode
    if federation.drift_control != "scaffold":
        return []
    problems: list[str] = []
    if config.decentralised:
        problems.append(
            "federation.drift_control=scaffold needs a server that keeps the mean control variate; "
            "without one use federation.proximal"
        )
    elif mode == "distributed":
        problems.append(
            "federation.drift_control=scaffold corrects local steps, and privacy.mode=distributed "
            "has none: its noise covers one sum of pair gradients; use privacy.mode=local"
        )
    elif mode == "user":
        problems.append(
            "federation.drift_control=scaffold is not for privacy.mode=user: only sums are noised "
            "there, so the noise on control variates would add up in the server's mean from round "
            "to round while no client's own one holds it; use federation.proximal, or "
            "privacy.mode=local"
        )
    if federation.local_steps == 1 and federation.cohort is None:
        problems.append(
            "federation.drift_control=scaffold does nothing with federation.local_steps=1 and all "
            "clients in every round: corrections add up to zero; take more local steps, or a cohort"
        )
    if federation.proximal > 0.0:
        problems.append(
            "federation.drift_control=scaffold takes no federation.proximal: control variates "
            "would hold the pull beside the gradients; use one of them"
        )
    if federation.max_staleness:
        problems.append(
            "federation.drift_control=scaffold takes no federation.max_staleness: a late client's "
            "control variate belongs to another round than the server's; set it to 0"
        )
    return problems


def _staleness(config: Config) -> list[str]:
    federation = config.federation
    problems: list[str] = []
    if federation.max_staleness and config.decentralised:
        problems.append(
            "federation.max_staleness is about adapters that a server sends; without one use "
            "gossip.link_dropout and gossip.node_dropout"
        )
    if federation.max_staleness >= federation.rounds:
        problems.append(
            f"federation.max_staleness={federation.max_staleness} is not below "
            f"federation.rounds={federation.rounds}: no adapter is that old"
        )
    return problems
