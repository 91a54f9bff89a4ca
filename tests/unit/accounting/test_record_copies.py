"""Copies of a record: what they add up to, by hand, and that nothing comes out cheaper than it is."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import (
    Accounting,
    Adjacency,
    Adversary,
    Budget,
    BudgetExceeded,
    GridNoise,
    GroupPoissonGaussianRelease,
    InvalidPrivacyParameter,
    Ledger,
    LedgerHeader,
    Mode,
    NoiseShares,
    PoissonGaussianRelease,
    PrivacyUnit,
    RecordCopies,
    ReleaseSchedule,
    Repeated,
    SkellamNoise,
    decode_schedule,
    encode_schedule,
    gaussian_epsilon,
    guarantee,
    pld_epsilon,
    read_ledger,
    record_releases,
    verify_ledger,
)

DELTA = 1e-5
SHARES = NoiseShares(1.0, 4, 0, 0)
TWICE = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, SHARES, 3, copies=RecordCopies(2, 6))
ONCE = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, SHARES, 3)
LOCAL = ReleaseSchedule(Mode.LOCAL, 0.05, 1.0, 100, local_steps=5, copies=RecordCopies(3, 100))


def test_copies_in_one_sum_are_a_group():
    for adversary in (Adversary.SERVER, Adversary.COALITION, Adversary.OUTSIDE):
        assert TWICE.view(adversary) == (Repeated(GroupPoissonGaussianRelease(2, 0.05, 1.0), 3),)
    priced = TWICE.epsilon(Adversary.COALITION, DELTA)
    single = ONCE.epsilon(Adversary.COALITION, DELTA)
    assert priced.pld > single.pld
    assert priced.rdp >= priced.pld


def test_without_sampling_m_copies_are_one_record_of_m_clip_norms():
    """All m move the sum by m: a Gaussian at z / m, in closed form."""
    shares = NoiseShares(4.0, 4, 0, 0)
    for most in (2, 3):
        copies = RecordCopies(most, 10)
        schedule = ReleaseSchedule(Mode.DISTRIBUTED, 1.0, shares, 10, copies=copies)
        exact = gaussian_epsilon(most / 4.0 * math.sqrt(10), DELTA)
        assert schedule.epsilon(Adversary.SERVER, DELTA).pld == pytest.approx(exact, rel=2e-3)


def test_copies_with_noise_of_their_own_add_up_their_events():
    assert LOCAL.view(Adversary.COALITION) == (Repeated(PoissonGaussianRelease(0.05, 1.0), 1500),)
    assert LOCAL.round_events(Adversary.COALITION).count == 15


@pytest.mark.parametrize(
    ("mode", "participations", "local_steps", "copies", "expected"),
    [
        (Mode.DISTRIBUTED, 7, 1, None, 7),
        (Mode.DISTRIBUTED, 7, 1, RecordCopies(3, 100), 21),  # each copy in rounds of its own
        (Mode.DISTRIBUTED, 7, 1, RecordCopies(3, 20), 20),  # never more than there are
        (Mode.LOCAL, 7, 5, RecordCopies(3, 20), 105),  # steps, and every client has noise
        (Mode.GOSSIP, 7, 5, None, 35),
        (Mode.USER, 7, 5, None, 7),  # one update a round, however many steps
    ],
)
def test_releases_that_may_hold_a_record_by_hand(
    mode, participations, local_steps, copies, expected
):
    found = record_releases(
        mode, participations=participations, local_steps=local_steps, copies=copies
    )
    assert found == expected


@pytest.mark.parametrize("make", [GridNoise, SkellamNoise])
def test_noise_made_for_fewer_releases_than_there_may_be_is_refused(make):
    """What it is not exact by would be booked for too few; a ledger's header is held to it too."""

    def schedule(mode, releases, **fields):
        cohort = 1 if mode is Mode.LOCAL else 20
        noise = make(1.0, 2.0**20, cohort, 0, 0, 1000, releases)
        return ReleaseSchedule(
            mode, 0.01, noise, 40, accounting=fields.pop("accounting", Accounting.RDP), **fields
        )

    for mode, fields, fewest in (
        (Mode.DISTRIBUTED, {}, 40),
        (Mode.LOCAL, {"local_steps": 3, "copies": RecordCopies(2, 50)}, 240),
    ):
        encoded = encode_schedule(schedule(mode, fewest, **fields))
        assert decode_schedule(encoded).noise.releases == fewest
        with pytest.raises(InvalidPrivacyParameter, match=f"in {fewest} releases"):
            schedule(mode, fewest - 1, **fields)
        encoded["noise"]["releases"] = fewest - 1
        with pytest.raises(InvalidPrivacyParameter, match=f"in {fewest} releases"):
            decode_schedule(encoded)


