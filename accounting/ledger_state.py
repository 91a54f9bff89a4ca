"""What a ledger's lines add up to: a fold over them, without any file.

`Ledger` keeps one of these beside its file, and rebuilds it from the lines when a file is opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accounting.accountants import NOTHING_SPENT, UNBOUNDED, EpsilonCurve, EpsilonPair
from accounting.adversaries import Adversary
from accounting.errors import LedgerMisuse
from accounting.events import Repeated, encode_event
from accounting.ledger_format import OUTCOME_STATUSES, LedgerHeader, LedgerLine
from accounting.rdp import committed_order, epsilon_at_order, renyi_divergences
from accounting.receipts import Receipt, decode_receipts

SPEND_FIELDS = {"round": int, "cohort": list, "release": dict}
OUTCOME_FIELDS = {"round": int, "status": str, "survivors": list, "receipts": dict}
CLOSE_FIELDS = {"status": str, "facts": dict}


@dataclass(slots=True)
class LedgerState:
    """Running totals of one ledger.

    Attributes:
        header: what the run is held to.
        participations: client -> number of rounds booked for it.
        rounds_spent: number of spend lines.
        last_round: round of the latest spend, None before the first.
        pending: cohort of the latest spend while it has no outcome.
        released_rounds: number of rounds whose sum was opened.
        receipt_counts: client -> rounds it counted in its latest receipt.
        status: text of the close line; None while open.
    """

    header: LedgerHeader
    participations: dict[str, int] = field(default_factory=dict)
    rounds_spent: int = 0
    last_round: int | None = None
    pending: tuple[str, ...] | None = None
    released_rounds: int = 0
    receipt_counts: dict[str, int] = field(default_factory=dict)
    status: str | None = None
    _curve: EpsilonCurve | None = None
    _order: float = 2.0
    _settled: dict[str, float] = field(default_factory=dict)
    _settled_in_all: float = 0.0

    def __post_init__(self) -> None:
        """Fix the curve, and the Renyi order, from the plan alone."""
        schedule, budget = self.header.schedule, self.header.budget
        if budget is not None and schedule.noise is not None:
            self._curve = schedule.curve(schedule.headline, budget.delta)
            model_delta = budget.delta / schedule.slack.delta_factor
            self._order = committed_order(schedule.view(schedule.headline), model_delta)

    def replay(self, line: LedgerLine) -> None:
        """Apply one line that was read from a file, with the checks of a writer.

        Raises:
            LedgerMisuse, TypeError, ValueError: no honest writer could have written it.
        """
        body = line.body
        if line.kind == "spend" and body_matches(body, SPEND_FIELDS):
            if body != spend_body(self.header, body["round"], body["cohort"]):
                raise LedgerMisuse("the booked release is not the one of the plan")
            self.check_spend(body["round"], body["cohort"])
            self.spend(body["round"], body["cohort"])
        elif line.kind == "outcome" and body_matches(body, OUTCOME_FIELDS):
            self.check_outcome(body["round"], body["status"], body["survivors"])
            self.outcome(body["status"], body["survivors"], decode_receipts(body["receipts"]))
        elif line.kind == "close" and body_matches(body, CLOSE_FIELDS):
            self.close(body["status"])
        else:
            raise LedgerMisuse(f"unknown kind {line.kind!r}, or fields of the wrong type")

    def check_spend(self, round_: int, cohort: Sequence[str]) -> None:
        """Refuse a spend that has no place here, whatever it costs.

        Raises:
            LedgerMisuse: closed; the round does not advance (a round without an opened sum may be
                tried again); or a cohort that is not the plan's.
        """
        self._check_open()
        if round_ < 0:
            raise LedgerMisuse(f"round {round_}: count rounds from 0 upwards")
        retried = self.pending is not None
        if self.last_round is not None and round_ < self.last_round + (0 if retried else 1):
            raise LedgerMisuse(
                f"round {round_} comes after round {self.last_round}, which is already booked; "
                "rounds only go forward, and only one without an outcome may be booked again"
            )
        expected = self.header.schedule.cohort
        empty = not cohort and self.header.schedule.secret_cohort is None
        if empty or (expected is not None and len(cohort) != expected):
            raise LedgerMisuse(
                f"a cohort of {len(cohort)} was given, the plan's noise is made for "
                f"{expected if expected is not None else 'at least 1'}"
            )
        if len(set(cohort)) != len(cohort) or not all(
            isinstance(client, str) and client for client in cohort
        ):
            raise LedgerMisuse("each client may stand in a cohort once, under a non-empty name")
        if len(self.participations.keys() | set(cohort)) > self.header.clients:
            raise LedgerMisuse(
                f"more than the {self.header.clients} clients of the header would have taken part"
            )

    def check_outcome(self, round_: int, status: str, survivors: Sequence[str]) -> None:
        """Refuse an outcome that does not belong to the latest spend.

        Raises:
            LedgerMisuse: no spend waits for it, another round, an unknown status, survivors from
                outside the cohort, or a release below the threshold.
        """
        self._check_open()
        if self.pending is None or round_ != self.last_round:
            raise LedgerMisuse(f"round {round_} has no spend that waits for an outcome")
        if status not in OUTCOME_STATUSES:
            raise LedgerMisuse(f"an outcome is one of {OUTCOME_STATUSES}, not {status!r}")
        if len(set(survivors)) != len(survivors) or not set(survivors) <= set(self.pending):
            raise LedgerMisuse("survivors must be distinct members of the round's cohort")
        threshold = self.header.schedule.threshold or 1
        if status == "released" and len(survivors) < threshold:
            raise LedgerMisuse(
                f"{len(survivors)} survivors are below the threshold of {threshold}: such a sum "
                "must not be opened"
            )

    def spend(self, round_: int, cohort: Sequence[str]) -> None:
        """Book one more round for every client of the cohort."""
        self._settle(None)
        for client in cohort:
            self.participations[client] = self.participations.get(client, 0) + 1
        self.rounds_spent += 1
        self.last_round = round_
        self.pending = tuple(cohort)

    def outcome(
        self, status: str, survivors: Sequence[str], receipts: Mapping[str, Receipt]
    ) -> None:
        """Replace the guaranteed noise of the latest round by what really happened."""
        released = status == "released"
        self.released_rounds += released
        for client, receipt in receipts.items():
            self.receipt_counts[client] = receipt.participation
        self._settle(len(survivors) if released else None)

    def close(self, status: str) -> None:
        """Book the end of the run."""
        self._check_open()
        self.status = status

    def epsilon_after(self, participations: int, more_rounds: int = 0) -> EpsilonPair:
        """Return the headline epsilon of a client that takes part this often; an upper bound.

        Where copies of a record share sums, of a record that all clients might hold.

        Args:
            participations: rounds of the client.
            more_rounds: rounds of the run beyond those booked.
        """
        if participations == 0:
            return NOTHING_SPENT
        schedule = self.header.schedule
        if schedule.copies_share_sums:
            busiest = max(participations, self.most_participations())
            participations = schedule.record_rounds(busiest, self.rounds_spent + more_rounds)
        if self._curve is None or self.header.budget is None:
            return UNBOUNDED
        pair = self._curve.pair(participations)
        if pair.certified > self.header.budget.epsilon:
            return self._curve.certified(participations)
        return pair

    def most_participations(self, cohort: Sequence[str] | None = None) -> int:
        """Return the largest booked count, over everyone or over a cohort."""
        if cohort is None:
            return max(self.participations.values(), default=0)
        return max((self.participations.get(client, 0) for client in cohort), default=0)

    def realised_epsilon(self) -> float:
        """Return epsilon by the RDP filter at the plan's order, with the survivors there were.

        Rounds without an opened sum are booked at the guaranteed noise. Where copies of a record
        share sums, every round counts for it. Informative: the guarantee of the run is the
        certified figure.
        """
        if not self.participations:
            return 0.0
        budget, schedule = self.header.budget, self.header.schedule
        if budget is None or schedule.noise is None:
            return UNBOUNDED.rdp
        waiting = self._divergence(None) if self.pending is not None else 0.0
        held = set(self.pending or ())
        if schedule.copies_share_sums:
            most = self._settled_in_all + waiting
        else:
            most = max(
                self._settled.get(client, 0.0) + (waiting if client in held else 0.0)
                for client in self.participations
            )
        slack = schedule.slack
        return (
            epsilon_at_order(self._order, most, budget.delta / slack.delta_factor) + slack.epsilon
        )

    def _settle(self, survivors: int | None) -> None:
        if self.pending is None:
            return
        cost = self._divergence(survivors)
        self._settled_in_all += cost
        for client in self.pending:
            self._settled[client] = self._settled.get(client, 0.0) + cost
        self.pending = None

    def _divergence(self, survivors: int | None) -> float:
        one = self.header.schedule.realised_round(survivors)
        return one.count * float(renyi_divergences(one.event, (self._order,))[0])

    def _check_open(self) -> None:
        if self.status is not None:
            raise LedgerMisuse(f"the ledger was closed with status {self.status!r}")


def spend_body(header: LedgerHeader, round_: int, cohort: Sequence[str]) -> dict[str, Any]:
    """Return the body of a spend line: the round, who is in it, and the raw events it may cost."""
    return {
        "round": round_,
        "cohort": sorted(cohort),
        "release": encode_release(header.schedule.round_events(Adversary.COALITION)),
    }


def encode_release(release: Repeated) -> dict[str, Any]:
    """Return a repeated event as JSON."""
    return {"event": encode_event(release.event), "count": release.count}


def body_matches(body: Mapping[str, Any], expected: Mapping[str, type]) -> bool:
    """Return whether a body has exactly these fields with exactly these types."""
    return body.keys() == expected.keys() and all(
        type(body[name]) is kind for name, kind in expected.items()
    )
