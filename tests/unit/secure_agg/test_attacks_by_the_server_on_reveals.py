"""What a lying server tries with survivor sets, reveals and frames, each test named after what it wants.

Every attempt ends in one typed error that names the culprit, reveals nothing, and leaves the
victim's session dead.
"""

import numpy as np
import pytest

from secure_agg import (
    AuthenticationFailed,
    ClientId,
    InconsistentView,
    LocalProtocolError,
    MalformedMessage,
    Neighbourhood,
    Phase,
    RoundAborted,
    SessionFailed,
    UnexpectedMessage,
    UnsafeReveal,
)
from secure_agg.messages import (
    Confirmation,
    Survivors,
    UnmaskRequest,
)
from secure_agg.phases import Kind
from secure_agg.views import to_bitmap
from tests.support.secagg_attacks import (
    VICTIM,
    body_of,
    changed,
    frame_of,
    from_server,
    refused,
    tamper_request,
)
from tests.support.secagg_rounds import Round, make_cohort


@pytest.fixture
def cohort():
    return make_cohort(6, threshold=4, colluders=1)


# Survivors


def test_to_isolate_the_victim_it_announces_too_few_survivors(cohort):
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    few = to_bitmap(cohort.params, [ClientId(c) for c in (0, 1, 2)])
    data = tamper_request(round_, Phase.CONSISTENCY_CHECK, VICTIM, survivors=few)
    refused(round_, Phase.CONSISTENCY_CHECK, data, InconsistentView)


def test_to_shrink_the_sum_it_announces_one_survivor_too_few_far_from_the_victim():
    """The victim's neighbourhood is whole; only the size of the set gives the lie away."""
    near = Neighbourhood(degree=4, share_threshold=4, signature_quorum=10, signature_checks=10)
    cohort = make_cohort(14, threshold=8, neighbourhood=near)
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    graph = round_.clients[VICTIM]._state.held
    far = [c for c in cohort.params.client_ids if c not in graph]
    for too_few in (True, False):
        gone = far[: 5 if too_few else 4]
        alive = [c for c in cohort.params.client_ids if c not in gone]
        bitmap = to_bitmap(cohort.params, alive)
        fresh = Round(cohort).run(Phase.CONSISTENCY_CHECK)
        data = tamper_request(fresh, Phase.CONSISTENCY_CHECK, VICTIM, survivors=bitmap)
        if too_few:
            refused(fresh, Phase.CONSISTENCY_CHECK, data, InconsistentView)
        else:
            fresh.clients[VICTIM].handle(data)


def test_to_get_the_victims_masking_key_it_declares_the_victim_dropped_to_its_face(cohort):
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    others = to_bitmap(cohort.params, [c for c in cohort.params.client_ids if c != VICTIM])
    data = tamper_request(round_, Phase.CONSISTENCY_CHECK, VICTIM, survivors=others)
    refused(round_, Phase.CONSISTENCY_CHECK, data, InconsistentView)


def test_to_inflate_the_crowd_it_counts_a_client_that_never_shared():
    cohort = make_cohort(6, threshold=4, colluders=1)
    round_ = Round(cohort, {Phase.SHARE_KEYS: [5]}).run(Phase.CONSISTENCY_CHECK)
    everyone = to_bitmap(cohort.params, cohort.params.client_ids)
    data = tamper_request(round_, Phase.CONSISTENCY_CHECK, VICTIM, survivors=everyone)
    refused(round_, Phase.CONSISTENCY_CHECK, data, InconsistentView)


def test_to_isolate_the_victim_it_drops_the_victims_neighbours_only():
    near = Neighbourhood(degree=4, share_threshold=4, signature_quorum=8, signature_checks=8)
    cohort = make_cohort(12, threshold=8, neighbourhood=near)
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    lost = {entry.client for entry in body_of(round_.requests[Phase.SHARE_KEYS][VICTIM]).neighbours}
    alive = [c for c in cohort.params.client_ids if c not in sorted(lost)[:2]]
    assert len(alive) >= cohort.params.quorum
    data = tamper_request(
        round_, Phase.CONSISTENCY_CHECK, VICTIM, survivors=to_bitmap(cohort.params, alive)
    )
    refused(round_, Phase.CONSISTENCY_CHECK, data, InconsistentView)


def test_to_keep_two_stories_it_announces_a_second_survivor_set(cohort):
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    round_.collect(Phase.CONSISTENCY_CHECK)
    others = to_bitmap(cohort.params, [c for c in cohort.params.client_ids if c != 1])
    data = from_server(cohort.params, Kind.SURVIVORS, VICTIM, Survivors(others))
    refused(round_, Phase.UNMASK, data, UnexpectedMessage)


# Reveals


