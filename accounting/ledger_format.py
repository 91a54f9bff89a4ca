"""The ledger's file format: lines, their hashes, and the header that binds a run to its plan.

A ledger is a text file. Each line is one canonical JSON object

    {"body": ..., "hash": ..., "index": ..., "kind": ..., "prev": ...[, "signature": ...]}

where `hash` is the SHA-256 of the canonical bytes of the other fields (without `signature`), `prev`
is the hash of the line before, and the first `prev` is derived from the hashes of plan and config.
Kinds: `header`, then `spend` and `outcome` once per round, and `close` at the end.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from accounting.adversaries import ReleaseSchedule
from accounting.canonical import JSON, canonical_bytes, from_canonical_bytes
from accounting.errors import AccountingError, InvalidPrivacyParameter, LedgerCorrupted
from accounting.modes import Mode
from accounting.rdp import refuse_replace_one
from accounting.schedule_format import decode_schedule, encode_schedule
from accounting.units import Adjacency, Budget, PrivacyUnit

FORMAT_VERSION = 1
OutcomeStatus = Literal["released", "aborted"]
OUTCOME_STATUSES: tuple[OutcomeStatus, ...] = ("released", "aborted")
_GENESIS_LABEL = "privfed-dpo ledger genesis 1"
_SIGNATURE_LABEL = b"privfed-dpo ledger line 1:"
_LINE_FIELDS = frozenset({"body", "hash", "index", "kind", "prev"})
_HEADER_FIELDS = frozenset(
    {
        "format",
        "run_id",
        "plan_hash",
        "config_hash",
        "unit",
        "adjacency",
        "budget",
        "schedule",
        "clients",
        "extra",
    }
)


@dataclass(frozen=True, slots=True)
class LedgerHeader:
    """What a run is held to, fixed before its first round.

    Attributes:
        run_id: name of the run.
        plan_hash: hash of the frozen plan, any non-empty text.
        config_hash: hash of the resolved config, any non-empty text.
        unit: what one record is; that of the schedule, unless there is no noise.
        adjacency: must be zero-out; the cross-check accountant has no other.
        budget: ceiling that every spend is held against. None only in mode none; a budget with
            infinite epsilon refuses nothing.
        schedule: the releases each client may take part in.
        clients: number of enrolled clients, >= 1.
        extra: further public facts to bind, JSON.

    Raises:
        InvalidPrivacyParameter: a field out of range, or private training without a budget.
        UnsupportedAdjacency: replace-one.
    """

    run_id: str
    plan_hash: str
    config_hash: str
    unit: PrivacyUnit
    adjacency: Adjacency
    budget: Budget | None
    schedule: ReleaseSchedule
    clients: int
    extra: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse headers that no run could be held to."""
        for name in ("run_id", "plan_hash", "config_hash"):
            if not getattr(self, name):
                raise InvalidPrivacyParameter(name, getattr(self, name), "give a non-empty text")
        refuse_replace_one(self.adjacency)
        if self.clients < 1:
            raise InvalidPrivacyParameter("clients", self.clients, "enrol at least one client")
        if self.unit is not self.schedule.unit and self.schedule.mode is not Mode.NONE:
            raise InvalidPrivacyParameter(
                "unit",
                str(self.unit),
                f"the noise of mode {self.schedule.mode} is made for one {self.schedule.unit}",
            )
        if self.budget is None and self.schedule.mode is not Mode.NONE:
            raise InvalidPrivacyParameter(
                "budget", None, "give a Budget; infinite epsilon if nothing is to be refused"
            )


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One line as read; `digest` is what the line claims, not yet checked."""

    index: int
    prev: str
    kind: str
    body: Mapping[str, Any]
    digest: str
    signature: str | None = None


def genesis(plan_hash: str, config_hash: str) -> str:
    """Return the `prev` of the first line: it ties the chain to one plan and one config."""
    return _sha256([_GENESIS_LABEL, plan_hash, config_hash])


def line_hash(index: int, prev: str, kind: str, body: Mapping[str, JSON]) -> str:
    """Return the hash that a line with this content must carry, 64 hex digits."""
    return _sha256({"body": body, "index": index, "kind": kind, "prev": prev})


def signed_message(digest: str) -> bytes:
    """Return the bytes that the coordinator signs for a line with this hash."""
    return _SIGNATURE_LABEL + digest.encode("ascii", "replace")


def encode_line(line: LedgerLine) -> bytes:
    """Return the line's bytes, line break included."""
    fields: dict[str, JSON] = {
        "body": line.body,
        "hash": line.digest,
        "index": line.index,
        "kind": line.kind,
        "prev": line.prev,
    }
    if line.signature is not None:
        fields["signature"] = line.signature
    return canonical_bytes(fields) + b"\n"


