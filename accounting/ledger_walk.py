"""One pass over a ledger's lines: what they add up to, and everything that is wrong with them."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from accounting.accountants import UNBOUNDED, Accounting, EpsilonPair
from accounting.adversaries import Adversary, ReleaseSchedule
from accounting.discrete_rdp import library_epsilon
from accounting.errors import AccountingError
from accounting.events import Repeated
from accounting.ledger_format import OUTCOME_STATUSES, LedgerHeader, LedgerLine
from accounting.ledger_state import (
    CLOSE_FIELDS,
    OUTCOME_FIELDS,
    SPEND_FIELDS,
    body_matches,
    encode_release,
)
from accounting.rdp import RdpFilter
from accounting.receipts import ReceiptCheck

_LIBRARY_TOLERANCE = 1e-3


@dataclass(slots=True)
class LedgerWalk:
    """Totals of the lines taken so far, its own and not the writer's; never raises for a fault.

    Attributes:
        header: what the run claims to be held to.
        receipts: checks receipts of opened sums, if given.
        problems: what is wrong, one sentence each.
    """

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
        """The releases that the header allows."""
        return self.header.schedule

    def problem(self, index: int, reason: str) -> None:
        """Note what is wrong with one line."""
        self.problems.append(f"line {index}: {reason}")

    def take(self, line: LedgerLine) -> None:
        """Add one line behind those taken before."""
        if self.status is not None:
            self.problem(line.index, "it stands after the close of the ledger")
        try:
            self._take(line)
        except (AccountingError, ArithmeticError) as error:
            self.problem(line.index, f"it cannot be priced under this header: {error}")

    def _take(self, line: LedgerLine) -> None:
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
        self._settle(None)
        self.cohort = tuple(cohort)
        self.counts.update(set(cohort))
        self.last_round = max(self.last_round, round_)
        self.rounds += 1
        # Last, since it may raise, and the round is booked all the same.
        if line.body["release"] != encode_release(self.schedule.round_events(Adversary.COALITION)):
            self.problem(line.index, "it books another release than the plan's")

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
        """Return how many rounds are booked for the busiest client."""
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
        self._check_cohorts()
        budget = self.header.budget
        delta = budget.delta if budget is not None else 0.5
        try:
            return self._priced(delta)
        except (AccountingError, ArithmeticError) as error:
            self.problems.append(f"what it holds has no price under this header: {error}")
            return dict.fromkeys(Adversary, UNBOUNDED)

    def _priced(self, delta: float) -> dict[Adversary, EpsilonPair]:
        budget, most = self.header.budget, self.most()
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

    def _check_cohorts(self) -> None:
        """Hold the claim on secret cohorts against the noise, and the rounds against the claim."""
        claim, noise = self.schedule.secret_cohort, self.schedule.noise
        if claim is not None and noise is not None and not isinstance(noise, int | float):
            self.problems += claim.problems(
                clients=self.header.clients, cohort=noise.cohort, rounds=self.rounds
            )

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
        # Each is an upper bound, so ours may be larger; smaller, one of the two would be wrong.
        if again > headline.rdp * (1 + _LIBRARY_TOLERANCE):
            self.problems.append(
                f"the two accountants contradict each other: RDP {headline.rdp:.6g}, by "
                f"dp-accounting {again:.6g}"
            )

    def realised(self) -> float:
        """Run the filter over every client's own rounds and return the largest result.

        A record whose copies share sums may have been in all rounds. Infinite where the header has
        no price; `price` says why.
        """
        self._settle(None)
        try:
            return self._realised()
        except (AccountingError, ArithmeticError):
            return math.inf

    def _realised(self) -> float:
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
        """Return what is worth knowing of a ledger with so long an unfinished last line."""
        found = []
        if torn_bytes:
            found.append(f"an unfinished last line of {torn_bytes} bytes was ignored (a crash)")
        if self.status is None:
            found.append("the ledger was never closed: the run was interrupted, or is still going")
        return found
