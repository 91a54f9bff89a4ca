"""A seeded network that reorders, drops, duplicates, delays, corrupts and lies, against every rule.

The adversary carries all messages, so it is network and lying server at once; up to `colluders`
clients sign whatever it likes. Rules and preconditions come from `secure_agg.phases`. After every
step: the honest server's sum is the plain integer sum of its survivors, or the round has aborted;
nobody can put together both secrets of an honest client; only documented errors occur (any other
exception fails the run); a failed machine stays failed. Failures print as a short program.
"""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from secure_agg import (
    ClientId,
    LocalProtocolError,
    Neighbourhood,
    Phase,
    RemoteProtocolError,
    RoundAborted,
    SecAggError,
    ServerSession,
    SessionFailed,
)
from secure_agg.messages import Confirmation, ConsistencyCheck, Survivors, UnmaskRequest
from secure_agg.phases import EXCHANGES, Kind, client_exchange
from secure_agg.views import to_bitmap
from tests.support.secagg_attacks import body_of, changed, frame_of, from_client, from_server
from tests.support.secagg_rounds import PHASES, make_cohort

REPLY_OF = {row.phase: row.reply for row in EXCHANGES}
SPARSE = Neighbourhood(degree=4, share_threshold=4, signature_quorum=7, signature_checks=5)
SHAPES = [
    dict(ids=4, threshold=3, colluders=0),
    dict(ids=5, threshold=4, colluders=1),
    dict(ids=6, threshold=4, colluders=0),
    dict(ids=9, threshold=7, colluders=1, neighbourhood=SPARSE),
]


