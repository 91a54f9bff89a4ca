"""Whether a plan's messages fit through; asked before a round is booked, for then it is too late.

A client books a round when it answers the invitation. Were its input refused for its length, every
client would have spent the round and none would be in the sum.
"""

from __future__ import annotations

from privfed_dpo.config.deployment import DeploymentConfig
from privfed_dpo.engine.messages import MAX_ENVELOPE_BYTES
from privfed_dpo.engine.plan import PEER_BYTES, RunPlan
from privfed_dpo.errors import PlanRefused
from privfed_dpo.wire.frames import MAX_FRAME_BYTES

_WEIGHT_BYTES = 4
_NUMBER_BYTES = 5
"""Most bytes of a client's or round's number in a message."""

_AROUND_BYTES = 1024
"""Room for what stands around a vector: envelope, frame, hashes, signatures."""

_LONGEST_BYTES = min(MAX_ENVELOPE_BYTES, MAX_FRAME_BYTES)
_TRAIN_LESS = (
    "train fewer parameters: a lower model.adapter.rank, or fewer model.adapter.target_modules"
)


def invitation_bytes(plan: RunPlan) -> int:
    """Return a bound on an invitation to a round: the adapter, and for SCAFFOLD as much again."""
    one = _WEIGHT_BYTES * plan.facts.dimension + _NUMBER_BYTES * _largest_cohort(plan)
    return one * (2 if plan.drift.scaffold else 1) + _AROUND_BYTES


def reply_bytes(plan: RunPlan) -> int:
    """Return a bound on one reply of a client: its vector, or a share for each neighbour."""
    vector = plan.vector_length * plan.ring.bits // 8
    shares = PEER_BYTES * max(plan.neighbours, _largest_cohort(plan) if plan.secret_cohorts else 0)
    return max(vector, shares) + _AROUND_BYTES


def require_deliverable(plan: RunPlan, deployment: DeploymentConfig) -> None:
    """Refuse a plan whose messages the carriers of a deployment would not take.

    Args:
        plan: of the run.
        deployment: the coordinator's settings.

    Raises:
        PlanRefused: with both numbers, and what to change.
    """
    invitation, reply = invitation_bytes(plan), reply_bytes(plan)
    if invitation > _LONGEST_BYTES or reply > _LONGEST_BYTES:
        raise PlanRefused(
            f"an invitation of this plan has up to {invitation} bytes and a client's reply up to "
            f"{reply}; no message may have more than {_LONGEST_BYTES}",
            advice=f"{_TRAIN_LESS[0].upper()}{_TRAIN_LESS[1:]}.",
        )
    if reply > deployment.max_reply_bytes:
        raise PlanRefused(
            f"a client's reply has up to {reply} bytes in this plan, and "
            f"deployment.max_reply_bytes={deployment.max_reply_bytes} would refuse it in every "
            "round",
            advice=f"Set deployment.max_reply_bytes={reply}, or {_TRAIN_LESS}.",
        )


def _largest_cohort(plan: RunPlan) -> int:
    return len(plan.facts.client_names) if plan.secret_cohorts else plan.cohort
