"""FedDPO: rounds of private sums, a server step after each, every spend booked beforehand.

Like a single round, the whole training is a script of exchanges: it does no input or output of
its own, so the same training runs over any carrier. Order inside a round: the ledger line is on
disk, then clients compute, then the sum is opened, then the server steps, then the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from accounting import Ledger
from accounting.ledger_format import OutcomeStatus
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.cohort import choose_cohort, draw_secret_cohort
from privfed_dpo.engine.drift_state import Arrays, Departure, DriftState
from privfed_dpo.engine.events import MetricsRow, Observer, RoundFinished, RoundStarted
from privfed_dpo.engine.exchange import Exchange
from privfed_dpo.engine.invitations import Signer
from privfed_dpo.engine.lanes import LaneRecord
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.receipts import ReceiptBook
from privfed_dpo.engine.rounds import RoundCoordinator, RoundResult
from privfed_dpo.engine.training import (
    ABORTS_IN_A_ROW,
    Closing,
    Measure,
    TrainingResult,
    TrainingScript,
    fits_float32,
    spent_so_far,
)
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.server_update import ServerState, ServerUpdate


@dataclass(frozen=True, slots=True)
class FederatedTraining:
    """The coordinator's side of a whole run.

    Attributes:
        plan: the run's plan.
        run_id: 16 bytes that name the run.
        roster: identity keys of all enrolled clients, by number.
        ledger: open ledger of this run.
        sign: the coordinator's key, under which clients know their invitations.
        update: server optimizer.
        measure: metrics of a global adapter on held-out data, by the names of MetricsRow.
        measure_every: rounds between measurements; the last round is always measured, planned or
            not.
        seed: public seed of the cohorts.
        save: called with a checkpoint after every round, before its row is announced.
        observer: told what happens.
        clock: seconds, monotonic.
        issuer: secret randomness of the coordinator, where cohorts are secret.
        before_round: called with the round and the invited clients' names before the round is
            booked; a deployment waits here for clients that are not connected.
        snapshot: what the clients of this process keep, for the checkpoint; see
            `control_variates`.
    """

    plan: RunPlan
    run_id: bytes
    roster: Mapping[int, bytes]
    ledger: Ledger
    sign: Signer
    update: ServerUpdate
    measure: Measure
    measure_every: int
    seed: int
    save: Callable[[Checkpoint], None]
    observer: Observer
    clock: Callable[[], float]
    issuer: StreamIssuer | None = None
    before_round: Callable[[int, Sequence[str]], None] = lambda _round, _names: None
    snapshot: Callable[[], Arrays] = dict

    def script(self, start: Checkpoint) -> TrainingScript:
        """Train from a checkpoint to the planned number of rounds, or until the budget is spent.

        Rounds already booked in the ledger are never played again: their randomness is gone, and
        so is their budget.
        """
        checkpoint = start

        def end(status: str, reason: str) -> TrainingResult:
            return self._closing.end(status, reason, checkpoint, self._measured)

        drift = DriftState.of(self.plan, start.drift)
        book = ReceiptBook(self.plan, self.run_id, self.roster, self.ledger.receipt_counts)
        aborted_in_a_row = 0
        first = max(start.round, self.ledger.last_round or 0) + 1
        for number in range(first, self.plan.rounds + 1):
            fault = self._closing.fault(checkpoint)
            if fault is not None:
                return end("diverged", fault)
            names = self._cohort(number)
            if self._worn_out():
                reason = f"round {number} would need clients that took part as often as allowed"
                return end("budget_spent", reason)
            if self.ledger.would_exceed(names):
                reason = f"round {number} would exceed the privacy budget; the model is kept"
                return end("budget_spent", reason)
            self.before_round(number, names)
            begin = self.clock()
            self.ledger.spend(number, names)
            self.observer(RoundStarted(number, self.plan.rounds, len(names)))
            departure = self._departure(number, names, checkpoint.state, drift)
            if self.plan.allows_cohort(len(names)):
                result = yield from self._play(number, names, departure)
            else:
                result = RoundResult(None, (), {}, 0, 0, reason="the cohort was drawn too small")
            stepped = self._apply(checkpoint.state, result)
            state = stepped if fits_float32(stepped.weights) else checkpoint.state
            drift = self._remember(drift, number, departure, result)
            self._record_outcome(number, result, book)
            row = self._row(number, len(names), result, state, begin)
            if self.plan.drift.max_staleness:
                row = replace(row, staleness=departure.staleness(result.survivors))
            checkpoint = replace(
                checkpoint,
                round=number,
                state=state,
                rows=(*checkpoint.rows, row),
                lanes=self._lanes(checkpoint, number, result),
                seconds=checkpoint.seconds + (row.seconds or 0.0),
                drift={**drift.arrays(), **self.snapshot()} if drift.remembers else None,
            )
            self.save(checkpoint)
            self.observer(RoundFinished(row))
            if state is not stepped:
                return end("diverged", self._closing.overflow(number))
            aborted_in_a_row = 0 if result.total is not None else aborted_in_a_row + 1
            if aborted_in_a_row == ABORTS_IN_A_ROW:
                reason = (
                    f"{ABORTS_IN_A_ROW} rounds in a row were aborted; the last: {result.reason}"
                )
                return end("aborted", reason)
        return end("finished", "all planned rounds are done")

    @property
    def _closing(self) -> Closing:
        return Closing(self.plan, self.measure_every, self.save, self.observer)

    def _measured(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        return self.measure(checkpoint.state.weights.astype(np.float32))

    def _cohort(self, number: int) -> tuple[str, ...]:
        """Who is invited: by a public rule, or by secret coins."""
        names, invitations = self.plan.facts.client_names, self.ledger.participations
        sampler = self.plan.cohort_sampler()
        if sampler is None:
            return choose_cohort(
                names, self.plan.cohort, invitations, seed=self.seed, round_number=number
            )
        if self.issuer is None:
            raise ValueError("secret cohorts need secret randomness")
        return draw_secret_cohort(
            names,
            sampler,
            invitations,
            max_participations=self.plan.participations,
            stream=self.issuer.issue(f"cohort/{number}"),
        )

    def _worn_out(self) -> bool:
        """Whether too few clients are left below their cap for any secret cohort."""
        if not self.plan.secret_cohorts:
            return False
        used = self.ledger.participations
        names = self.plan.facts.client_names
        left = sum(used.get(name, 0) < self.plan.participations for name in names)
        return left < self.plan.threshold

    def _numbers(self, names: Sequence[str]) -> list[int]:
        places = {name: place for place, name in enumerate(self.plan.facts.client_names)}
        return sorted(places[name] for name in names)

    def _departure(
        self, number: int, names: tuple[str, ...], state: ServerState, drift: DriftState
    ) -> Departure:
        weights = state.weights.astype(np.float32)
        return drift.departure(self.plan, number, self._numbers(names), weights)

    def _remember(
        self, drift: DriftState, number: int, departure: Departure, result: RoundResult
    ) -> DriftState:
        total = None if result.total is None else self._units(result)
        return drift.after(
            self.plan, number, departure.weights, survivors=result.survivors, total=total
        )

    def _play(
        self, number: int, names: tuple[str, ...], departure: Departure
    ) -> Generator[Exchange, Mapping[int, bytes], RoundResult]:
        coordinator = RoundCoordinator(
            plan=self.plan,
            run_id=self.run_id,
            round_number=number,
            cohort={client: self.roster[client] for client in self._numbers(names)},
            sign=self.sign,
            observer=self.observer,
        )
        return (yield from coordinator.script(departure))

    def _apply(self, state: ServerState, result: RoundResult) -> ServerState:
        if result.total is None:
            return state
        return self.update.apply(state, self._descent(result))

    def _descent(self, result: RoundResult) -> npt.NDArray[np.float64]:
        """The direction to step against: a mean gradient, or minus the mean client update."""
        units = self._units(result)[: self.plan.facts.dimension]
        if self.plan.sums_gradients:
            return units / self.plan.expected_batch_pairs
        if self.plan.user_updates is not None:
            return -units / self.plan.cohort
        return -units / len(result.survivors)

    def _lanes(self, checkpoint: Checkpoint, number: int, result: RoundResult) -> LaneRecord | None:
        """Keep the opened lanes, in units of max_grad_norm, for the audit."""
        if checkpoint.lanes is None or result.total is None:
            return checkpoint.lanes
        steps = self.plan.grid().from_ring(result.total)[self.plan.facts.dimension :]
        clipper = self.plan.clipper()
        scale = clipper.sensitivity_steps if clipper else 1
        return checkpoint.lanes.with_round(number, len(result.survivors), steps / scale)

    def _units(self, result: RoundResult) -> npt.NDArray[np.float64]:
        if result.total is None:
            raise ValueError("an aborted round has no sum")
        grid = self.plan.grid()
        return grid.to_units(grid.from_ring(result.total))

    def _record_outcome(self, number: int, result: RoundResult, book: ReceiptBook) -> None:
        names = [self.plan.facts.client_names[place] for place in result.survivors]
        receipts = book.accepted(number, names, result.receipts, self.ledger.participations)
        status: OutcomeStatus = "aborted" if result.total is None else "released"
        self.ledger.outcome(number, status, names, receipts)

    def _row(
        self, number: int, cohort: int, result: RoundResult, state: ServerState, begin: float
    ) -> MetricsRow:
        due = self._closing.due(number)
        measured = self.measure(state.weights.astype(np.float32)) if due else {}
        drift = None
        if (
            result.total is not None
            and self.plan.ring.carries_updates
            and self.plan.local_steps > 1
        ):
            drift = float(self._units(result)[-1]) / len(result.survivors)
        return MetricsRow(
            round=number,
            status="aborted" if result.total is None else "released",
            cohort=cohort,
            survivors=len(result.survivors),
            drift=drift,
            upload_bytes=result.upload_bytes,
            download_bytes=result.download_bytes,
            dropped=dict(result.dropped),
            seconds=self.clock() - begin,
            **measured,
            **spent_so_far(self.ledger),
        )