class HostileNetwork(RuleBasedStateMachine):
    @initialize(
        shape=st.sampled_from(SHAPES),
        victims=st.lists(st.integers(0, 8), min_size=1, max_size=3),
        head_start=st.integers(0, 4),
    )
    def enrol(self, shape, victims, head_start):
        """Enrol a cohort, choose whom the adversary bothers, and play some phases undisturbed."""
        self.cohort = make_cohort(**shape, vector_length=3)
        self.params = self.cohort.params
        self.colluders = self.params.client_ids[: self.params.colluders]
        self.vectors = self.cohort.vectors()
        self.server = ServerSession(self.params)
        self.clients = {c: self.cohort.client(c) for c in self.params.client_ids}
        self.dead: set[ClientId] = set()
        self.signatures: dict[ClientId, dict[bytes, bytes]] = {}
        # (owner, which secret) -> holders whose share of it the adversary has seen.
        self.leaked: dict[tuple[ClientId, str], set[ClientId]] = {}
        self.ended: SecAggError | None = None
        # Messages under way, in no order; whatever was ever sent stays available for replay.
        self.up = [(c, self.clients[c].advertise()) for c in self.params.client_ids]
        self.down: list[tuple[ClientId, bytes]] = []
        self.sent = list(self.up)
        self.victims = [self.params.client_ids[v % len(self.params.client_ids)] for v in victims]
        for _ in range(head_start):
            self.play_a_phase()

    # Carrying

    @precondition(lambda self: self.up and self.received() + len(self.up) >= self.params.quorum)
    @rule()
    def play_a_phase(self):
        """Carry everything, close, carry the answers: how a round goes when nobody interferes."""
        self.carry_replies(lost=False, backwards=False)
        if self.received() >= self.params.quorum:
            self.close_with_enough()
        self.carry_requests(lost=False, backwards=False)

    @precondition(lambda self: self.up)
    @rule(lost=st.booleans(), backwards=st.booleans())
    def carry_replies(self, lost, backwards):
        """Deliver what is under way to the server, in some order; the victims' may have to wait."""
        late = self.victims if lost else []
        for client, data in reversed(self.up) if backwards else self.up:
            if client not in late:
                self.receive(client, data)
        self.up = [message for message in self.up if message[0] in late]

    @precondition(lambda self: self.down)
    @rule(lost=st.booleans(), backwards=st.booleans())
    def carry_requests(self, lost, backwards):
        """Deliver what is under way to the clients, in some order; the victims may have to wait."""
        late = self.victims if lost else []
        under_way, self.down = self.down, []
        for client, data in reversed(under_way) if backwards else under_way:
            if client in late:
                self.down.append((client, data))
            else:
                self.hand_over(client, data)

    @precondition(lambda self: self.theirs(self.up))
    @rule(which=st.integers(0))
    def lose_a_reply(self, which):
        self.take(self.up, which)

    @precondition(lambda self: self.theirs(self.down))
    @rule(which=st.integers(0))
    def lose_a_request(self, which):
        self.take(self.down, which)

    @rule(which=st.integers(0), to=st.integers(0))
    def replay_to_the_server(self, which, to):
        """Anything ever sent, under its sender's name or a victim's."""
        sender, data = self.sent[which % len(self.sent)]
        self.receive(sender if to % 2 else self.pick(to), data)

    @rule(which=st.integers(0), to=st.integers(0))
    def replay_to_a_victim(self, which, to):
        """Anything ever sent to anyone; few sessions survive it."""
        self.hand_over(self.pick(to), self.sent[which % len(self.sent)][1])

    @precondition(lambda self: self.theirs(self.up))
    @rule(which=st.integers(0), place=st.integers(0), flip=st.integers(1, 255))
    def corrupt_a_reply(self, which, place, flip):
        client, data = self.take(self.up, which)
        self.receive(client, corrupted(data, place, flip))

    @precondition(lambda self: self.theirs(self.down))
    @rule(which=st.integers(0), place=st.integers(0), flip=st.integers(1, 255))
    def corrupt_a_request(self, which, place, flip):
        client, data = self.take(self.down, which)
        self.hand_over(client, corrupted(data, place, flip))

    @precondition(lambda self: self.received() >= self.params.quorum)
    @rule()
    def close_with_enough(self):
        self.close()

    @precondition(lambda self: 0 < self.received() < self.params.quorum)
    @rule(hurry=st.integers(0, 9))
    def close_with_too_few(self, hurry):
        if hurry == 0:
            self.close()
            assert self.ended is not None

    # Lying

    @rule(lost=st.sets(st.integers(0, 8), max_size=3), client=st.integers(0))
    def lie_about_survivors(self, lost, client):
        """Tell one client a survivor set of the adversary's choice."""
        alive = [c for c in self.params.client_ids if c not in lost]
        body = Survivors(to_bitmap(self.params, alive))
        target = self.pick(client)
        self.hand_over(target, from_server(self.params, Kind.SURVIVORS, target, body))

    @rule(client=st.integers(0))
    def ask_for_reveals_with_every_signature_there_is(self, client):
        """Show a client the signatures its own statement has collected so far, colluders' too."""
        target = self.pick(client)
        statement = getattr(self.clients[target]._state, "statement", None)
        if statement is None:
            return
        body = ConsistencyCheck(statement)
        for colluder in self.colluders:
            self.note(colluder, from_client(self.cohort, Kind.CONSISTENCY_CHECK, colluder, body))
        shown = tuple(
            Confirmation(c, signed[statement])
            for c, signed in sorted(self.signatures.items())
            if statement in signed
        )
        request = UnmaskRequest(shown)
        self.hand_over(target, from_server(self.params, Kind.UNMASK_REQUEST, target, request))

    @precondition(lambda self: self.colluders)
    @rule(noise=st.binary(min_size=32, max_size=32))
    def let_a_colluder_lie(self, noise):
        """A colluder signs a reply whose content it changed."""
        sender = self.colluders[0]
        mine = [place for place, message in enumerate(self.up) if message[0] == sender]
        if not mine:
            return
        data = self.up.pop(mine[0])[1]
        frame = frame_of(data)
        if frame.kind == Kind.MASKED_INPUT:
            return
        body = body_of(data)
        match Kind(frame.kind):
            case Kind.ADVERTISE_KEYS:
                lie = changed(body, self_mask_commitment=noise)
            case Kind.SHARE_KEYS:
                lie = changed(body, view_digest=noise)
            case Kind.CONSISTENCY_CHECK:
                lie = changed(body, statement=noise)
            case _:
                wrong = tuple(changed(r, share=b"\0" + noise) for r in body.reveals)
                lie = changed(body, reveals=wrong)
        self.receive(sender, from_client(self.cohort, Kind(frame.kind), sender, lie))

    # Bookkeeping

    def pick(self, number):
        return self.victims[number % len(self.victims)]

    def theirs(self, messages):
        return [message for message in messages if message[0] in self.victims]

    def take(self, messages, which):
        """Remove one of the victims' messages from those under way."""
        mine = self.theirs(messages)
        message = mine[which % len(mine)]
        messages.remove(message)
        return message

    def received(self):
        if not hasattr(self, "server") or self.server.phase is None:
            return 0
        return len(self.server._admitted)

    def receive(self, client, data):
        with contextlib.suppress(RemoteProtocolError, LocalProtocolError):
            self.server.receive(client, data)

    def close(self):
        try:
            requests = self.server.close_phase()
        except RoundAborted as error:
            self.ended = error
            return
        self.down += requests.items()
        self.sent += requests.items()

    def hand_over(self, client, data):
        """Give a request to a client; record what its reply tells the adversary."""
        session = self.clients[client]
        exchange = client_exchange(session.stage)
        vector = self.vectors[client] if session.awaiting is Phase.MASKED_INPUT else None
        held = getattr(session._state, "held", None)
        alive = set(getattr(session._state, "survivors", ()))
        try:
            reply = session.handle(data, vector=vector)
        except LocalProtocolError:
            return
        except RemoteProtocolError:
            self.dead.add(client)
            return
        assert exchange is not None
        assert frame_of(reply).kind == exchange.reply
        self.note(client, reply)
        if exchange.phase is Phase.UNMASK:
            for reveal in body_of(reply).reveals:
                which = "self mask" if reveal.owner in alive else "mask key"
                pair = held[ClientId(reveal.owner)]
                assert reveal.share == (pair.self_mask if which == "self mask" else pair.mask_key)
                self.leaked.setdefault((ClientId(reveal.owner), which), set()).add(client)
        self.up.append((client, reply))
        self.sent.append((client, reply))

    def note(self, client, reply):
        frame = frame_of(reply)
        if frame.kind == Kind.CONSISTENCY_CHECK:
            statement = body_of(reply).statement
            self.signatures.setdefault(client, {})[statement] = frame.signature

    # What must hold after every step

    @invariant()
    def the_sum_is_exact_or_absent(self):
        if not hasattr(self, "server") or self.server.failure or self.server.phase:
            return
        result = self.server.result
        assert len(result.survivors) >= self.params.threshold
        modulus = 1 << self.params.modulus_bits
        columns = zip(*(self.vectors[c].tolist() for c in result.survivors), strict=True)
        assert result.total.tolist() == [sum(column) % modulus for column in columns]

    @invariant()
    def no_honest_client_loses_both_secrets(self):
        for owner in getattr(self, "clients", ()):
            if owner in self.colluders:
                continue
            known = [
                len(self.leaked.get((owner, which), set()) | set(self.colluders))
                >= self.params.share_threshold
                for which in ("self mask", "mask key")
            ]
            assert not all(known)

    @invariant()
    def what_failed_stays_failed(self):
        for client in getattr(self, "dead", ()):
            assert self.clients[client].awaiting is None
            try:
                self.clients[client].handle(b"")
            except SessionFailed:
                continue
            raise AssertionError("a dead session answered")
        if getattr(self, "ended", None) is not None:
            assert self.server.failure is self.ended
            assert self.server.phase is None

    @invariant()
    def all_honest_reveals_follow_one_survivor_set(self):
        """Whoever revealed anything revealed for the same survivors: the core of the check."""
        kinds: dict[ClientId, set[str]] = {}
        for owner, which in getattr(self, "leaked", {}):
            kinds.setdefault(owner, set()).add(which)
        assert all(len(which) == 1 for which in kinds.values())


def corrupted(data: bytes, place: int, flip: int) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]


TestHostileNetwork = HostileNetwork.TestCase
TestHostileNetwork.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, print_blob=True
)


def test_the_rules_can_reach_the_end():
    """The machine is no straw man: played straight, its rules finish a round."""
    machine = HostileNetwork()
    machine.enrol(SHAPES[1], victims=[1], head_start=len(PHASES))
    machine.the_sum_is_exact_or_absent()
    assert machine.server.result.survivors == machine.params.client_ids
    assert len(machine.leaked) == len(machine.params.client_ids)
