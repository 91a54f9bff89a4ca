"""Whether a client agrees to a plan, before it loads a model or touches a pair."""

from __future__ import annotations

import math

from privfed_dpo.config.client_policy import LimitsConfig
from privfed_dpo.engine.plan import RunPlan


def objections(plan: RunPlan, limits: LimitsConfig) -> list[str]:
    """Return why a client with these limits does not take part; empty if it does.

    What the runs so far have spent is not looked at here: see `OwnLedgers`.

    Args:
        plan: made by the client itself from the run's public description.
        limits: the client's own.
    """
    found = []
    if limits.plans and plan.plan_hash not in limits.plans:
        found.append("its policy does not list this plan's hash")
    epsilon = plan.epsilons[plan.schedule.headline].certified
    if not math.isfinite(epsilon):
        found.append("the plan promises no privacy")
    elif epsilon > limits.max_epsilon:
        found.append(f"the plan spends epsilon {epsilon:.4g}, at most {limits.max_epsilon:g} ever")
    if plan.delta > limits.max_delta:
        found.append(f"the plan takes delta {plan.delta:.3g}, at most {limits.max_delta:g} ever")
    if not plan.secure_aggregation and not limits.allow_clear_updates:
        found.append("without secure aggregation the server sees this client's own update")
    smallest = plan.threshold if plan.secret_cohorts else plan.cohort
    if smallest < limits.min_cohort:
        found.append(f"{smallest} clients in a round, at least {limits.min_cohort} wanted")
    if plan.threshold < limits.min_threshold:
        found.append(
            f"sums of {plan.threshold} contributions, at least {limits.min_threshold} wanted"
        )
    if plan.colluders < limits.min_colluders:
        found.append(f"{plan.colluders} colluders assumed, at least {limits.min_colluders} wanted")
    if plan.gossip is not None:
        found.append("averaging without a server is not deployed")
    return found
