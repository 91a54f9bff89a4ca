"""The floor of a finished run for `summary.json`: each source predicted beside measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from privfed_dpo.engine.events import MetricsRow
from privfed_dpo.engine.floor import FloorEstimator, mean_of_last
from privfed_dpo.engine.floor_inputs import (
    HeldOutSlopes,
    noise_levels,
    round_law,
    unpredictable,
)
from privfed_dpo.engine.plan import RunPlan

ASSUMPTIONS = (
    "the loss is quadratic around the last adapter, and negative curvature counts as none",
    "held-out pairs are drawn like the clients' pairs",
    "clipping shortens all gradients alike, and updates of users are hardly ever clipped",
    "who is late, and who takes part, has nothing to do with the data",
)


def floor_facts(
    *,
    plan: RunPlan,
    slopes: HeldOutSlopes,
    start: npt.NDArray[np.float32],
    end: npt.NDArray[np.float32],
    rows: Sequence[MetricsRow],
    products: int,
    seed: int,
) -> dict[str, object]:
    """Take the floor of a run apart, from its plan and held-out pairs alone.

    Args:
        plan: the run's plan.
        slopes: gradients on held-out pairs.
        start: adapter before training, shape [d].
        end: adapter at the end, shape [d].
        rows: the run's rows.
        products: products with the Hessian per probe, >= 1.
        seed: public seed of the probes.

    Returns:
        Plain data; `sources` is empty and `reason` says why where no law covers the run.
    """
    released = [row for row in rows if row.status == "released"]
    reason = unpredictable(plan) if released else "no round was released"
    facts: dict[str, object] = {"reason": reason, "sources": [], "distances": []}
    if reason is not None:
        return facts
    survivors = float(np.mean([row.survivors or 0 for row in released]))
    floor = FloorEstimator(
        slopes,
        law=round_law(plan, len(released)),
        noise=noise_levels(plan, survivors),
        start=start.astype(np.float64),
        end=end.astype(np.float64),
        steps=products,
        seed=seed,
    ).floor(
        mean_of_last([row.grad_norm_sq for row in released]),
        mean_of_last([row.drift for row in released]),
        mean_of_last([row.consensus_error_before for row in released]),
    )
    return facts | {
        "sources": [_finite(asdict(source)) for source in floor.sources],
        "distances": [_finite(asdict(source)) for source in floor.distances],
        "largest_curvature": floor.largest_curvature,
        "curvature_trace": floor.curvature_trace,
        "kept_by_clipping": floor.kept,
        "assumptions": list(ASSUMPTIONS),
    }


def _finite(source: dict[str, object]) -> dict[str, object]:
    """A prediction that grows without bound has no number: the run would not come to rest."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in source.items()
    }
