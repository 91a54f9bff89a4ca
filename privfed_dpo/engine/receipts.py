"""Which receipts the coordinator books: those a stranger will accept, so that no liar spoils them.

One client with a wrong signature or count would otherwise make a whole ledger unverifiable. A
coordinator gains nothing by leaving receipts out: a sum is believed with enough of them only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from accounting import Receipt
from accounting.receipts import ReceiptCheck, encode_receipts
from privfed_dpo.engine.messages import SignedReceipt
from privfed_dpo.engine.plan import RunPlan
from secure_agg import AuthenticationFailed, verify_signature


class ReceiptBook:
    """Checks receipts as they come, with the rules of verification.

    Args:
        plan: the run's plan.
        run_id: 16 bytes that name the run.
        roster: identity keys of all enrolled clients, by number.
        before: rounds each client counted in the latest receipt booked so far.
    """

    def __init__(
        self,
        plan: RunPlan,
        run_id: bytes,
        roster: Mapping[int, bytes],
        before: Mapping[str, int],
    ) -> None:
        self._names = plan.facts.client_names
        self._keys = {self._names[number]: key for number, key in roster.items()}
        self._check = ReceiptCheck(
            run_id.hex(), plan.plan_hash, self._signed, needed=0, last=dict(before)
        )

    def accepted(
        self,
        round_number: int,
        survivors: Sequence[str],
        receipts: Mapping[int, SignedReceipt],
        booked: Mapping[str, int],
    ) -> dict[str, Receipt]:
        """Return the receipts worth booking, by client name.

        Args:
            round_number: the round.
            survivors: names of the clients in the sum.
            receipts: what came back, by client number.
            booked: rounds the ledger has booked for each client, this one included.
        """
        found = {
            self._names[number]: Receipt(told.participation, told.signature)
            for number, told in receipts.items()
        }
        counts = Counter(dict(booked))
        return {
            name: receipt
            for name, receipt in found.items()
            if not self._check.problems(
                round_number, survivors, encode_receipts({name: receipt}), counts
            )
        }

    def _signed(self, client: str, message: bytes, signature: bytes) -> bool:
        try:
            verify_signature(self._keys[client], message, signature)
        except (AuthenticationFailed, KeyError, ValueError):
            return False
        return True
