"""Who takes part in rounds: sizes, caps, secret coins and the graph of the secure sum, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from accounting import SecretCohort
from privfed_dpo.config import Config
from privfed_dpo.engine.cohort import participation_bound
from privfed_dpo.errors import PlanRefused
from secure_agg import InvalidParams
from secure_agg.bounds import NeighbourhoodPlan, plan_neighbourhood
from secure_agg.params import MAX_CLIENTS

_SMALLEST_SECRET_SUM = 3


@dataclass(frozen=True, slots=True)
class CohortPlan:
    """Who takes part in rounds.

    Attributes:
        size: clients of a round, or their mean where cohorts are secret.
        participations: most rounds of one client, which the scheduler keeps to.
        missing_shares: noise shares that may be missing from an opened sum.
        graph: who masks against whom; None if sums are taken in clear.
        secret: how secret cohorts are drawn; None where cohorts are fixed.
    """

    size: int
    participations: int
    missing_shares: int
    graph: NeighbourhoodPlan | None
    secret: SecretCohort | None


def plan_cohorts(config: Config, clients: int) -> CohortPlan:
    """Work out who takes part.

    Args:
        config: a valid configuration.
        clients: clients enrolled.

    Raises:
        PlanRefused: the numbers contradict each other.
    """
    size = config.federation.cohort or clients
    _check_size(config, clients, size)
    graph = _graph(config, size) if config.secure_agg.enabled else None
    participations = _participations(config, clients, size)
    # On a sparse graph clients check a sample of the survivors' signatures only, so that a lying
    # server could pass off a few more clients as survivors than really are.
    missing = config.privacy.dropout_tolerance if graph is None else size - graph.threshold
    secret = None
    if config.federation.cohort_sampling == "poisson":
        secret = SecretCohort(size / clients, config.federation.rounds)
    return CohortPlan(size, participations, missing, graph, secret)


def _check_size(config: Config, clients: int, size: int) -> None:
    tolerance, colluders = config.privacy.dropout_tolerance, config.privacy.colluders
    if size > clients:
        raise PlanRefused(
            f"federation.cohort={size} is more than the {clients} clients that hold enough pairs",
            advice="Lower federation.cohort or data.min_pairs.",
        )
    if config.secure_agg.enabled and size < _SMALLEST_SECRET_SUM:
        alone = f"a secure sum over {size} {'client' if size == 1 else 'clients'} hides nobody"
        advice = f"Invite at least {_SMALLEST_SECRET_SUM} clients"
        if clients < _SMALLEST_SECRET_SUM:
            alone += f", and there are no more than {clients} that hold enough pairs"
            advice += ": deal the pairs among more of them, or lower data.min_pairs"
        raise PlanRefused(
            alone,
            advice=f"{advice}; or take privacy.mode=local with secure_agg.enabled=false, where "
            "everybody adds noise enough.",
        )
    largest = clients if config.federation.cohort_sampling == "poisson" else size
    if config.secure_agg.enabled and largest > MAX_CLIENTS:
        raise PlanRefused(
            f"a secure sum over {largest} clients is more than the protocol's {MAX_CLIENTS}",
            advice=f"Set federation.cohort to at most {MAX_CLIENTS}, of a fixed size.",
        )
    if 2 * (size - tolerance) <= size + colluders:
        raise PlanRefused(
            f"with {size} clients in a round, {tolerance} tolerated drop-outs and "
            f"{colluders} colluders two different survivor sets could both be signed",
            advice="Keep 2 * (cohort - dropout_tolerance) above cohort + colluders.",
        )


def _graph(config: Config, size: int) -> NeighbourhoodPlan:
    lost, helpers = config.privacy.dropout_tolerance, config.privacy.colluders
    if config.federation.cohort_sampling == "poisson":
        certain = (-math.inf, -math.inf, -math.inf)
        return NeighbourhoodPlan(None, size - lost, size, lost, helpers, *certain)
    try:
        return plan_neighbourhood(clients=size, max_dropped=lost, colluders=helpers)
    except InvalidParams as error:
        raise PlanRefused(f"no secure sum over {size} clients: {error}") from error


def _participations(config: Config, clients: int, size: int) -> int:
    federation = config.federation
    rounds, cap = federation.rounds, federation.max_participations
    if federation.cohort_sampling == "poisson":
        return min(rounds, cap or rounds)
    needed = participation_bound(rounds=rounds, clients=clients, cohort=size)
    if cap is not None and cap < needed:
        most = cap * clients // size
        raise PlanRefused(
            f"{rounds} rounds of {size} of {clients} clients need a client {needed} times, and "
            f"federation.max_participations={cap} allows no more",
            advice=f"Plan at most {most} rounds, or raise the cap.",
        )
    return needed
