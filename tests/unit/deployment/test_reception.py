"""Who is there: a round is booked on fresh news only, and who cannot sign has no place in it."""

import msgspec
import pytest

from privfed_dpo.deployment.joining import Offer, sign_joined
from privfed_dpo.deployment.reception import Reception
from privfed_dpo.deployment.roster import Roster
from privfed_dpo.engine.messages import decode, encode
from privfed_dpo.errors import RunAborted
from secure_agg import IdentityKey
from tests.support.deep_nesting import with_a_deep_field
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


class Nodes:
    """Nodes that answer an offer each in its own way; `answers` are functions from its bytes."""

    def __init__(self, answers):
        self.answers, self.addresses, self.members, self.now = answers, {}, frozenset(answers), 0.0

    def look(self, seconds):
        pass

    def wait(self, seconds):
        self.now += seconds

    def send(self, messages, **_):
        return {address: self.answers[address](data) for address, data in messages.items()}


ENTROPY = counted_entropy("reception")
KEYS = {name: IdentityKey.generate(ENTROPY) for name in ("server", "a", "b", "stranger")}
NAMES = ("a", "b")


def reception(carrier, told):
    public = {name: KEYS[name].public for name in NAMES}
    return Reception(
        carrier=carrier,
        roster=Roster(KEYS["server"].public, public, dict.fromkeys(NAMES, 5)),
        document=b"run",
        identity=KEYS["server"],
        threshold=2,
        join_seconds=1.0,
        patience_seconds=100.0,
        entropy=ENTROPY,
        journal=lambda event, **facts: told.append((event, facts)),
        clock=lambda: carrier.now,
    )


def signs_as(name, key):
    return lambda data: encode(sign_joined(decode(data, Offer), name, KEYS[key]))


def test_who_cannot_sign_is_named_and_has_no_place():
    def replays(data):
        """What an enrolled client answered to another offer."""
        earlier = msgspec.structs.replace(decode(data, Offer), nonce=b"o" * 32)
        return encode(sign_joined(earlier, "b", KEYS["b"]))

    answers = {
        "honest": signs_as("a", "a"),
        "garbage": lambda data: b"\x00garbage",
        "stranger": signs_as("stranger", "stranger"),
        "impostor": signs_as("b", "stranger"),
        "replay": replays,
        "echo": lambda data: data,
        "deep": lambda data: with_a_deep_field(signs_as("b", "b")(data)),
    }
    carrier, told = Nodes(answers), []
    with pytest.raises(RunAborted, match="only 1 are connected"):
        reception(carrier, told).await_cohort(1, NAMES)
    assert carrier.addresses == {0: "honest"}
    refused = {facts["node"]: facts["reason"] for event, facts in told if event == "did not join"}
    assert set(refused) == set(carrier.answers) - {"honest"}
    assert refused["impostor"] == refused["replay"] == "not signed by an enrolled client"


class Patient(Nodes):
    """Nodes of which some never answer: whoever asks them waits as long as it is ready to."""

    def __init__(self, answers, mute):
        super().__init__(answers)
        self.members |= mute

    def send(self, messages, *, seconds=None, enough, **_):
        replies = {a: self.answers[a](d) for a, d in messages.items() if a in self.answers}
        if not enough(replies) and len(replies) < len(messages):
            self.now += 600.0 if seconds is None else seconds
        return replies


def test_nobody_else_is_waited_for_once_the_cohort_is_there():
    carrier, told = Patient({"n0": signs_as("a", "a"), "n1": signs_as("b", "b")}, {"mute"}), []
    waiting = reception(carrier, told)
    for number in (1, 2, 3):
        waiting.await_cohort(number, NAMES)
    assert carrier.now == 0.0
    assert {facts["client"] for event, facts in told if event == "joined"} == {"a", "b"}


def test_a_silent_node_is_waited_for_at_length_only_once():
    """Later rounds cannot have client b either; they are not held up by a stranger."""
    carrier, told = Patient({"n0": signs_as("a", "a")}, {"mute"}), []
    waiting = reception(carrier, told)
    waiting.threshold, waiting.patience_seconds = 1, 10_000.0
    waits = []
    for number in (1, 2, 3):
        before = carrier.now
        waiting.await_cohort(number, NAMES)
        waits.append(carrier.now - before)
    assert waits == [600.0, 5.0, 5.0]


def test_no_round_begins_on_what_a_relay_said_before_it_hung():
    carrier, told = HangingCarrier(), []
    waiting = reception(carrier, told)
    waiting.await_cohort(1, NAMES)
    with pytest.raises(
        RunAborted, match="round 2 needs 2 clients, and only 0 are connected"
    ) as end:
        waiting.await_cohort(2, NAMES)
    assert "resume" in end.value.advice
    assert 100.0 <= carrier.now < 130.0, "it gives up when its patience ends"
