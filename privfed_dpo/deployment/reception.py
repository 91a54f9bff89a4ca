"""Who is there: offers the run to nodes that turn up, and makes rounds wait for their clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from privfed_dpo.deployment.joining import NONCE_BYTES, Joined, Offer, joined_by, sign_offer
from privfed_dpo.deployment.journal import Journal
from privfed_dpo.deployment.roster import Roster
from privfed_dpo.engine.messages import MalformedEnvelope, decode, encode
from privfed_dpo.errors import RunAborted
from privfed_dpo.mechanism.keystream import Entropy
from privfed_dpo.wire.relay_carrier import RelayCarrier
from secure_agg import IdentityKey

JOIN = "Join"
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 20.0
"""Longest wait for the relay to say who is there; no round is booked on older news."""
_RETRY_SECONDS = 15.0
"""Pause between two offers to a node that did not join."""
_SILENT_SECONDS = 5.0
"""Longest wait for a node that let an offer pass before: one that has its model answers at once."""


@dataclass(slots=True)
class Reception:
    """Knows at which address each client can be reached.

    The transport's names are routing hints only: a client is whoever signs with its enrolled key.

    Attributes:
        carrier: reaches the nodes.
        roster: who may join.
        document: the encoded description of the run.
        identity: the coordinator's key.
        threshold: fewest clients with whom a round makes sense.
        join_seconds: how long a round waits for a missing client, once there are enough.
        patience_seconds: how long it waits while there are too few.
        entropy: source of nonces.
        journal: told who joins and who does not.
        clock: seconds, monotonic.
    """

    carrier: RelayCarrier
    roster: Roster
    document: bytes
    identity: IdentityKey
    threshold: int
    join_seconds: float
    patience_seconds: float
    entropy: Entropy
    journal: Journal
    clock: Callable[[], float] = time.monotonic
    _greeted: set[str] = field(default_factory=set)
    _given_up: set[str] = field(default_factory=set)
    _silent: set[str] = field(default_factory=set)

    def await_cohort(self, round_number: int, names: Sequence[str]) -> None:
        """Return once the round can begin: everybody is there, or enough after some waiting.

        A client that was waited for in vain is not waited for again until it has come back, and
        nobody else is waited for once the whole cohort is there.

        Raises:
            RunAborted: too few came. Nothing of this round was spent.
        """
        begun = self.clock()
        asked_again = begun - _RETRY_SECONDS
        while True:
            if self.clock() - asked_again >= _RETRY_SECONDS:
                asked_again = self.clock()
                self._greeted &= set(self.carrier.addresses.values())
            self.carrier.look(_ANSWER_SECONDS)
            if self._missing(names):
                self._greet(names)
            missing = self._missing(names)
            waited = self.clock() - begun
            if set(missing) <= self._given_up and self._enough(names, missing):
                return
            if self._enough(names, missing) and waited >= self.join_seconds:
                self._given_up |= set(missing)
                self.journal("going on without", round=round_number, clients=missing)
                return
            if waited >= self.patience_seconds:
                raise RunAborted(
                    f"round {round_number} needs {self.threshold} clients, and only "
                    f"{len(names) - len(missing)} are connected",
                    advice="Nothing of it was spent; when they are back, resume the run.",
                )
            self.carrier.wait(_LOOK_SECONDS)

    def _enough(self, names: Sequence[str], missing: Sequence[str]) -> bool:
        return len(names) - len(missing) >= min(self.threshold, len(names))

    def _missing(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if not self._present(name)]

    def _present(self, name: str) -> bool:
        number = self.roster.names.index(name)
        return self.carrier.addresses.get(number) in self.carrier.members

    def _greet(self, names: Sequence[str]) -> None:
        """Offer the run to every node that has not joined; see _RETRY_SECONDS."""
        new = self.carrier.members - self._greeted
        if not new:
            return
        self._greeted |= new
        offer = sign_offer(self.document, self.identity, self.entropy(NONCE_BYTES))
        heard: set[str] = set()

        def complete(replies: Mapping[str, bytes]) -> bool:
            for address in replies.keys() - heard:
                self._admit(address, replies[address], offer)
            heard.update(replies)
            return not self._missing(names)

        replies = self.carrier.send(
            dict.fromkeys(sorted(new), encode(offer)),
            round_number=0,
            step=JOIN,
            numbers={},
            seconds=_SILENT_SECONDS if new <= self._silent else None,
            enough=complete,
        )
        if complete(replies):
            return
        self._silent = (self._silent | new) - heard
        for address in new - heard:
            self.journal("did not join", node=address)

    def _admit(self, address: str, data: bytes, offer: Offer) -> None:
        try:
            joined = decode(data, Joined)
        except MalformedEnvelope as error:
            self.journal("did not join", node=address, reason=str(error))
            return
        key = self.roster.keys.get(joined.name)
        if key is None or not joined_by(joined, offer, key):
            self.journal("did not join", node=address, reason="not signed by an enrolled client")
            return
        number = self.roster.names.index(joined.name)
        self.carrier.addresses[number] = address
        self._given_up.discard(joined.name)
        self.journal("joined", node=address, client=joined.name)
