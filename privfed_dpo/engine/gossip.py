"""DecDPO: rounds of private local steps and averaging with neighbours, without a server.

Like FedDPO a script of exchanges, over the same carriers, with the same ledger, checkpoints and
rows. Order inside a round: the ledger line is on disk, then nodes compute and exchange, then the
checkpoint. Nothing steers the nodes: the script keeps them in step, keeps the books, and publishes
the mean of what the nodes publish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from accounting import Ledger
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.events import MetricsRow, Observer, RoundFinished, RoundStarted
from privfed_dpo.engine.gossip_plan import GossipPlan
from privfed_dpo.engine.gossip_round import GossipRound, GossipRoundResult, MessageLost, Watch
from privfed_dpo.engine.mixing import (
    WEIGHT_UNIT,
    ConsensusForecast,
    Integers,
    Reals,
    Spectrum,
    consensus_error,
    mixing_matrix,
    split,
)
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.training import (
    ABORTS_IN_A_ROW,
    Closing,
    Measure,
    TrainingResult,
    TrainingScript,
    spent_so_far,
)
from privfed_dpo.server_update import ServerState

MeasureNodes = Callable[[Mapping[str, npt.NDArray[np.float32]]], Mapping[str, Any]]
Snapshot = Callable[[], dict[str, npt.NDArray[np.generic]]]

_FORECAST = "forecast"


@dataclass(frozen=True, slots=True)
class GossipTraining:
    """Keeps a run without a server in step, and its books.

    Attributes:
        plan: the run's plan.
        gossip: its graph and order.
        run_id: 16 bytes that name the run.
        ledger: open ledger of this run.
        measure: metrics of the mean adapter on held-out data, by the names of MetricsRow.
        measure_nodes: metrics of the nodes' own adapters, given by client name.
        measure_every: rounds between measurements; the last round is always measured, planned or
            not.
        snapshot: what the nodes of this process hold, for the checkpoint; see `node_state`.
        save: called with a checkpoint after every round, before its row is announced.
        observer: told what happens.
        clock: seconds, monotonic.
        lost: the network's losses between nodes.
        watch: how adapters are measured where nodes do not publish them; None asks the nodes.
    """

    plan: RunPlan
    gossip: GossipPlan
    run_id: bytes
    ledger: Ledger
    measure: Measure
    measure_nodes: MeasureNodes
    measure_every: int
    snapshot: Snapshot
    save: Callable[[Checkpoint], None]
    observer: Observer
    clock: Callable[[], float]
    lost: MessageLost
    watch: Watch | None = None

    def script(self, start: Checkpoint) -> TrainingScript:
        """Train from a checkpoint to the planned number of rounds, or until the budget is spent.

        Every node is booked in every round, also one that turns out to be away: what a node may
        have sent counts. Booked rounds are never played again.
        """
        checkpoint = start
        if start.nodes is None:
            raise ValueError("this checkpoint knows of no nodes")
        iterates = np.array(start.nodes["values"], dtype=np.int64)
        closing = Closing(self.plan, self.measure_every, self.save, self.observer)

        def end(status: str, reason: str) -> TrainingResult:
            return closing.end(
                status,
                reason,
                checkpoint,
                lambda last: self._adapters_measured(last.state, iterates),
            )

        forecast = self._forecast(start)
        aborted_in_a_row = 0
        first = max(start.round, self.ledger.last_round or 0) + 1
        names = self.plan.facts.client_names
        for number in range(first, self.plan.rounds + 1):
            fault = closing.fault(checkpoint)
            if fault is not None:
                return end("diverged", fault)
            if self.ledger.would_exceed(names):
                reason = f"round {number} would exceed the privacy budget; the model is kept"
                return end("budget_spent", reason)
            begin = self.clock()
            self.ledger.spend(number, names)
            self.observer(RoundStarted(number, self.plan.rounds, len(names)))
            due = closing.due(number)
            result = yield from self._round(number).script(watch_mixing=due)
            for node, values in result.iterates.items():
                iterates[node] = values
            here = [names[node] for node in result.present]
            self.ledger.outcome(number, "released" if here else "aborted", here)
            matrix = mixing_matrix(self.gossip.graph.of_round(number), result.used)
            before, forecast = self._foresee(forecast, result, matrix)
            state = replace(checkpoint.state, weights=self._mean(iterates), steps=number)
            row = MetricsRow(
                round=number,
                status="released" if here else "aborted",
                cohort=len(names),
                survivors=len(here),
                drift=result.drift,
                spectral_gap=Spectrum.of(matrix).gap,
                upload_bytes=result.upload_bytes,
                download_bytes=result.download_bytes,
                dropped=result.dropped,
                **(self._measured(state, iterates, result, before) if due else {}),
                **spent_so_far(self.ledger),
            )
            row = replace(row, seconds=self.clock() - begin)
            checkpoint = replace(
                checkpoint,
                round=number,
                state=state,
                rows=(*checkpoint.rows, row),
                seconds=checkpoint.seconds + (row.seconds or 0.0),
                nodes={**self.snapshot(), _FORECAST: forecast.moments},
            )
            self.save(checkpoint)
            self.observer(RoundFinished(row))
            aborted_in_a_row = 0 if here else aborted_in_a_row + 1
            if aborted_in_a_row == ABORTS_IN_A_ROW:
                reason = f"in {ABORTS_IN_A_ROW} rounds in a row no node answered"
                return end("aborted", reason)
        return end("finished", "all planned rounds are done")

    def _round(self, number: int) -> GossipRound:
        return GossipRound(
            plan=self.plan,
            gossip=self.gossip,
            run_id=self.run_id,
            round_number=number,
            observer=self.observer,
            lost=self.lost,
            watch=self.watch,
        )

    def _measured(
        self,
        state: ServerState,
        iterates: Integers,
        result: GossipRoundResult,
        predicted: float | None,
    ) -> dict[str, Any]:
        return {
            **self._adapters_measured(state, iterates),
            "consensus_error_before": self._disagreement(iterates, result.before),
            "consensus_error": self._disagreement(iterates, result.after),
            "consensus_predicted": predicted,
        }

    def _adapters_measured(self, state: ServerState, iterates: Integers) -> dict[str, Any]:
        """Metrics of the mean adapter and of the nodes' own; nothing about the mixing."""
        names = self.plan.facts.client_names
        units = self._units(iterates).astype(np.float32)
        return {
            **self.measure(state.weights.astype(np.float32)),
            **self.measure_nodes(dict(zip(names, units, strict=True))),
        }

    def _disagreement(self, iterates: Integers, published: Mapping[int, Integers]) -> float:
        """Consensus error over all nodes; one that is away stands where it was left."""
        values = iterates.copy()
        for node, own in published.items():
            values[node] = own
        return consensus_error(self._units(values))

    def _units(self, values: Integers) -> Reals:
        return values / (self.plan.grid().steps_per_unit * WEIGHT_UNIT)

    def _mean(self, iterates: Integers) -> Reals:
        """The mean adapter; summed in integers, where only the last division rounds."""
        sent, kept = split(iterates)
        total = sent.sum(axis=0) + kept.sum(axis=0) / WEIGHT_UNIT
        mean: Reals = total / (len(iterates) * self.plan.grid().steps_per_unit)
        return mean

    def _forecast(self, start: Checkpoint) -> ConsensusForecast:
        known = (start.nodes or {}).get(_FORECAST)
        nodes = len(self.plan.facts.client_names)
        return (
            ConsensusForecast.start(nodes)
            if known is None
            else ConsensusForecast(np.array(known, dtype=np.float64))
        )

    def _foresee(
        self, forecast: ConsensusForecast, result: GossipRoundResult, matrix: Reals
    ) -> tuple[float | None, ConsensusForecast]:
        """Predicted disagreement before mixing, and the forecast after the round."""
        power = np.zeros(len(matrix))
        power[list(result.present)] = [self._noise_power(node) for node in result.present]
        if self.gossip.order == "atc":
            forecast = forecast.adapted(power)
        before = forecast.error() if self.plan.noise is not None else None
        forecast = forecast.combined(matrix)
        return before, forecast.adapted(power) if self.gossip.order == "cta" else forecast

    def _noise_power(self, node: int) -> float:
        """Expected squared norm of the privacy noise in one node's local steps of a round."""
        if self.plan.noise is None:
            return 0.0
        divisor = self.plan.gradient_steps_per_unit() * self.plan.expected_client_pairs(node)
        rate = float(str(self.plan.objective["local_learning_rate"]))
        one = rate * self.plan.noise.share_stddev_steps / divisor
        return self.plan.local_steps * self.plan.facts.dimension * one**2
