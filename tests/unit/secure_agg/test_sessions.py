"""How the shells behave towards their own callers, and that secrets stay out of sight."""

import gc
from types import FunctionType, ModuleType

import numpy as np
import pytest

from secure_agg import (
    ClientSession,
    IdentityKey,
    LocalProtocolError,
    Phase,
    RoundAborted,
    SecAggError,
    SessionFailed,
    verify_signature,
)
from secure_agg.errors import AuthenticationFailed, MalformedMessage
from secure_agg.phases import EXCHANGES, ClientStage, ServerStage
from secure_agg.sampling import sample_indices, uniform_below
from secure_agg.shamir import UnrecoverableSecret, combine
from tests.support.secagg_rounds import PHASES, Round, entropy_from, make_cohort


@pytest.fixture
def cohort():
    return make_cohort(5, threshold=4, colluders=1)


def test_the_stages_follow_the_table(cohort):
    round_ = Round(cohort)
    one = round_.clients[0]
    for row in EXCHANGES:
        assert one.stage is row.client_before
        assert one.awaiting is row.phase
        assert round_.server.stage is row.server_before
        assert round_.server.phase is row.phase
        assert round_.server.outstanding == cohort.params.client_ids
        round_.collect(row.phase)
        assert round_.server.outstanding == ()
        assert one.stage is row.client_after
        round_.close()
        assert round_.server.stage is row.server_after
    assert (one.stage, round_.server.stage) == (ClientStage.DONE, ServerStage.FINISHED)
    assert one.awaiting is None
    assert round_.server.phase is None


def test_a_client_knows_the_survivors_only_once_enough_have_signed():
    cohort = make_cohort(5, threshold=4, colluders=1)
    round_ = Round(cohort, {Phase.MASKED_INPUT: [3]})
    for phase in PHASES:
        assert round_.clients[0].survivors is None
        round_.collect(phase)
        round_.close()
    assert round_.clients[0].survivors == round_.server.result.survivors == (0, 1, 2, 4)
    assert round_.clients[3].survivors is None


def test_calls_in_the_wrong_order_are_the_callers_fault_and_cost_nothing(cohort):
    round_ = Round(cohort)
    one = round_.clients[0]
    with pytest.raises(LocalProtocolError):
        one.handle(b"")
    first = one.advertise()
    with pytest.raises(LocalProtocolError):
        one.advertise()
    with pytest.raises(LocalProtocolError):
        _ = round_.server.result
    round_.gone.add(0)
    round_.collect(Phase.ADVERTISE_KEYS)
    round_.server.receive(0, first)
    round_.close()
    for phase in PHASES[1:]:
        round_.gone.clear()
        round_.collect(phase)
        round_.close()
    with pytest.raises(LocalProtocolError):
        one.handle(round_.requests[Phase.UNMASK][0])
    with pytest.raises(LocalProtocolError):
        round_.server.close_phase()
    with pytest.raises(LocalProtocolError):
        round_.server.receive(0, first)


@pytest.mark.parametrize(
    "vector",
    [
        None,
        np.zeros(6, np.uint32),
        np.zeros(7, np.int32),
        np.zeros(7, np.uint64),
        np.zeros((7, 1), np.uint32),
    ],
)
def test_a_wrong_vector_is_refused_and_may_be_corrected(cohort, vector):
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    one, data = round_.clients[0], round_.requests[Phase.MASKED_INPUT][0]
    with pytest.raises(LocalProtocolError):
        one.handle(data, vector=vector)
    assert one.awaiting is Phase.MASKED_INPUT
    for phase in PHASES[2:]:
        round_.collect(phase)
        round_.close()
    assert 0 in round_.server.result.survivors


