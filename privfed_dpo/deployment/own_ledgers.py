"""A client's own books: what all runs together have taken from its data.

One ledger per run, as the coordinator keeps one, but written and signed by the client; what the
coordinator claims plays no part. Across runs epsilons and deltas add up (basic composition, which
also holds where later runs are chosen after seeing earlier ones: Rogers et al. 2016, theorem 3.6).
A run whose plan says that records stand at several clients counts in full from its first round on.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from accounting import Adjacency, Ledger, LedgerHeader, ReleaseSchedule
from privfed_dpo.config.client_policy import LimitsConfig
from privfed_dpo.deployment.own_control import load_control, save_control
from privfed_dpo.durable import make_folder, write_atomically
from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.control_variates import ControlVariate
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.errors import PrivFedError, ResumeMismatch
from secure_agg import IdentityKey

LEDGER_FILE, DOCUMENT_FILE = "ledger.jsonl", "document"
DATA_FILE, CONTROL_FILE = "data", "control"


class BooksUnwritable(PrivFedError):
    """What a client must write down before it answers cannot be written; so it does not answer.

    Attributes:
        folder: the client's books.
    """

    def __init__(self, folder: Path, reason: OSError) -> None:
        self.folder = folder
        where = "" if reason.filename is None else f": {reason.filename}"
        super().__init__(
            f"this client's books in {folder} cannot be written: {reason.strerror}{where}",
            advice="Nothing left the client that is not in them. Free space there, then start the "
            "client again; it joins the next round.",
        )


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

    Raises:
        BooksUnwritable: the folder cannot be made, or a torn line not be cut off.
    """

    def __init__(
        self, folder: Path, *, name: str, identity: IdentityKey, limits: LimitsConfig
    ) -> None:
        self._folder = folder
        self._name = name
        self._identity = identity
        self._limits = limits
        self._open: dict[bytes, Ledger] = {}
        with self._writing():
            make_folder(folder)
            for path in sorted(folder.glob(f"*/{LEDGER_FILE}")):
                ledger = Ledger.open(path, signer=identity.sign)
                self._open[bytes.fromhex(ledger.header.run_id)] = ledger

    def begin(self, run_id: bytes, plan: RunPlan, document: bytes, data: str) -> None:
        """Open the books of a run; the same run again changes nothing.

        Args:
            run_id: 16 bytes that name the run.
            plan: made by the client itself.
            document: the run's description.
            data: digest of the client's pairs. It stays on this disk, and in no message or log:
                whoever guesses pairs could check them against it.

        Raises:
            ClientRefused: the whole plan would take more than is left, or this run was accepted
                with another description.
            ResumeMismatch: it was accepted with other pairs.
            BooksUnwritable: the disk is full, say; nothing was accepted.
        """
        digest = hashlib.sha256(document).hexdigest()
        if run_id in self._open:
            if self._open[run_id].header.config_hash != digest:
                raise ClientRefused("this run was joined before, under another description")
            before = self._data(run_id)
            if before != data:
                raise ResumeMismatch(
                    "this client's data",
                    expected="the pairs it was joined with",
                    found="other pairs",
                )
            return
        self._require(run_id, Spent(_certified(plan), plan.delta), "the whole plan")
        with self._writing():
            self._open[run_id] = self._begun(run_id, plan, document, data)

    def _begun(self, run_id: bytes, plan: RunPlan, document: bytes, data: str) -> Ledger:
        """Write down under what a run is joined; the ledger comes last, and with it the run."""
        folder = self._folder / run_id.hex()
        make_folder(folder)
        write_atomically(folder / DOCUMENT_FILE, document)
        write_atomically(folder / DATA_FILE, data.encode(), secret=True)
        header = LedgerHeader(
            run_id=run_id.hex(),
            plan_hash=plan.plan_hash,
            config_hash=hashlib.sha256(document).hexdigest(),
            unit=plan.schedule.unit,
            adjacency=Adjacency.ZERO_OUT,
            budget=plan.budget,
            schedule=plan.schedule,
            clients=len(plan.facts.client_names),
            extra={"client": self._name},
        )
        return Ledger.create(folder / LEDGER_FILE, header, signer=self._identity.sign)

    def under_other_data(self, data: str) -> tuple[str, ...]:
        """Runs, by hex name, that were joined with other pairs; their rounds will be refused."""
        return tuple(run_id.hex() for run_id in self._open if self._data(run_id) != data)

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
            AccountingError, BooksUnwritable: it could not be written.
        """
        with self._writing():
            self._open[run_id].spend(round_number, cohort)
        return self.total()

    def control(self, run_id: bytes, dimension: int) -> ControlVariate:
        """This client's control variate in a run, as it was kept last.

        Raises:
            ResumeMismatch: the file is damaged.
        """
        return load_control(self._folder / run_id.hex() / CONTROL_FILE, dimension)

    def keep_control(self, run_id: bytes, control: ControlVariate) -> None:
        """Put it on the disk; only then may the sum it belongs to leave.

        Raises:
            BooksUnwritable: it could not be written.
        """
        with self._writing():
            save_control(self._folder / run_id.hex() / CONTROL_FILE, control)

    def total(self) -> Spent:
        """What all runs together have taken."""
        return self._sum(without=None)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BooksUnwritable(self._folder, error) from error

    def _data(self, run_id: bytes) -> str:
        path = self._folder / run_id.hex() / DATA_FILE
        return path.read_text(encoding="utf-8") if path.is_file() else "no digest"

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
    """Price a client's part of a run.

    Where a record may stand at several clients, that is the whole plan: whoever else holds it
    plays on, in rounds this client is not in and never hears of.
    """
    budget, schedule = ledger.header.budget, ledger.header.schedule
    if participations == 0 or budget is None:
        return Spent(0.0 if participations == 0 else float("inf"), 0.0)
    if schedule.copies is not None:
        participations, rounds = schedule.participations, schedule.copies.rounds
    return Spent(_epsilon(schedule, budget.delta, participations, rounds), budget.delta)


@lru_cache(maxsize=256)
def _epsilon(schedule: ReleaseSchedule, delta: float, participations: int, rounds: int) -> float:
    return schedule.spent(schedule.headline, delta, participations, rounds).certified
