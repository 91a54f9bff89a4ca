"""Reading somebody else's ledger, and deciding whether its claim holds.

`verify_ledger` trusts nothing but the lines: it walks them on its own, shares no totals with the
writer, recomputes epsilon from the raw events with two accountants, and reports every problem it
finds in words instead of stopping at the first.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from accounting.accountants import Accounting, EpsilonPair
from accounting.adversaries import Adversary, ReleaseSchedule
from accounting.discrete_rdp import library_epsilon
from accounting.errors import LedgerCorrupted
from accounting.events import Repeated
from accounting.ledger_format import (
    OUTCOME_STATUSES,
    LedgerHeader,
    LedgerLine,
    chain_problems,
    decode_header,
    decode_lines,
    signed_message,
)
from accounting.ledger_state import (
    CLOSE_FIELDS,
    OUTCOME_FIELDS,
    SPEND_FIELDS,
    body_matches,
    encode_release,
)
from accounting.rdp import RdpFilter
from accounting.receipts import ReceiptCheck, ReceiptVerifier
from accounting.secret_cohort import understated_failure

Verifier = Callable[[bytes, bytes], bool]
_LIBRARY_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """A ledger as read, nothing checked but its header and the form of its lines.

    Attributes:
        header: what the run claims to be held to.
        lines: all complete lines, header included.
        torn_bytes: length of an unfinished last line, 0 if there is none.
    """

    header: LedgerHeader
    lines: tuple[LedgerLine, ...]
    torn_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LedgerVerdict:
    """What a stranger may conclude from a ledger.

    Attributes:
        ok: no problem was found.
        problems: what is wrong, one sentence each.
        notes: what is worth knowing, but no fault of the run.
        epsilon: adversary -> epsilon of the busiest client, recomputed, certified grid.
        realised: epsilon by the RDP filter with the survivors there were.
        rounds: booked rounds, repeated and aborted ones included.
        released_rounds: rounds whose sum was opened.
        participations: most rounds booked for one client.
        status: text of the close line, None if the ledger was not closed.
        facts: facts of the close line, empty if it was not closed.
        head: hash of the last line.
    """

    ok: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    epsilon: Mapping[Adversary, EpsilonPair]
    realised: float
    rounds: int
    released_rounds: int
    participations: int
    status: str | None
    facts: Mapping[str, object]
    head: str


def read_ledger(source: str | Path | bytes) -> LedgerRecord:
    """Read a ledger without judging it.

    Args:
        source: a path, or the bytes of the file.

    Raises:
        LedgerCorrupted: a complete line is not a canonical ledger line, or the header is unusable.
    """
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    lines, torn_bytes = decode_lines(content)
    if not lines:
        raise LedgerCorrupted(0, "there is no complete header line")
    return LedgerRecord(decode_header(lines[0].body), tuple(lines), torn_bytes)


def verify_ledger(
    record: LedgerRecord,
    *,
    verifier: Verifier | None = None,
    receipt_verifier: ReceiptVerifier | None = None,
    expected_head: str | None = None,
) -> LedgerVerdict:
    """Check a ledger, and recompute what it cost.

    Args:
        record: from `read_ledger`.
        verifier: (message, signature) -> bool with the coordinator's public key. If given, every
            line must carry a valid signature; without it signatures prove nothing and are ignored.
        receipt_verifier: (client, message, signature) -> bool with the clients' public keys. If
            given, every opened sum needs receipts of at least the threshold, over these survivors.
        expected_head: head hash known from elsewhere (a summary, a checkpoint, a client). A chain
            alone cannot show that its last lines were cut off; this can.

    Returns:
        A verdict; it never raises for what it finds in the lines.
    """
    header = record.header
    receipts = receipt_verifier and ReceiptCheck(
        header.run_id, header.plan_hash, receipt_verifier, header.schedule.threshold or 1
    )
    walk = _Walk(header, receipts or None)
    for position, reason in chain_problems(record.lines, record.header):
        walk.problem(position, reason)
    for line in record.lines[1:]:
        walk.take(line)
    if verifier is not None:
        for line in record.lines:
            if not _signed(line, verifier):
                walk.problem(line.index, "its signature is missing or does not verify")
    head = record.lines[-1].digest
    if expected_head is not None and expected_head != head:
        walk.problems.append("the last line is not the one expected: lines were cut off or added")
    epsilon = walk.price()
    return LedgerVerdict(
        ok=not walk.problems,
        problems=tuple(walk.problems),
        notes=tuple(walk.notes(record.torn_bytes)),
        epsilon=epsilon,
        realised=walk.realised(),
        rounds=walk.rounds,
        released_rounds=walk.released,
        participations=walk.most(),
        status=walk.status,
        facts=walk.facts,
        head=head,
    )


@dataclass(slots=True)
class _Walk:
    """One pass over the lines; its totals are its own."""

    header: LedgerHeader
    receipts: ReceiptCheck | None = None
    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    cohort: tuple[str, ...] | None = None
    last_round: int = -1
    rounds: int = 0
    released: int = 0
    status: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    #: client -> (survivors, or None if booked at the guaranteed noise) -> number of rounds
    survivors: dict[str, Counter[int | None]] = field(default_factory=dict)
    #: the same over all rounds, whoever took part
    survivors_by_round: Counter[int | None] = field(default_factory=Counter)

    @property
    def schedule(self) -> ReleaseSchedule:
        return self.header.schedule

    def problem(self, index: int, reason: str) -> None:
        self.problems.append(f"line {index}: {reason}")

    def take(self, line: LedgerLine) -> None:
        if self.status is not None:
            self.problem(line.index, "it stands after the close of the ledger")
        if line.kind == "spend" and body_matches(line.body, SPEND_FIELDS):
            self._spend(line)
        elif line.kind == "outcome" and body_matches(line.body, OUTCOME_FIELDS):
            self._outcome(line)
        elif line.kind == "close" and body_matches(line.body, CLOSE_FIELDS):
            self._settle(None)
            self.status, self.facts = line.body["status"], line.body["facts"]
        elif line.kind != "header":
            self.problem(line.index, "its kind or its fields are not known")

    def _spend(self, line: LedgerLine) -> None:
        round_, cohort = line.body["round"], line.body["cohort"]
        if not all(isinstance(client, str) and client for client in cohort):
            self.problem(line.index, "its cohort holds something that is not a client's name")
            return
        retried = self.cohort is not None
        if round_ < self.last_round + (0 if retried else 1):
            self.problem(line.index, f"round {round_} comes after round {self.last_round}")
        if len(set(cohort)) != len(cohort):
            self.problem(line.index, "a client stands in its cohort twice")
        expected = self.schedule.cohort
        empty = not cohort and self.schedule.secret_cohort is None
        if empty or (expected is not None and len(cohort) != expected):
            self.problem(
                line.index,
                f"its cohort has {len(cohort)} clients, the noise is made for {expected}",
            )
        if line.body["release"] != encode_release(self.schedule.round_events(Adversary.COALITION)):
            self.problem(line.index, "it books another release than the plan's")
        self._settle(None)
        self.cohort = tuple(cohort)
        self.counts.update(set(cohort))
        self.last_round = max(self.last_round, round_)
        self.rounds += 1

    def _outcome(self, line: LedgerLine) -> None:
        round_, status, survivors = (line.body[name] for name in ("round", "status", "survivors"))
        if self.cohort is None or round_ != self.last_round:
            self.problem(line.index, f"round {round_} has no spend that waits for an outcome")
            return
        if status not in OUTCOME_STATUSES:
            self.problem(line.index, f"its status {status!r} is not known")
        if not all(isinstance(client, str) for client in survivors) or (
            len(set(survivors)) != len(survivors) or not set(survivors) <= set(self.cohort)
        ):
            self.problem(line.index, "its survivors are not distinct members of the cohort")
            return
        threshold = self.schedule.threshold or 1
        released = status == "released"
        if released and len(survivors) < threshold:
            self.problem(
                line.index,
                f"a sum of {len(survivors)} survivors was opened, below the threshold {threshold}: "
                "the noise in it was less than guaranteed",
            )
        if released and self.receipts is not None:
            signed = line.body["receipts"]
            for reason in self.receipts.problems(round_, survivors, signed, self.counts):
                self.problem(line.index, reason)
        self.released += released
        self._settle(len(survivors) if released else None)

    def _settle(self, survivors: int | None) -> None:
        if self.cohort is not None:
            self.survivors_by_round[survivors] += 1
        for client in self.cohort or ():
            self.survivors.setdefault(client, Counter())[survivors] += 1
        self.cohort = None

    def most(self) -> int:
        return max(self.counts.values(), default=0)

    def price(self) -> dict[Adversary, EpsilonPair]:
        """Recompute epsilon per adversary, and check clients, cap and budget on the way."""
        most, cap = self.most(), self.schedule.participations
        if len(self.counts) > self.header.clients:
            self.problems.append(
                f"{len(self.counts)} clients took part, {self.header.clients} are enrolled"
            )
        if most > cap:
            self.problems.append(f"a client took part {most} times, the plan allows {cap}")
        self._check_secrecy()
        budget = self.header.budget
        delta = budget.delta if budget is not None else 0.5
        priced = {
            adversary: self.schedule.spent(adversary, delta, most, self.rounds)
            for adversary in Adversary
        }
        headline = priced[self.schedule.headline]
        if budget is not None and headline.certified > budget.epsilon:
            self.problems.append(
                f"the run cost epsilon {headline.certified:.6g}, its budget is {budget.epsilon:.6g}"
            )
        self._compare(headline, delta)
        return priced

    def _check_secrecy(self) -> None:
        claim, threshold = self.schedule.secret_cohort, self.schedule.threshold
        if claim is not None and threshold is not None:
            cap = self.schedule.participations
            self.problems += understated_failure(claim, self.header.clients, threshold, cap)

    def _compare(self, headline: EpsilonPair, delta: float) -> None:
        """Find two accountants that contradict each other about the headline."""
        if self.schedule.accounting is Accounting.REDUCTION:
            if headline.pld > headline.rdp * (1 + 1e-6):
                self.problems.append(
                    f"the two accountants contradict each other: PLD {headline.pld:.6g} above RDP "
                    f"{headline.rdp:.6g}"
                )
            return
        if self.most() == 0:
            return
        one = self.schedule.round_events(self.schedule.headline)
        spends = (Repeated(one.event, one.count * self.most()),)
        again = library_epsilon(self.schedule, spends, delta)
        if not math.isclose(headline.rdp, again, rel_tol=_LIBRARY_TOLERANCE):
            self.problems.append(
                f"the two accountants contradict each other: RDP {headline.rdp:.6g}, by "
                f"dp-accounting {again:.6g}"
            )

    def realised(self) -> float:
        """Run the filter over every client's own rounds and return the largest result.

        A record whose copies share sums may have been in all rounds.
        """
        self._settle(None)
        budget, schedule = self.header.budget, self.schedule
        if not self.counts:
            return 0.0
        if budget is None or schedule.noise is None:
            return math.inf
        delta = budget.delta / schedule.slack.delta_factor
        planned = schedule.view(schedule.headline)
        largest = 0.0
        histories_of = list(self.survivors.values())
        if schedule.copies_share_sums:
            histories_of = [self.survivors_by_round]
        for histories in {frozenset(counter.items()) for counter in histories_of}:
            total = RdpFilter.committed(planned, delta)
            for survivors, rounds in histories:
                one = schedule.realised_round(survivors)
                total.spend(one.event, one.count * rounds)
            largest = max(largest, total.epsilon())
        return largest + schedule.slack.epsilon

    def notes(self, torn_bytes: int) -> list[str]:
        found = []
        if torn_bytes:
            found.append(f"an unfinished last line of {torn_bytes} bytes was ignored (a crash)")
        if self.status is None:
            found.append("the ledger was never closed: the run was interrupted, or is still going")
        return found


def _signed(line: LedgerLine, verifier: Verifier) -> bool:
    if line.signature is None:
        return False
    try:
        signature = bytes.fromhex(line.signature)
    except ValueError:
        return False
    return verifier(signed_message(line.digest), signature)
