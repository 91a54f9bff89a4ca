"""The spend record of a run: append-only, hash-chained, written before the noise is drawn.

Order of a round: `would_exceed` before anything is sampled, `spend` before anything is released,
`outcome` once it is known who was in the sum. `spend` returns only after the line has reached the
disk, so whatever a crash destroys, the ledger counts at least what was released.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accounting.accountants import EpsilonPair
from accounting.adversaries import Adversary
from accounting.canonical import JSON
from accounting.errors import BudgetExceeded, LedgerCorrupted, LedgerMisuse
from accounting.ledger_file import Fsync, append_synced, begin_draft, sync_folder
from accounting.ledger_format import (
    LedgerHeader,
    LedgerLine,
    OutcomeStatus,
    chain_problems,
    decode_header,
    decode_lines,
    encode_header,
    encode_line,
    genesis,
    line_hash,
    signed_message,
)
from accounting.ledger_state import LedgerState, spend_body
from accounting.receipts import Receipt, encode_receipts

Signer = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class SpendReceipt:
    """Proof that a round is booked: the line is on disk.

    Attributes:
        index: line of the spend.
        round: the round that may now be released.
        epsilon: headline epsilon after it, the largest over all clients.
        head: hash of the line.
    """

    index: int
    round: int
    epsilon: EpsilonPair
    head: str


class Ledger:
    """One open ledger file; the only writer of it.

    Made by `create` or `open`. After a failed write it refuses everything: open the file again.
    """

    def __init__(
        self,
        path: Path,
        state: LedgerState,
        *,
        lines: int,
        head: str,
        size_bytes: int,
        truncated_bytes: int,
        signer: Signer | None,
        fsync: Fsync,
    ) -> None:
        self._path = path
        self._state = state
        self._lines = lines
        self._head = head
        self._size_bytes = size_bytes
        self._truncated_bytes = truncated_bytes
        self._signer = signer
        self._fsync = fsync
        self._broken = False

    @classmethod
    def create(
        cls,
        path: str | Path,
        header: LedgerHeader,
        *,
        signer: Signer | None = None,
        fsync: Fsync = os.fsync,
    ) -> "Ledger":
        """Start a ledger with its header line; file and folder are synced before it returns.

        The file appears under its name with the whole header in it, or not at all.

        Args:
            path: a file that does not exist yet, in a folder that does.
            header: what the run is held to.
            signer: message -> signature, e.g. Ed25519; every line is signed if given.
            fsync: called with a file descriptor; an argument so that tests can count it.

        Raises:
            FileExistsError: there is a file already; open it instead.
        """
        path = Path(path)
        draft = begin_draft(path)
        ledger = cls(
            draft,
            LedgerState(header),
            lines=0,
            head=genesis(header.plan_hash, header.config_hash),
            size_bytes=0,
            truncated_bytes=0,
            signer=signer,
            fsync=fsync,
        )
        try:
            ledger._append("header", encode_header(header))
        except Exception:
            draft.unlink(missing_ok=True)
            raise
        ledger._path = draft.replace(path)
        sync_folder(path.parent, fsync)
        return ledger

    @classmethod
    def open(
        cls, path: str | Path, *, signer: Signer | None = None, fsync: Fsync = os.fsync
    ) -> "Ledger":
        """Continue a ledger; a torn last line (a crash) is cut off and reported.

        A line is torn only if its write never finished, so its `spend` never returned and nothing
        was released under it.

        Raises:
            LedgerCorrupted: a complete line is not what an honest writer could have written, or
                even the header is missing.
        """
        path = Path(path)
        content = path.read_bytes()
        lines, torn_bytes = decode_lines(content)
        if not lines:
            raise LedgerCorrupted(0, "there is no complete header line; nothing was spent under it")
        header = decode_header(lines[0].body)
        for index, reason in chain_problems(lines, header):
            raise LedgerCorrupted(index, reason)
        state = LedgerState(header)
        for line in lines[1:]:
            _replay(state, line)
        size_bytes = len(content) - torn_bytes
        if torn_bytes:
            with path.open("r+b") as file:
                file.truncate(size_bytes)
                file.flush()
                fsync(file.fileno())
        return cls(
            path,
            state,
            lines=len(lines),
            head=lines[-1].digest,
            size_bytes=size_bytes,
            truncated_bytes=torn_bytes,
            signer=signer,
            fsync=fsync,
        )

    def would_exceed(self, cohort: Sequence[str]) -> bool:
        """Return whether one more round with this cohort breaks the budget or the plan's cap.

        Ask before sampling. Certified epsilon of the headline decides, at the guaranteed noise.
        """
        return self._refusal(cohort) is not None

    def spend(self, round: int, cohort: Sequence[str]) -> SpendReceipt:  # noqa: A002
        """Book one round for every client of the cohort; on disk when it returns.

        Args:
            round: larger than the last one; equal only if that one has no outcome yet (a retry
                after a crash, booked a second time).
            cohort: names of all clients that were asked, survivors or not.

        Raises:
            BudgetExceeded: nothing was written.
            LedgerMisuse: the round or cohort does not fit; nothing was written.
            LedgerCorrupted: somebody else wrote to the file.
            OSError: the write failed, a full disk for instance; it names the file. Nothing may be
                released; open the ledger again.
        """
        self._state.check_spend(round, cohort)
        refusal = self._refusal(cohort)
        if refusal is not None:
            raise refusal
        head = self._append("spend", spend_body(self.header, round, cohort))
        self._state.spend(round, cohort)
        return SpendReceipt(self._lines - 1, round, self.epsilon(), head)

    def outcome(
        self,
        round: int,  # noqa: A002
        status: OutcomeStatus,
        survivors: Sequence[str],
        receipts: Mapping[str, Receipt] | None = None,
    ) -> None:
        """Record how the latest booked round ended.

        Args:
            round: the round of the latest spend.
            status: "released" if the sum was opened, else "aborted", which stays booked.
            survivors: clients in the sum; for an aborted round those known.
            receipts: by client, what they signed.

        Raises:
            LedgerMisuse: it does not fit the latest spend, or a sum was opened below the threshold.
        """
        self._state.check_outcome(round, status, survivors)
        body = {"round": round, "status": status, "survivors": sorted(survivors)}
        self._append("outcome", {**body, "receipts": encode_receipts(receipts or {})})
        self._state.outcome(status, survivors, receipts or {})

    def close(self, status: str, facts: Mapping[str, JSON]) -> str:
        """End the ledger, with facts such as the hash of the adapter; return its head.

        Raises:
            LedgerMisuse: it is closed already.
        """
        if self._state.status is not None:
            raise LedgerMisuse(f"the ledger was closed with status {self._state.status!r}")
        head = self._append("close", {"status": status, "facts": dict(facts)})
        self._state.close(status)
        return head

    def epsilon(self) -> EpsilonPair:
        """Return the headline epsilon so far, the largest over all clients; an upper bound."""
        return self._state.epsilon_after(self._state.most_participations())

    def epsilons(self) -> dict[Adversary, EpsilonPair]:
        """Return epsilon so far for every adversary, on the certified grid (seconds, not more)."""
        budget, schedule = self.header.budget, self.header.schedule
        most = self._state.most_participations()
        if budget is None or schedule.noise is None:
            return {adversary: self._state.epsilon_after(most) for adversary in Adversary}
        return {
            adversary: schedule.spent(adversary, budget.delta, most, self.rounds_spent)
            for adversary in Adversary
        }

    def realised_epsilon(self) -> float:
        """Return what the actual survivors gave, by the RDP filter; see `LedgerState`."""
        return self._state.realised_epsilon()

    @property
    def header(self) -> LedgerHeader:
        """What the run is held to."""
        return self._state.header

    @property
    def head(self) -> str:
        """Hash of the last line; store it elsewhere too, so that a cut tail is noticed."""
        return self._head

    @property
    def rounds_spent(self) -> int:
        """Number of booked rounds, aborted and repeated ones included."""
        return self._state.rounds_spent

    @property
    def last_round(self) -> int | None:
        """Round of the latest spend; None before the first."""
        return self._state.last_round

    @property
    def awaiting_outcome(self) -> bool:
        """Whether the latest spend has no outcome yet."""
        return self._state.pending is not None

    @property
    def participations(self) -> Mapping[str, int]:
        """Client -> number of rounds booked for it; a copy."""
        return dict(self._state.participations)

    @property
    def receipt_counts(self) -> Mapping[str, int]:
        """Client -> rounds it counted in its latest booked receipt."""
        return dict(self._state.receipt_counts)

    @property
    def status(self) -> str | None:
        """Status given to `close`; None while the ledger is open."""
        return self._state.status

    @property
    def truncated_bytes(self) -> int:
        """Bytes of a torn line that `open` cut off; 0 if there was none."""
        return self._truncated_bytes

    def _refusal(self, cohort: Sequence[str]) -> BudgetExceeded | None:
        now = self._state.most_participations(cohort)
        cap = self.header.schedule.participations
        if now + 1 > cap:
            return BudgetExceeded(now + 1, max(0, cap - now), resource="participations")
        claim = self.header.schedule.secret_cohort
        if claim is not None and self.rounds_spent + 1 > claim.rounds:
            return BudgetExceeded(self.rounds_spent + 1, 0.0, resource="rounds")
        budget = self.header.budget
        if budget is None:
            return None
        after = self._state.epsilon_after(now + 1, more_rounds=1).certified
        if after <= budget.epsilon:
            return None
        spent = self._state.epsilon_after(now).certified
        return BudgetExceeded(after, max(0.0, budget.epsilon - spent))

    def _append(self, kind: str, body: Mapping[str, Any]) -> str:
        if self._broken:
            raise LedgerMisuse("an earlier write failed; open the ledger again before going on")
        digest = line_hash(self._lines, self._head, kind, body)
        signature = self._signer(signed_message(digest)).hex() if self._signer else None
        row = encode_line(LedgerLine(self._lines, self._head, kind, body, digest, signature))
        self._broken = True
        append_synced(
            self._path, row, index=self._lines, size_bytes=self._size_bytes, fsync=self._fsync
        )
        self._broken = False
        self._size_bytes += len(row)
        self._lines += 1
        self._head = digest
        return digest


def _replay(state: LedgerState, line: LedgerLine) -> None:
    """Apply one line that was read from a file, with the checks of a writer."""
    try:
        state.replay(line)
    except (LedgerMisuse, TypeError, ValueError) as error:
        raise LedgerCorrupted(line.index, str(error)) from error
