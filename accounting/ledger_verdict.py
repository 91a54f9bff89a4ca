"""Reading somebody else's ledger, and deciding whether its claim holds.

`verify_ledger` trusts nothing but the lines: it walks them on its own, shares no totals with the
writer, recomputes epsilon from the raw events with two accountants, and reports every problem it
finds in words instead of stopping at the first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from accounting.accountants import EpsilonPair
from accounting.adversaries import Adversary
from accounting.errors import LedgerCorrupted
from accounting.ledger_format import (
    LedgerHeader,
    LedgerLine,
    chain_problems,
    decode_header,
    decode_lines,
    signed_message,
)
from accounting.ledger_walk import LedgerWalk
from accounting.receipts import ReceiptCheck, ReceiptVerifier

Verifier = Callable[[bytes, bytes], bool]


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
        A verdict; it never raises for what it finds in the lines or in the header.
    """
    header = record.header
    receipts = receipt_verifier and ReceiptCheck(
        header.run_id, header.plan_hash, receipt_verifier, header.schedule.threshold or 1
    )
    walk = LedgerWalk(header, receipts or None)
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


def _signed(line: LedgerLine, verifier: Verifier) -> bool:
    if line.signature is None:
        return False
    try:
        signature = bytes.fromhex(line.signature)
    except ValueError:
        return False
    return verifier(signed_message(line.digest), signature)
