"""Clients' receipts: what they saw of a round, signed, so that a server cannot understate.

A ledger is written by the coordinator alone, who could invent survivors or leave out whole rounds.
A receipt is a client's own signature on the survivors it agreed to and on how often it has taken
part so far. Invented survivors need receipts over a set the clients never saw; a round left out
shows up as a participation number that the ledger cannot explain.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accounting.canonical import JSON, canonical_bytes

ReceiptVerifier = Callable[[str, bytes, bytes], bool]
"""(client, message, signature) -> whether the client enrolled under that name signed it."""

_LABEL = b"privfed-dpo receipt 1:"


@dataclass(frozen=True, slots=True)
class Receipt:
    """One client's signature on one round.

    Attributes:
        participation: rounds of this run the client has taken part in, this one included, by its
            own count.
        signature: over `receipt_message`.
    """

    participation: int
    signature: bytes = field(repr=False)


def receipt_message(
    *, run_id: str, plan_hash: str, round_: int, survivors: Iterable[str], participation: int
) -> bytes:
    """Return what a client signs: the same bytes for the client and for a stranger.

    Args:
        run_id: name of the run.
        plan_hash: the plan the client follows.
        round_: the round.
        survivors: clients whose input is in the opened sum, as agreed in the protocol.
        participation: see `Receipt`.
    """
    facts: JSON = {
        "participation": participation,
        "plan_hash": plan_hash,
        "round": round_,
        "run_id": run_id,
        "survivors": sorted(survivors),
    }
    return _LABEL + canonical_bytes(facts)


def encode_receipts(receipts: Mapping[str, Receipt]) -> dict[str, JSON]:
    """Return receipts as JSON, by client."""
    return {
        client: {"participation": receipt.participation, "signature": receipt.signature.hex()}
        for client, receipt in sorted(receipts.items())
    }


def decode_receipts(encoded: Mapping[str, Any]) -> dict[str, Receipt]:
    """Read receipts back.

    Raises:
        ValueError: an entry has not exactly the two fields, or they are malformed.
    """
    receipts = {}
    for client, entry in encoded.items():
        if not isinstance(entry, Mapping) or entry.keys() != {"participation", "signature"}:
            raise ValueError(f"the receipt of {client} has not the fields of a receipt")
        count, signature = entry["participation"], entry["signature"]
        if type(count) is not int or type(signature) is not str:
            raise ValueError(f"the receipt of {client} has fields of the wrong type")
        receipts[client] = Receipt(count, bytes.fromhex(signature))
    return receipts


@dataclass(slots=True)
class ReceiptCheck:
    """A stranger's pass over all receipts of a ledger, in order.

    Attributes:
        run_id: of the ledger's header.
        plan_hash: of the ledger's header.
        verifier: knows the clients' public keys.
        needed: receipts without which an opened sum is not believed.
        last: client -> rounds it counted in its latest receipt.
    """

    run_id: str
    plan_hash: str
    verifier: ReceiptVerifier
    needed: int
    last: dict[str, int] = field(default_factory=dict)

    def problems(
        self,
        round_: int,
        survivors: Iterable[str],
        encoded: Mapping[str, Any],
        booked: Counter[str],
    ) -> list[str]:
        """Return what is wrong with the receipts of one opened round, a sentence each.

        Args:
            round_: the round.
            survivors: what the ledger claims.
            encoded: the receipts of its outcome line.
            booked: rounds the ledger has booked for each client, this one included.
        """
        try:
            receipts = decode_receipts(encoded)
        except ValueError as error:
            return [str(error)]
        names = sorted(survivors)
        found = []
        for client, receipt in receipts.items():
            message = receipt_message(
                run_id=self.run_id,
                plan_hash=self.plan_hash,
                round_=round_,
                survivors=names,
                participation=receipt.participation,
            )
            if client not in names:
                found.append(f"{client} signed for the round but is not among its survivors")
            elif not self.verifier(client, message, receipt.signature):
                found.append(f"{client} did not sign these survivors of round {round_}")
            elif receipt.participation > booked[client]:
                found.append(
                    f"{client} counts {receipt.participation} rounds, the ledger books "
                    f"{booked[client]}: rounds were left out"
                )
            elif receipt.participation <= self.last.get(client, 0):
                found.append(f"{client} counts backwards: a receipt was used twice")
            self.last[client] = max(receipt.participation, self.last.get(client, 0))
        if len(receipts) < self.needed:
            found.append(f"{len(receipts)} clients signed for round {round_}, {self.needed} needed")
        return found
