"""The part of the configuration that speaks of other machines, and what it cannot go with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from privfed_dpo.config.section import PositiveFloat, Section

if TYPE_CHECKING:
    from privfed_dpo.config.sections import Config


class DeploymentConfig(Section):
    """Clients on other machines: who is enrolled, and how long they are waited for."""

    roster: str | None = Field(
        None,
        description="file with the public keys and pair counts of all parties; null keeps all "
        "clients in this process",
    )
    identity: str = Field(
        "coordinator.key", description="file of the coordinator's signing key, made by enrol"
    )
    socket: str = Field(
        "coordinator.sock", description="local socket that the transport's relay connects to"
    )
    phase_seconds: PositiveFloat = Field(
        60.0, description="longest wait for replies in a phase without training [s]"
    )
    training_seconds: PositiveFloat = Field(
        600.0, description="longest wait for replies that need training or loading a model [s]"
    )
    join_seconds: PositiveFloat = Field(
        120.0,
        description="how long a round waits for invited clients that are not connected, once "
        "enough are [s]",
    )
    patience_seconds: PositiveFloat = Field(
        3600.0,
        description="how long it waits while too few are connected; then the run stops, unspent, "
        "and can be resumed [s]",
    )
    max_reply_bytes: Annotated[int, Field(ge=1024, le=1 << 31)] = Field(
        1 << 28, description="longest reply of a client; more is refused [bytes]"
    )


def deployment_problems(config: Config) -> list[str]:
    """Return one sentence for each thing that a deployment cannot do."""
    if config.deployment.roster is None:
        return []
    evaluation, problems = config.evaluation, []
    if config.decentralised:
        problems.append("deployment.roster needs a server; runs without one are simulated only")
    if config.data.eval is None:
        problems.append(
            "deployment.roster needs data.eval: the coordinator holds no pairs but public ones, "
            "and checks the saved adapter on them"
        )
    if config.model.base == "tiny-llama":
        problems.append(
            "model.base=tiny-llama exists in simulated runs only; give a path or hub id"
        )
    if config.privacy.label_epsilon is not None:
        problems.append("privacy.label_epsilon flips labels in simulated runs only")
    if config.secure_agg.dropout_rate:
        problems.append("secure_agg.dropout_rate simulates losses; a deployment has real ones")
    problems += [
        f"evaluation.{name} needs an auditor that sees all clients: set it to 0"
        for name in ("audit_lanes", "audit_pairs", "audit_held_back")
        if getattr(evaluation, name)
    ]
    if evaluation.references or config.personal.enabled:
        problems.append(
            "evaluation.references and personal.enabled train on clients' pairs at the end of a "
            "simulated run; in a deployment these never leave their clients: leave both off"
        )
    return problems