def test_a_superfluous_vector_is_refused(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    with pytest.raises(LocalProtocolError):
        round_.clients[0].handle(round_.requests[Phase.SHARE_KEYS][0], vector=round_.vectors[0])


def test_the_input_is_only_read(cohort):
    round_ = Round(cohort)
    before = round_.vectors[0].copy()
    round_.vectors[0].flags.writeable = False
    round_.run()
    np.testing.assert_array_equal(round_.vectors[0], before)


def test_a_client_needs_its_enrolled_identity(cohort):
    stranger = IdentityKey.generate(entropy_from("stranger"))
    for client, identity in ((0, stranger), (77, cohort.identities[0])):
        with pytest.raises(LocalProtocolError):
            ClientSession(cohort.params, client, identity, entropy_from("x"))


def test_an_aborted_round_stays_aborted(cohort):
    round_ = Round(cohort)
    with pytest.raises(RoundAborted) as caught:
        round_.server.close_phase()
    assert caught.value.received == 0
    assert caught.value.missing == cohort.params.client_ids
    for call in (round_.server.close_phase, lambda: round_.server.receive(0, b"")):
        with pytest.raises(SessionFailed):
            call()
    assert round_.server.stage is ServerStage.ABORTED
    assert round_.server.dropped == {Phase.ADVERTISE_KEYS: cohort.params.client_ids}


def test_same_bytes_in_same_bytes_out(cohort):
    one, two = Round(cohort).run(), Round(cohort).run()
    assert one.replies == two.replies
    assert one.requests == two.requests


def test_fresh_entropy_gives_fresh_messages(cohort):
    other = make_cohort(5, threshold=4, colluders=1)
    other.seed = "other sessions"
    one, two = Round(cohort).run(), Round(other).run()
    assert cohort.params.digest == other.params.digest
    for phase in PHASES:
        assert all(one.replies[phase][c] != two.replies[phase][c] for c in range(5))
    np.testing.assert_array_equal(one.server.result.total, two.server.result.total)


def test_secrets_show_in_no_repr_and_no_error(cohort):
    round_ = Round(cohort)
    secrets = []
    for phase in PHASES:
        round_.collect(phase)
        state = round_.clients[0]._state
        if phase is Phase.ADVERTISE_KEYS:
            made = state.secrets
            secrets += [made.self_mask_secret, made.mask_key.private_bytes()]
            secrets += [made.seal_key.private_bytes(), state.member.identity.private_bytes()]
        if phase is Phase.MASKED_INPUT:
            secrets += [s for pair in state.held.values() for s in (pair.self_mask, pair.mask_key)]
        for shown in (repr(state), repr(round_.clients[0]), repr(round_.server._state)):
            for secret in secrets:
                assert secret.hex() not in shown
                assert repr(secret)[2:-1] not in shown
        round_.close()


def test_private_keys_are_gone_once_the_input_is_masked(cohort):
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    state = round_.clients[0]._state
    assert not hasattr(state, "secrets")
    round_.collect(Phase.CONSISTENCY_CHECK)
    round_.close()
    round_.collect(Phase.UNMASK)
    assert not hasattr(round_.clients[0]._state, "held")


@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_session_that_failed_holds_no_secret(cohort, phase):
    """A raised error holds the frames it passed; the one that is kept must not."""
    round_ = Round(cohort).run(phase)
    victim = round_.clients[0]
    state = victim._state
    mine = {id(state.secrets)} if hasattr(state, "secrets") else {id(state.held)}
    assert mine & reachable(victim)
    vector = round_.vectors[0] if phase is Phase.MASKED_INPUT else None
    with pytest.raises(MalformedMessage):
        victim.handle(b"junk", vector=vector)
    assert not mine & reachable(victim)
    with pytest.raises(SessionFailed, match="not a frame of this protocol") as later:
        victim.handle(b"junk", vector=vector)
    assert not mine & reachable(later.value.cause)


def reachable(start):
    """Ids of all objects that can be reached from one, leaving out code and its globals."""
    seen, left = set(), [start]
    while left:
        thing = left.pop()
        if id(thing) not in seen and not isinstance(thing, ModuleType | FunctionType | type):
            seen.add(id(thing))
            left += gc.get_referents(thing)
    return seen


def test_every_secret_of_a_round_is_a_different_one(cohort):
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    drawn = [
        secret
        for c in cohort.params.client_ids
        for made in [round_.clients[c]._state.secrets]
        for secret in (
            made.self_mask_secret,
            made.mask_key.private_bytes(),
            made.seal_key.private_bytes(),
        )
    ]
    assert len(set(drawn)) == 15


def test_one_share_less_than_the_threshold_restores_nothing(cohort):
    """Four of five shares are needed: through any three goes another polynomial of degree two."""
    round_ = Round(cohort).run(Phase.MASKED_INPUT)
    secret = round_.clients[0]._state.secrets.self_mask_secret
    round_.collect(Phase.MASKED_INPUT)
    shares = {c + 1: round_.clients[c]._state.held[0].self_mask for c in range(5)}
    assert combine(shares, threshold=4) == secret
    for left_out in range(1, 4):
        few = {point: share for point, share in shares.items() if point != left_out}
        try:
            assert combine(few, threshold=3) != secret
        except UnrecoverableSecret:
            continue


def test_every_error_gives_advice():
    def tree(kind):
        yield kind
        for child in kind.__subclasses__():
            yield from tree(child)

    assert all(kind.advice for kind in tree(SecAggError) if kind is not SecAggError)


def test_signatures_verify_or_raise():
    key = IdentityKey.generate(entropy_from("k"))
    signature = key.sign(b"message")
    verify_signature(key.public, b"message", signature)
    for public, message, signed in (
        (key.public, b"messages", signature),
        (key.public, b"message", signature[:-1]),
        (key.public, b"message", bytes(64)),
        (IdentityKey.generate(entropy_from("l")).public, b"message", signature),
        (b"", b"message", signature),
    ):
        with pytest.raises(AuthenticationFailed):
            verify_signature(public, message, signed)
    assert IdentityKey.from_private_bytes(key.private_bytes()).public == key.public
    with pytest.raises(LocalProtocolError):
        IdentityKey.from_private_bytes(bytes(31))


def test_samples_are_distinct_and_uniform():
    """6000 samples of 2 out of 5: each index in 2400; six standard deviations are 228."""
    entropy = entropy_from("sample")
    counts = np.zeros(5, dtype=int)
    for _ in range(6000):
        chosen = sample_indices(5, 2, entropy)
        assert len(set(chosen)) == 2
        counts[list(chosen)] += 1
    assert np.abs(counts - 2400).max() < 228
    assert sample_indices(5, 9, lambda n: b"") == (0, 1, 2, 3, 4)
    assert {uniform_below(3, entropy) for _ in range(200)} == {0, 1, 2}