def test_to_skip_the_consistency_check_it_asks_for_reveals_at_once(cohort):
    donor = Round(cohort).run(Phase.UNMASK)
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    data = donor.requests[Phase.UNMASK][VICTIM]
    refused(round_, Phase.CONSISTENCY_CHECK, data, UnexpectedMessage)


def test_to_split_the_cohort_it_tells_two_halves_two_survivor_sets(cohort):
    """Half the clients are told that client 1 dropped out, the others that it survived.

    With both stories confirmed the server would hold both secrets of client 1.
    """
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    params = cohort.params
    without_one = Survivors(to_bitmap(params, [c for c in params.client_ids if c != 1]))
    told = (2, 3, 4)
    signatures = {}
    for client in params.client_ids:
        data = round_.requests[Phase.CONSISTENCY_CHECK][client]
        if client in told:
            data = from_server(params, Kind.SURVIVORS, client, without_one)
        signatures[client] = frame_of(round_.clients[client].handle(data)).signature
    for client in params.client_ids:
        alive = [c for c in params.client_ids if client not in told or c != 1]
        request = UnmaskRequest(tuple(Confirmation(c, signatures[c]) for c in alive))
        data = from_server(params, Kind.UNMASK_REQUEST, client, request)
        with pytest.raises(AuthenticationFailed):
            round_.clients[client].handle(data)


def test_to_reveal_without_a_majority_it_shows_too_few_signatures(cohort):
    round_ = Round(cohort).run(Phase.UNMASK)
    confirmations = body_of(round_.requests[Phase.UNMASK][VICTIM]).confirmations
    data = tamper_request(round_, Phase.UNMASK, VICTIM, confirmations=confirmations[:3])
    refused(round_, Phase.UNMASK, data, UnsafeReveal)


def test_to_reach_the_quorum_it_shows_one_signature_twice(cohort):
    round_ = Round(cohort).run(Phase.UNMASK)
    one, two, three, *_ = body_of(round_.requests[Phase.UNMASK][VICTIM]).confirmations
    data = tamper_request(round_, Phase.UNMASK, VICTIM, confirmations=(one, two, three, three))
    refused(round_, Phase.UNMASK, data, UnsafeReveal)


def test_to_reach_the_quorum_it_shows_the_signature_of_one_that_dropped_out():
    cohort = make_cohort(6, threshold=4, colluders=1)
    round_ = Round(cohort, {Phase.MASKED_INPUT: [5]}).run(Phase.UNMASK)
    one, two, three, *_ = body_of(round_.requests[Phase.UNMASK][VICTIM]).confirmations
    ghost = changed(three, client=5)
    data = tamper_request(round_, Phase.UNMASK, VICTIM, confirmations=(one, two, three, ghost))
    refused(round_, Phase.UNMASK, data, UnsafeReveal)


def test_to_reach_the_quorum_it_forges_a_signature(cohort):
    round_ = Round(cohort).run(Phase.UNMASK)
    confirmations = body_of(round_.requests[Phase.UNMASK][VICTIM]).confirmations
    forged = (*confirmations[:5], changed(confirmations[5], signature=bytes(64)))
    data = tamper_request(round_, Phase.UNMASK, VICTIM, confirmations=forged)
    refused(round_, Phase.UNMASK, data, AuthenticationFailed)


def test_to_reach_the_quorum_it_replays_signatures_of_an_earlier_round(cohort):
    earlier = make_cohort(6, threshold=4, colluders=1, round_id=b"round-0000", seed="cohort")
    old = Round(earlier).run(Phase.UNMASK)
    round_ = Round(cohort).run(Phase.UNMASK)
    replayed = body_of(old.requests[Phase.UNMASK][VICTIM]).confirmations
    data = tamper_request(round_, Phase.UNMASK, VICTIM, confirmations=replayed)
    refused(round_, Phase.UNMASK, data, AuthenticationFailed)


def test_to_reach_the_quorum_it_presents_advertisement_signatures(cohort):
    """A signature on other bytes of the same round must not count."""
    round_ = Round(cohort).run(Phase.UNMASK)
    roster = body_of(round_.requests[Phase.SHARE_KEYS][VICTIM])
    stolen = {entry.client: entry.signature for entry in roster.neighbours}
    confirmations = tuple(
        changed(entry, signature=stolen.get(entry.client, entry.signature))
        for entry in body_of(round_.requests[Phase.UNMASK][VICTIM]).confirmations
    )
    data = tamper_request(round_, Phase.UNMASK, VICTIM, confirmations=confirmations)
    refused(round_, Phase.UNMASK, data, AuthenticationFailed)


def test_to_get_both_secrets_it_asks_a_second_time(cohort):
    round_ = Round(cohort).run(Phase.UNMASK)
    round_.collect(Phase.UNMASK)
    victim = round_.clients[VICTIM]
    assert victim.awaiting is None
    with pytest.raises(LocalProtocolError):
        victim.handle(round_.requests[Phase.UNMASK][VICTIM])


