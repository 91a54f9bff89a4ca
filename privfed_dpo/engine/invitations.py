"""What all clients of a round have in common, signed by the coordinator and bound into every mask.

A server that sends most clients an adapter on which their gradients vanish, and one client the real
one, would learn that client's own contribution from the sum (Pasquini, Francati and Ateniese, 2022:
model inconsistency). Here the digests of all adapters of a round go into its id, from which every
key, signature and mask of the protocol is derived: clients that were told different things share no
masks, and their round cannot be opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import msgspec

from privfed_dpo.engine.drift_state import Departure
from privfed_dpo.engine.messages import RoundStart, encode
from privfed_dpo.engine.plan import RunPlan

Signer = Callable[[bytes], bytes]
"""Signs a message with a long-lived key."""

_ROUND = b"privfed-dpo/round/2/"
_INVITED = b"privfed-dpo/invitation/1/"
_ROUND_BYTES = 8


def round_id(run_id: bytes, round_number: int, start: RoundStart) -> bytes:
    """Bytes unique to this run and round, and to all that its clients are told.

    Args:
        run_id: 16 bytes that name the run.
        round_number: training round, from 1.
        start: the invitation of any client of the round; its own adapter does not matter, since
            the digests of all adapters are in it.

    Returns:
        32 bytes. Equal for two clients only if plan, cohort, adapters and control variates are.
    """
    common = encode(msgspec.structs.replace(start, weights=b"", signature=b""))
    place = run_id + round_number.to_bytes(_ROUND_BYTES, "big")
    return hashlib.sha256(_ROUND + place + hashlib.sha256(common).digest()).digest()


def invitation_message(run_id: bytes, round_number: int, start: RoundStart) -> bytes:
    """The bytes that a coordinator signs; the same for all clients of a round."""
    return _INVITED + round_id(run_id, round_number, start)


def invite(
    plan: RunPlan,
    run_id: bytes,
    round_number: int,
    *,
    cohort: Sequence[int],
    departure: Departure,
    sign: Signer,
) -> Mapping[int, RoundStart]:
    """Write the invitations of a round.

    Args:
        plan: the run's plan.
        run_id: 16 bytes that name the run.
        round_number: training round, from 1.
        cohort: client numbers, ascending.
        departure: the adapters that clients set out from.
        sign: the coordinator's key.

    Returns:
        By the age of the adapter in rounds, what is sent to all clients that set out from it.
    """
    adapters = {0: departure.weights, **dict(departure.late.values())}
    sent = {age: weights.astype("<f4").tobytes() for age, weights in adapters.items()}
    unsigned = RoundStart(
        plan_hash=bytes.fromhex(plan.plan_hash),
        cohort=tuple(cohort),
        weights=b"",
        adapters=tuple(
            hashlib.sha256(sent[age]).digest() if age in sent else b""
            for age in range(max(sent) + 1)
        ),
        signature=b"",
        control=departure.control,
    )
    signature = sign(invitation_message(run_id, round_number, unsigned))
    return {
        age: msgspec.structs.replace(unsigned, weights=weights, signature=signature)
        for age, weights in sent.items()
    }


def holds_its_adapter(plan: RunPlan, round_number: int, client: int, start: RoundStart) -> bool:
    """Whether a client was sent the adapter that everybody was told it would be sent.

    Args:
        plan: whose public delays say how old that adapter is.
        round_number: training round, from 1.
        client: its number.
        start: its invitation.
    """
    ages = len(start.adapters)
    if not 1 <= ages <= plan.drift.max_staleness + 1:
        return False
    age = min(plan.drift.delay(round_number, client), ages - 1)
    return start.adapters[age] == hashlib.sha256(start.weights).digest()