def decode_lines(content: bytes) -> tuple[list[LedgerLine], int]:
    """Split a ledger's bytes into lines.

    Returns:
        The complete lines, and the number of bytes of a torn last line (no line break): what a
        crash in the middle of a write leaves behind.

    Raises:
        LedgerCorrupted: a complete line is not a canonical ledger line.
    """
    complete, break_, torn = content.rpartition(b"\n")
    rows = complete.split(b"\n") if break_ else []
    return [_decode_line(index, row) for index, row in enumerate(rows)], len(torn)


def _decode_line(index: int, row: bytes) -> LedgerLine:
    try:
        fields = from_canonical_bytes(row)
    except (ValueError, RecursionError) as error:
        raise LedgerCorrupted(index, f"it is not canonical JSON ({error})") from error
    if not isinstance(fields, dict) or fields.keys() - {"signature"} != _LINE_FIELDS:
        raise LedgerCorrupted(index, f"expected exactly the fields {sorted(_LINE_FIELDS)}")
    signature = fields.get("signature")
    texts = (fields["prev"], fields["kind"], fields["hash"], signature or "")
    if not all(isinstance(text, str) for text in texts) or (
        "signature" in fields and not signature
    ):
        raise LedgerCorrupted(index, "prev, kind, hash and signature must be texts")
    if type(fields["index"]) is not int or not isinstance(fields["body"], dict):
        raise LedgerCorrupted(index, "index must be a whole number and body an object")
    return LedgerLine(
        index=fields["index"],
        prev=fields["prev"],
        kind=fields["kind"],
        body=fields["body"],
        digest=fields["hash"],
        signature=signature,
    )


def chain_problems(lines: Sequence[LedgerLine], header: LedgerHeader) -> Iterator[tuple[int, str]]:
    """Yield (position, what is wrong) for every break in indexes, links or hashes."""
    prev = genesis(header.plan_hash, header.config_hash)
    for position, line in enumerate(lines):
        if line.index != position:
            yield position, f"it carries index {line.index}: a line was removed, added or moved"
        if line.prev != prev:
            yield position, "it does not follow the line before it: the chain is broken here"
        if line_hash(line.index, line.prev, line.kind, line.body) != line.digest:
            yield position, "its content does not match its hash: it was edited"
        if (line.kind == "header") != (position == 0):
            yield position, "exactly the first line must be the header"
        prev = line.digest


def encode_header(header: LedgerHeader) -> dict[str, JSON]:
    """Return the header line's body."""
    budget: dict[str, JSON] | None = None
    if header.budget is not None:
        epsilon = header.budget.epsilon
        budget = {
            "epsilon": epsilon if math.isfinite(epsilon) else None,
            "delta": header.budget.delta,
        }
    return {
        "format": FORMAT_VERSION,
        "run_id": header.run_id,
        "plan_hash": header.plan_hash,
        "config_hash": header.config_hash,
        "unit": str(header.unit),
        "adjacency": str(header.adjacency),
        "budget": budget,
        "schedule": encode_schedule(header.schedule),
        "clients": header.clients,
        "extra": dict(header.extra),
    }


def decode_header(body: Mapping[str, Any]) -> LedgerHeader:
    """Read the header line's body; strict.

    Raises:
        LedgerCorrupted: fields missing, unknown, of the wrong type or out of range.
    """
    if body.keys() != _HEADER_FIELDS:
        raise LedgerCorrupted(
            0, f"the header must have exactly the fields {sorted(_HEADER_FIELDS)}"
        )
    if body["format"] != FORMAT_VERSION:
        raise LedgerCorrupted(0, f"format {body['format']!r} is not known, only {FORMAT_VERSION}")
    texts = ("run_id", "plan_hash", "config_hash")
    if not all(isinstance(body[name], str) for name in texts) or type(body["clients"]) is not int:
        raise LedgerCorrupted(0, "run_id and hashes must be texts, clients a whole number")
    if not isinstance(body["extra"], dict):
        raise LedgerCorrupted(0, "extra must be an object")
    try:
        return LedgerHeader(
            run_id=body["run_id"],
            plan_hash=body["plan_hash"],
            config_hash=body["config_hash"],
            unit=PrivacyUnit(body["unit"]),
            adjacency=Adjacency(body["adjacency"]),
            budget=_decode_budget(body["budget"]),
            schedule=decode_schedule(body["schedule"]),
            clients=body["clients"],
            extra=body["extra"],
        )
    except (AccountingError, ArithmeticError, TypeError, ValueError) as error:
        raise LedgerCorrupted(0, f"the header holds an impossible value ({error})") from error


def _decode_budget(encoded: Any) -> Budget | None:
    if encoded is None:
        return None
    if not isinstance(encoded, dict) or encoded.keys() != {"epsilon", "delta"}:
        raise LedgerCorrupted(0, "the budget must have exactly the fields delta and epsilon")
    epsilon = encoded["epsilon"]
    return Budget(math.inf if epsilon is None else epsilon, encoded["delta"])


def _sha256(value: JSON) -> str:
    return hashlib.sha256(canonical_bytes(value)).hexdigest()
