"""A client's own books: what all runs together have taken from its data.

One ledger per run, as the coordinator keeps one, but written and signed by the client; what the
coordinator claims plays no part. Across runs epsilons and deltas add up (basic composition, which
also holds where later runs are chosen after seeing earlier ones: Rogers et al. 2016, theorem 3.6).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from accounting import Adjacency, Ledger, LedgerHeader, ReleaseSchedule
from privfed_dpo.config.client_policy import LimitsConfig
from privfed_dpo.engine.checkpoint import write_atomically
from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.plan import RunPlan
from secure_agg import IdentityKey

LEDGER_FILE, DOCUMENT_FILE = "ledger.jsonl", "document"


@dataclass(frozen=True, slots=True)
class Spent:
    """What was taken.

    Attributes:
        epsilon: certified, against the coordinator and all colluders.
        delta: failure probability that goes with it.
    """

    epsilon: float
    delta: float


class OwnLedgers:
    """All runs of one client. One process at a time may hold a folder.

    Args:
        folder: where the books are kept; made if it is missing.
        name: the client's own name.
        identity: signs every line.
        limits: what all runs together may take.
    """

    def __init__(
        self, folder: Path, *, name: str, identity: IdentityKey, limits: LimitsConfig
    ) -> None:
        self._folder = folder
        self._name = name
        self._identity = identity
        self._limits = limits
        self._open: dict[bytes, Ledger] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(folder.glob(f"*/{LEDGER_FILE}")):
            ledger = Ledger.open(path, signer=identity.sign)
            self._open[bytes.fromhex(ledger.header.run_id)] = ledger

    def begin(self, run_id: bytes, plan: RunPlan, document: bytes) -> None:
        """Open the books of a run; the same run again changes nothing.

        Raises:
            ClientRefused: the whole plan would take more than is left, or this run was accepted
                with another description.
        """
        digest = hashlib.sha256(document).hexdigest()
        if run_id in self._open:
            if self._open[run_id].header.config_hash != digest:
                raise ClientRefused("this run was joined before, under another description")
            return
        self._require(run_id, Spent(_certified(plan), plan.delta), "the whole plan")
        folder = self._folder / run_id.hex()
        folder.mkdir(mode=0o700, exist_ok=True)
        write_atomically(folder / DOCUMENT_FILE, document)
        header = LedgerHeader(
            run_id=run_id.hex(),
            plan_hash=plan.plan_hash,
            config_hash=digest,
            unit=plan.schedule.unit,
            adjacency=Adjacency.ZERO_OUT,
            budget=plan.budget,
            schedule=plan.schedule,
            clients=len(plan.facts.client_names),
            extra={"client": self._name},
        )
        path = folder / LEDGER_FILE
        self._open[run_id] = Ledger.create(path, header, signer=self._identity.sign)

    def document(self, run_id: bytes) -> bytes | None:
        """The description under which a run was joined; None if it never was."""
        if run_id not in self._open:
            return None
        return (self._folder / run_id.hex() / DOCUMENT_FILE).read_bytes()

    def last_round(self, run_id: bytes) -> int:
        """The latest round answered in a run."""
        return self._open[run_id].last_round or 0

    def participations(self, run_id: bytes) -> int:
        """Rounds answered in a run."""
        return self._open[run_id].participations.get(self._name, 0)

    def require_room(self, run_id: bytes, round_number: int, cohort: Sequence[str]) -> None:
        """Refuse a round that would take more than is left; nothing is written.

        Raises:
            ClientRefused: it would.
        """
        ledger = self._open[run_id]
        if ledger.would_exceed(cohort):
            raise ClientRefused("the plan of this run is used up: it allows this client no more")
        after = _spent(ledger, self.participations(run_id) + 1, round_number)
        self._require(run_id, after, f"round {round_number}")

    def book(self, run_id: bytes, round_number: int, cohort: Sequence[str]) -> Spent:
        """Write a round down; on the disk when this returns. Only then may anything leave.

        Raises:
            AccountingError, OSError: it could not be written.
        """
        self._open[run_id].spend(round_number, cohort)
        return self.total()

    def total(self) -> Spent:
        """What all runs together have taken."""
        return self._sum(without=None)

    def _require(self, run_id: bytes, more: Spent, what: str) -> None:
        before = self._sum(without=run_id)
        epsilon, delta = before.epsilon + more.epsilon, before.delta + more.delta
        if epsilon > self._limits.max_epsilon:
            raise ClientRefused(
                f"{what} would bring this client's epsilon to {epsilon:.4g}; its policy allows "
                f"{self._limits.max_epsilon:g} over all runs"
            )
        if delta > self._limits.max_delta:
            raise ClientRefused(
                f"{what} would bring this client's delta to {delta:.3g}; its policy allows "
                f"{self._limits.max_delta:g} over all runs"
            )

    def _sum(self, *, without: bytes | None) -> Spent:
        spent = [
            _spent(ledger, ledger.participations.get(self._name, 0), ledger.last_round or 0)
            for run_id, ledger in self._open.items()
            if run_id != without
        ]
        return Spent(sum(s.epsilon for s in spent), sum(s.delta for s in spent))


def _certified(plan: RunPlan) -> float:
    return plan.epsilons[plan.schedule.headline].certified


def _spent(ledger: Ledger, participations: int, rounds: int) -> Spent:
    """Price a client's part of a run; other clients' rounds count up to the latest one known."""
    budget, schedule = ledger.header.budget, ledger.header.schedule
    if participations == 0 or budget is None:
        return Spent(0.0 if participations == 0 else float("inf"), 0.0)
    return Spent(_epsilon(schedule, budget.delta, participations, rounds), budget.delta)


@lru_cache(maxsize=256)
def _epsilon(schedule: ReleaseSchedule, delta: float, participations: int, rounds: int) -> float:
    return schedule.spent(schedule.headline, delta, participations, rounds).certified
