"""A whole simulated run with audit lanes, judged by the same bounds as a real one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accounting import Adversary
from privfed_dpo.audit.findings import METHODS, JudgedBound
from privfed_dpo.audit.lane_audit import LaneEvidence, audit_lanes
from privfed_dpo.audit.simulation import Build, CheckResult, Setting, ring_sum, secret
from privfed_dpo.engine.contribution import Contributor
from privfed_dpo.engine.lanes import LaneCoins, LaneRecord
from privfed_dpo.mechanism.keystream import StreamIssuer

ALARM_CONFIDENCE = 0.999
"""Of each bound in a self-test: five bounds accuse a correct build in 0.5 % of runs at most."""

_LANES = Setting(
    clients=6, dimension=2, sample_rate=0.1, rounds=100, dropout_tolerance=1, audit_lanes=1000
)
_WEIGHTS = np.zeros(_LANES.dimension, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class LaneRun:
    """The lanes of a simulated run and the epsilon that its plan certifies.

    One client vanishes in every round, so the noise is exactly what is guaranteed.
    """

    evidence: LaneEvidence
    certified: float
    delta: float

    @classmethod
    def play(cls, build: Build, seed: int) -> LaneRun:
        """Simulate all rounds of a build."""
        plan = _LANES.plan()
        survivors = range(plan.threshold)
        stream = StreamIssuer(secret(seed, "coins")).issue("coins")
        coins = LaneCoins.toss(_LANES.audit_lanes, len(survivors), stream)
        clients: list[Contributor] = [
            build.client(
                plan,
                np.zeros((1, 2, _LANES.dimension)),
                secret(seed, "lanes", number),
                number=number,
                lanes=coins.of_client(number),
            )
            for number in survivors
        ]
        record = LaneRecord.start(coins)
        for number in range(1, _LANES.rounds + 1):
            total = ring_sum(plan, [client.contribute(number, _WEIGHTS) for client in clients])
            opened = total[_LANES.dimension :] / (plan.ring.clipper_steps or 1)
            record = record.with_round(number, len(survivors), opened)
        everyone = {number: tuple(survivors) for number in range(1, _LANES.rounds + 1)}
        return cls(
            evidence=LaneEvidence.of_run(record, plan.schedule, everyone),
            certified=plan.epsilons[Adversary.SERVER].certified,
            delta=plan.delta,
        )

    def bounds(self, confidence: float) -> tuple[JudgedBound, ...]:
        """Every lower bound at this confidence."""
        return audit_lanes(
            self.evidence, certified=self.certified, delta=self.delta, confidence=confidence
        )


def lane_bounds(build: Build, seed: int) -> CheckResult:
    """No lower bound from the lanes of a whole run exceeds the certified epsilon."""
    run = LaneRun.play(build, seed)
    bounds = [judged.bound for judged in run.bounds(ALARM_CONFIDENCE)]
    largest = max(bounds, key=lambda bound: bound.epsilon)
    return CheckResult(
        "lanes",
        passed=largest.epsilon <= run.certified,
        figure=f"{METHODS[largest.method]} {largest.epsilon:.2f}, certified {run.certified:.2f}",
    )
