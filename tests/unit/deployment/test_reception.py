"""A round is booked on fresh news only: who said a while ago that it is there may be gone."""

import pytest

from privfed_dpo.deployment.reception import Reception
from privfed_dpo.deployment.roster import Roster
from privfed_dpo.errors import RunAborted
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy


class HangingCarrier:
    """Its relay looked once; then the transport died, and nothing comes any more."""

    def __init__(self):
        self.addresses, self.members, self.looks, self.now = {0: "n0", 1: "n1"}, frozenset(), 0, 0.0

    def look(self, seconds):
        self.looks += 1
        self.members = frozenset(self.addresses.values()) if self.looks == 1 else frozenset()
        self.now += 0.0 if self.looks == 1 else seconds

    def wait(self, seconds):
        self.now += seconds

    def send(self, messages, **_):
        return {}


def test_no_round_begins_on_what_a_relay_said_before_it_hung():
    carrier, told = HangingCarrier(), []
    entropy = counted_entropy("reception")
    key = IdentityKey.generate(entropy)
    names = ("a", "b")
    reception = Reception(
        carrier=carrier,
        roster=Roster(key.public, dict.fromkeys(names, key.public), dict.fromkeys(names, 5)),
        document=b"run",
        identity=key,
        threshold=2,
        join_seconds=1.0,
        patience_seconds=100.0,
        entropy=entropy,
        journal=lambda event, **facts: told.append(event),
        clock=lambda: carrier.now,
    )
    reception.await_cohort(1, names)
    with pytest.raises(
        RunAborted, match="round 2 needs 2 clients, and only 0 are connected"
    ) as end:
        reception.await_cohort(2, names)
    assert "resume" in end.value.advice
    assert 100.0 <= carrier.now < 130.0, "it gives up when its patience ends"