def test_copies_in_different_rounds_count_in_full_towards_what_noise_is_not_exact_by():
    """Merged, three copies of 40 rounds are priced as 60; 120 releases may hold one of them."""
    copies = RecordCopies(3, 1000)
    assert copies.rounds_of(40, 1000) == 60
    noise = GridNoise(1.0, 2.0**20, 20, 0, 0, 1000, 60)
    with pytest.raises(InvalidPrivacyParameter, match="in 120 releases"):
        ReleaseSchedule(Mode.DISTRIBUTED, 0.01, noise, 40, copies=copies)


@pytest.mark.parametrize(
    ("most", "participations", "rounds", "counted"),
    [
        (2, 10, 10, 10),  # all clients in every round: the same rounds for both copies
        (2, 5, 10, 5),  # two copies in 5 rounds each cost no more than both in 5
        (3, 5, 100, 8),  # 15 single copies fill 7 rounds of two, and one is left
        (3, 5, 6, 6),  # never more than there were
        (4, 2, 100, 3),  # 8 copies: two rounds of three, and two are left
        (2, 1, 9, 1),
    ],
)
def test_rounds_of_copies_at_several_clients_by_hand(most, participations, rounds, counted):
    assert RecordCopies(most, 100).rounds_of(participations, rounds) == counted


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_rounds_of_the_copies_can_be_merged_into_so_many(data):
    """Merges the two smallest rounds while they fit under m, as the proof does."""
    most = data.draw(st.integers(2, 6))
    participations = data.draw(st.integers(1, 6))
    rounds = data.draw(st.integers(participations, 12))
    busy = st.sets(st.integers(0, rounds - 1), max_size=participations)
    taken = [data.draw(busy) for _ in range(most)]
    sizes = sorted(sum(number in one for one in taken) for number in range(rounds))
    sizes = [size for size in sizes if size]
    while len(sizes) > 1 and sizes[0] + sizes[1] <= most:
        sizes = sorted([sizes[0] + sizes[1], *sizes[2:]])
    assert len(sizes) <= RecordCopies(most, rounds).rounds_of(participations, rounds)


@pytest.mark.parametrize(("rate", "noise"), [(0.05, 1.0), (0.3, 2.0), (1.0, 3.0)])
def test_apart_is_never_dearer_than_together(rate, noise):
    """The step of the proof, by the accountant: two rounds of one copy against one of both."""
    apart = pld_epsilon([Repeated(PoissonGaussianRelease(rate, noise), 40)], DELTA)
    together = pld_epsilon([Repeated(GroupPoissonGaussianRelease(2, rate, noise), 20)], DELTA)
    assert apart < together


@pytest.mark.parametrize("noise", [0.7, 1.5])
def test_two_copies_in_one_sum_by_direct_integration(noise):
    """Both directions of one release, straight from the densities on a fine grid."""
    rate, delta = 0.2, 1e-3
    x = np.linspace(-12 * noise, 2 + 12 * noise, 400_001)

    def normal(mean):
        return np.exp(-(((x - mean) / noise) ** 2) / 2)

    null = normal(0.0)
    weights = (0.64, 0.32, 0.04)
    held = sum(weight * normal(mean) for mean, weight in enumerate(weights))

    def spent(epsilon):
        step = x[1] - x[0]
        scale = step / (noise * math.sqrt(2 * math.pi))
        pairs = itertools.permutations((held, null))
        return max(np.maximum(p - math.exp(epsilon) * q, 0).sum() * scale for p, q in pairs)

    event = GroupPoissonGaussianRelease(2, rate, noise)
    epsilon = pld_epsilon([Repeated(event, 1)], delta)
    assert spent(epsilon) <= delta * (1 + 1e-6)
    assert spent(epsilon - 2e-3) > delta


def header(schedule, budget=None):
    return LedgerHeader(
        run_id="r",
        plan_hash="1",
        config_hash="2",
        unit=PrivacyUnit.PAIR,
        adjacency=Adjacency.ZERO_OUT,
        budget=budget or Budget(math.inf, DELTA),
        schedule=schedule,
        clients=8,
    )


EAST, WEST = ("a", "b", "c", "d"), ("e", "f", "g", "h")


