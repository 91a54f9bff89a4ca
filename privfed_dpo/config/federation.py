"""Settings of training with a server, and of the local steps that nodes without one take too."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privfed_dpo.config.section import NonNegativeInt, PositiveFloat, PositiveInt, Section
from privfed_dpo.server_update import ServerOptimizer


class FederationConfig(Section):
    """Rounds, cohorts, local steps and the server's step."""

    rounds: PositiveInt = Field(40, description="training rounds")
    cohort: PositiveInt | None = Field(
        None,
        description="clients invited to each round, or on average if cohorts are sampled; null is "
        "all",
    )
    cohort_sampling: Literal["fixed", "poisson"] = Field(
        "fixed",
        description="fixed: those with the fewest invitations, known to everybody; poisson (user "
        "mode): each client joins in secret with probability cohort / clients, which lowers no "
        "epsilon",
    )
    max_participations: PositiveInt | None = Field(
        None,
        description="most rounds of one client; null is what fixed cohorts need at least [rounds]",
    )
    local_steps: PositiveInt = Field(
        1, description="gradient steps at a client in one round (1 in distributed mode)"
    )
    learning_rate: PositiveFloat = Field(0.01, description="server step size")
    local_learning_rate: PositiveFloat = Field(
        1.0, description="client step size, where clients take their own steps"
    )
    server_optimizer: ServerOptimizer = Field(
        "adam", description="how the server applies the aggregate (FedOpt)"
    )
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.9, description="momentum of sgd, first-moment decay of the others"
    )
    proximal: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        0.0,
        description="FedProx: strength mu of the pull mu/2 |w - w_round|^2 that holds local steps "
        "near where a round began; costs no privacy; 0 is off [1/local_learning_rate]",
    )
    drift_control: Literal["none", "scaffold"] = Field(
        "none",
        description="scaffold: control variates point every client's local steps the way all "
        "clients go together (modes local and none); uploads double",
    )
    max_staleness: NonNegativeInt = Field(
        0,
        description="simulated delays: each invited client computes on the adapter of 0 to so many "
        "rounds ago, uniformly, by run.seed; 0 is none [rounds]",
    )