def test_one_client_reveals_exactly_one_secret_per_peer_and_the_right_one():
    cohort = make_cohort(6, threshold=4, colluders=1)
    round_ = Round(cohort, {Phase.MASKED_INPUT: [5]}).run(Phase.UNMASK)
    held = dict(round_.clients[VICTIM]._state.held)
    round_.collect(Phase.UNMASK)
    reveals = body_of(round_.replies[Phase.UNMASK][VICTIM]).reveals
    assert [r.owner for r in reveals] == [0, 1, 2, 3, 4, 5]
    assert [r.share for r in reveals] == [
        held[ClientId(c)].mask_key if c == 5 else held[ClientId(c)].self_mask for c in range(6)
    ]


def test_to_pass_off_phantoms_it_hopes_that_samples_miss_them():
    """With sampled checks every client looks elsewhere: 30 % forged signatures fool nobody."""
    near = Neighbourhood(degree=6, share_threshold=6, signature_quorum=20, signature_checks=12)
    cohort = make_cohort(24, threshold=16, neighbourhood=near)
    round_ = Round(cohort).run(Phase.UNMASK)
    fooled = 0
    for client in cohort.params.client_ids:
        confirmations = body_of(round_.requests[Phase.UNMASK][client]).confirmations
        forged = tuple(
            changed(entry, signature=bytes(64)) if entry.client % 10 < 3 else entry
            for entry in confirmations
        )
        data = tamper_request(round_, Phase.UNMASK, client, confirmations=forged)
        try:
            round_.clients[client].handle(data)
        except AuthenticationFailed:
            continue
        fooled += 1
    # Each is fooled with probability C(16, 12) / C(24, 12) = 0.07 %.
    assert fooled == 0


# Frames


def test_to_confuse_two_clients_it_delivers_a_message_to_the_wrong_one(cohort):
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    data = round_.requests[Phase.CONSISTENCY_CHECK][ClientId(3)]
    refused(round_, Phase.CONSISTENCY_CHECK, data, UnexpectedMessage)


def test_to_mix_rounds_it_delivers_a_message_of_an_earlier_round(cohort):
    earlier = make_cohort(6, threshold=4, colluders=1, round_id=b"round-0000", seed="cohort")
    old = Round(earlier).run(Phase.SHARE_KEYS)
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    error = refused(
        round_, Phase.SHARE_KEYS, old.requests[Phase.SHARE_KEYS][VICTIM], UnexpectedMessage
    )
    assert error.found.startswith("round ")


def test_to_lower_the_threshold_it_runs_other_parameters(cohort):
    """Parameters are bound into every frame, so a server with others speaks of another round."""
    weaker = make_cohort(6, threshold=4, colluders=0)
    assert weaker.params.digest != cohort.params.digest
    old = Round(weaker).run(Phase.SHARE_KEYS)
    round_ = Round(cohort).run(Phase.SHARE_KEYS)
    data = old.requests[Phase.SHARE_KEYS][VICTIM]
    refused(round_, Phase.SHARE_KEYS, data, UnexpectedMessage)


def test_to_exhaust_memory_it_sends_an_oversized_message(cohort):
    round_ = Round(cohort).run(Phase.CONSISTENCY_CHECK)
    refused(round_, Phase.CONSISTENCY_CHECK, bytes(1 << 20), MalformedMessage)


def test_a_server_that_loses_too_many_gets_an_abort_and_no_sum(cohort):
    round_ = Round(cohort, {Phase.UNMASK: [0, 1, 2]}).run(Phase.UNMASK)
    round_.collect(Phase.UNMASK)
    with pytest.raises(RoundAborted) as caught:
        round_.server.close_phase()
    assert caught.value.missing == (0, 1, 2)
    with pytest.raises(SessionFailed):
        _ = round_.server.result
    assert round_.server.failure is caught.value


def test_the_masked_input_alone_is_uniform_noise_to_the_server():
    """Two uploads of the same zero vector under fresh keys share no word, and bits are balanced."""
    bits = []
    for name in ("a", "b"):
        cohort = make_cohort(4, threshold=4, vector_length=4096, seed=name)
        round_ = Round(cohort)
        round_.vectors = {c: np.zeros(4096, dtype=np.uint32) for c in cohort.params.client_ids}
        round_.run(Phase.MASKED_INPUT)
        round_.collect(Phase.MASKED_INPUT)
        body = frame_of(round_.replies[Phase.MASKED_INPUT][VICTIM]).body
        words = np.frombuffer(body[32:], dtype="<u4")
        ones = int(np.bitwise_count(words).sum())
        # 131072 fair bits: standard deviation 181; six of them is a chance of 2e-9.
        assert abs(ones - 65536) < 6 * 181
        bits.append(words)
    assert np.count_nonzero(bits[0] == bits[1]) <= 1