def test_a_ledger_counts_rounds_of_copies_at_different_clients(tmp_path):
    """Three copies, no client in more than two rounds, yet a record may have been in all four."""
    thrice = RecordCopies(3, 4)
    schedule = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, SHARES, 2, copies=thrice)
    ledger = Ledger.create(tmp_path / "l", header(schedule))
    for number, cohort in enumerate((EAST, WEST, EAST, WEST), start=1):
        ledger.spend(number, cohort)
        ledger.outcome(number, "released", cohort)
    counted = thrice.rounds_of(2, 4)
    assert counted == 3
    group = Repeated(GroupPoissonGaussianRelease(3, 0.05, 1.0), counted)
    exact = pld_epsilon([group], DELTA)
    assert ledger.epsilon().pld >= exact * (1 - 1e-9)
    verdict = verify_ledger(read_ledger(tmp_path / "l"))
    assert verdict.ok, verdict.problems
    assert verdict.epsilon[Adversary.COALITION].pld == pytest.approx(exact, rel=1e-9)
    assert verdict.epsilon == ledger.epsilons()
    assert verdict.realised == pytest.approx(ledger.realised_epsilon(), rel=1e-9)
    assert verdict.realised > verify_ledger(_alone(tmp_path)).realised


def _alone(folder):
    """The same rounds of a run whose records stand once."""
    schedule = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, SHARES, 2)
    ledger = Ledger.create(folder / "alone", header(schedule))
    for number, cohort in enumerate((EAST, WEST, EAST, WEST), start=1):
        ledger.spend(number, cohort)
        ledger.outcome(number, "released", cohort)
    return read_ledger(folder / "alone")


def test_the_budget_is_held_against_all_copies(tmp_path):
    price = TWICE.curve(Adversary.COALITION, DELTA)
    budget = Budget(price.certified(2).pld, DELTA)
    ledger = Ledger.create(tmp_path / "l", header(TWICE, budget))
    for number in (1, 2):
        ledger.spend(number, EAST)
        ledger.outcome(number, "released", EAST)
    assert ledger.would_exceed(EAST)
    with pytest.raises(BudgetExceeded):
        ledger.spend(3, EAST)


@pytest.mark.parametrize("schedule", [TWICE, LOCAL])
def test_the_file_format_keeps_copies_and_leaves_them_out_where_there_are_none(schedule):
    encoded = encode_schedule(schedule)
    assert encoded["record_copies"] == {
        "most": schedule.copies.most,
        "rounds": schedule.copies.rounds,
    }
    assert decode_schedule(encoded) == schedule
    assert "record_copies" not in encode_schedule(ONCE)
    assert decode_schedule(encode_schedule(ONCE)).copies is None


@pytest.mark.parametrize(
    "copies", [None, {}, {"most": 2}, {"most": 2.0, "rounds": 6}, {"most": 1, "rounds": 6}]
)
def test_decoding_copies_is_strict(copies):
    with pytest.raises(InvalidPrivacyParameter):
        decode_schedule({**encode_schedule(ONCE), "record_copies": copies})


@pytest.mark.parametrize(("most", "rounds"), [(1, 5), (0, 5), (2, 0)])
def test_what_is_no_bound_is_refused(most, rounds):
    with pytest.raises(InvalidPrivacyParameter):
        RecordCopies(most, rounds)


@pytest.mark.parametrize(("mode", "noise"), [(Mode.USER, SHARES), (Mode.NONE, None)])
def test_modes_in_which_copies_of_a_pair_mean_nothing_refuse_them(mode, noise):
    with pytest.raises(InvalidPrivacyParameter, match="copies"):
        ReleaseSchedule(mode, 1.0, noise, 3, copies=RecordCopies(2, 6))


def test_the_statement_names_the_copies():
    def words(schedule):
        return guarantee(
            header(schedule), {Adversary.COALITION: schedule.epsilon("coalition", 0.1)}
        )

    assert "with all its copies, of which there are at most 2" in words(TWICE)
    assert "no pair stands more than 2 times in the data, at one client or at several" in words(
        TWICE
    )
    assert "no pair sits at more than 3 clients, or twice at one" in words(LOCAL)
    assert "no pair stands twice in the data, at one client or at two" in words(ONCE)
    assert "clients hold disjoint data" not in words(TWICE)


@pytest.mark.parametrize("mode", [Mode.DISTRIBUTED, Mode.LOCAL])
def test_a_client_in_more_rounds_than_there_are_is_refused(mode):
    """One round claimed for 100 participations used to price two copies below one."""
    noise = SHARES if mode is Mode.DISTRIBUTED else 1.0
    with pytest.raises(InvalidPrivacyParameter, match="whole run has 1 rounds"):
        ReleaseSchedule(mode, 0.1, noise, 100, copies=RecordCopies(2, 1))
    allowed = ReleaseSchedule(mode, 0.1, noise, 100, copies=RecordCopies(2, 100))
    with pytest.raises(InvalidPrivacyParameter, match="participations"):
        decode_schedule({**encode_schedule(allowed), "participations": 101})
