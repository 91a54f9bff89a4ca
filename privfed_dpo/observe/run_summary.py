"""The content of `summary.json`: what a run promised, what it reached and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from accounting import Ledger, guarantee
from privfed_dpo.engine.events import MetricsRow
from privfed_dpo.engine.network_privacy import describe_pairwise
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.training import TrainingResult
from privfed_dpo.observe.environment import environment_facts


def run_summary(
    *,
    plan: RunPlan,
    ledger: Ledger,
    result: TrainingResult,
    adapter_sha256: str,
    per_client: Mapping[str, float] | None,
    population: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Put together the summary of a run that has ended.

    Args:
        plan: what was promised.
        ledger: what was spent; complete but for its close line.
        result: how training ended.
        adapter_sha256: hash of the saved adapter weights.
        per_client: held-out accuracy by client, None where no held-out pair is a client's.
        population: how far the users differ, where it is known.

    Returns:
        Plain data; `ledger_head` is for the caller to add once the ledger is closed.
    """
    plan_facts = plan.describe()
    rows = result.checkpoint.rows
    trained = [row for row in rows if row.round > 0]
    measured = [row for row in rows if row.reward_accuracy is not None]
    survivors = [row.survivors for row in trained if row.survivors]
    epsilons = ledger.epsilons()
    return {
        "status": result.status,
        "reason": result.reason,
        "run_id": ledger.header.run_id,
        "statement": guarantee(
            ledger.header,
            epsilons,
            participations=max(ledger.participations.values(), default=0),
            realised=ledger.realised_epsilon(),
        ),
        "epsilon": {
            adversary.value: {"pld": _finite(pair.pld), "rdp": _finite(pair.rdp)}
            for adversary, pair in epsilons.items()
        },
        "accounting": plan_facts["accounting"],
        "delta": plan.delta,
        "label": _label(plan, epsilons[plan.schedule.headline].certified),
        "initial": asdict(measured[0]) if measured else None,
        "final": asdict(_latest(measured, rows)) if rows else None,
        "rounds_done": sum(row.status == "released" for row in trained),
        "rounds_planned": plan.rounds,
        "survivors": {
            "min": min(survivors, default=0),
            "mean": float(np.mean(survivors)) if survivors else 0.0,
        },
        "upload_bytes_total": sum(row.upload_bytes or 0 for row in trained),
        "download_bytes_total": sum(row.download_bytes or 0 for row in trained),
        "seconds_total": result.checkpoint.seconds,
        "plan": plan_facts,
        "network_privacy": describe_pairwise(plan),
        "clients": plan_facts["clients"],
        "versions": environment_facts()["versions"],
        "adapter_sha256": adapter_sha256,
        "per_client": per_client,
        "heterogeneity": {"zeta_sq": _zeta_sq(rows), **(population or {})},
        "audit": None,
    }


def _zeta_sq(rows: Sequence[MetricsRow]) -> float | None:
    """Mean squared distance of the clients' gradients from their mean, last measured."""
    return next((row.heterogeneity for row in rows[::-1] if row.heterogeneity is not None), None)


def _label(plan: RunPlan, unit_epsilon: float) -> dict[str, float] | None:
    """What the run reveals about one label; None if labels were not flipped."""
    cost = plan.schedule.label_cost(unit_epsilon, plan.delta)
    return None if cost is None else asdict(cost)


def _latest(measured: Sequence[MetricsRow], rows: Sequence[MetricsRow]) -> MetricsRow:
    """The last measured row, with the privacy spent by the end of the run."""
    last, end = (measured or rows)[-1], rows[-1]
    return replace(
        last,
        epsilon=end.epsilon,
        epsilon_rdp=end.epsilon_rdp,
        epsilon_realised=end.epsilon_realised,
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
