"""The ledger as a writer: it refuses before it writes, and writes before it returns."""

import math
import os

import pytest

from accounting import (
    Adjacency,
    Adversary,
    Budget,
    BudgetExceeded,
    InvalidPrivacyParameter,
    Ledger,
    LedgerCorrupted,
    LedgerHeader,
    LedgerMisuse,
    Mode,
    NoiseShares,
    PrivacyUnit,
    ReleaseSchedule,
    UnsupportedAdjacency,
    epsilon_pair,
    rdp_epsilon,
    read_ledger,
    verify_ledger,
)
from accounting.canonical import canonical_bytes, from_canonical_bytes
from accounting.ledger_state import LedgerState

CLIENTS = [f"clinic-{index}" for index in range(6)]
COHORT = CLIENTS[:4]
SHARES = NoiseShares(1.0, 4, 1, 1)
SCHEDULE = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, SHARES, 10)


def header(**changes):
    fields = {
        "run_id": "run-1",
        "plan_hash": "aa" * 32,
        "config_hash": "bb" * 32,
        "unit": PrivacyUnit.PAIR,
        "adjacency": Adjacency.ZERO_OUT,
        "budget": Budget(8.0, 1e-5),
        "schedule": SCHEDULE,
        "clients": 6,
        "extra": {"pairs": 1234},
    }
    return LedgerHeader(**{**fields, **changes})


def tight(rounds):
    """A budget that lasts exactly this many rounds for one client."""
    return Budget(SCHEDULE.curve(SCHEDULE.headline, 1e-5).certified(rounds).pld, 1e-5)


def test_a_round_from_start_to_end(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger.jsonl", header())
    assert (ledger.rounds_spent, ledger.last_round, ledger.epsilon().pld) == (0, None, 0.0)
    assert not ledger.would_exceed(COHORT)
    receipt = ledger.spend(0, COHORT)
    assert ledger.awaiting_outcome
    assert receipt.head == ledger.head
    assert (receipt.index, receipt.round, receipt.epsilon) == (1, 0, ledger.epsilon())
    ledger.outcome(0, "released", COHORT[:3])
    assert not ledger.awaiting_outcome
    head = ledger.close("done", {"adapter_hash": "cc"})
    verdict = verify_ledger(read_ledger(tmp_path / "ledger.jsonl"), expected_head=head)
    assert verdict.ok, verdict.problems
    assert verdict.facts == {"adapter_hash": "cc"}
    assert (verdict.status, verdict.rounds, verdict.released_rounds) == ("done", 1, 1)


def test_epsilon_is_that_of_the_busiest_client(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger.jsonl", header())
    for round_, cohort in enumerate([CLIENTS[:4], CLIENTS[1:5], CLIENTS[2:6]]):
        ledger.spend(round_, cohort)
        ledger.outcome(round_, "aborted", [])
    assert ledger.participations == dict(zip(CLIENTS, (1, 2, 3, 3, 2, 1), strict=True))
    curve = SCHEDULE.curve(SCHEDULE.headline, 1e-5)
    assert ledger.epsilon() == curve.pair(3)
    assert ledger.epsilons()[Adversary.COALITION] == curve.certified(3)
    assert ledger.epsilons()[Adversary.SERVER].pld < curve.certified(3).pld


def test_the_budget_refuses_before_anything_is_written(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger.create(path, header(budget=tight(3)))
    for round_ in range(3):
        assert not ledger.would_exceed(COHORT)
        ledger.spend(round_, COHORT)
    before = path.read_bytes()
    assert ledger.would_exceed(COHORT)
    assert not ledger.would_exceed(["fresh-a", "fresh-b"])
    with pytest.raises(BudgetExceeded) as caught:
        ledger.spend(3, COHORT)
    assert caught.value.requested > ledger.header.budget.epsilon
    assert 0 <= caught.value.remaining < caught.value.requested
    assert path.read_bytes() == before
    assert ledger.rounds_spent == 3
    assert ledger.epsilon().pld <= ledger.header.budget.epsilon


def test_the_participation_cap_of_the_plan_holds_whatever_the_budget(tmp_path):
    schedule = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, SHARES, 2)
    ledger = Ledger.create(
        tmp_path / "ledger.jsonl", header(schedule=schedule, budget=Budget(math.inf, 1e-5))
    )
    ledger.spend(0, CLIENTS[:4])
    ledger.spend(1, CLIENTS[:4])
    assert ledger.would_exceed(CLIENTS[2:6])
    with pytest.raises(BudgetExceeded) as caught:
        ledger.spend(2, CLIENTS[2:6])
    assert caught.value.resource == "participations"
    assert (caught.value.requested, caught.value.remaining) == (3, 0)


def test_the_line_is_on_disk_before_spend_returns(tmp_path):
    path = tmp_path / "ledger.jsonl"
    synced = []

    def fsync(descriptor):
        os.fsync(descriptor)
        synced.append(
            os.fstat(descriptor).st_size if os.fstat(descriptor).st_mode & 0o100000 else 0
        )

    ledger = Ledger.create(path, header(), fsync=fsync)
    assert len(synced) == 2, "the file, and the folder that names it"
    for act in (
        lambda: ledger.spend(0, COHORT),
        lambda: ledger.outcome(0, "released", COHORT),
        lambda: ledger.close("done", {}),
    ):
        before = len(synced)
        act()
        assert len(synced) == before + 1
        assert synced[-1] == path.stat().st_size


def test_a_failed_sync_stops_the_ledger_until_it_is_opened_again(tmp_path):
    path = tmp_path / "ledger.jsonl"
    calls = []

    def fails_later(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError("disk gone")

    ledger = Ledger.create(path, header(), fsync=fails_later)
    with pytest.raises(OSError, match="disk gone"):
        ledger.spend(0, COHORT)
    assert ledger.rounds_spent == 0
    with pytest.raises(LedgerMisuse):
        ledger.spend(0, COHORT)
    reopened = Ledger.open(path)
    assert reopened.rounds_spent == 1, "it may count more than was acknowledged, never less"


def test_two_writers_are_noticed(tmp_path):
    path = tmp_path / "ledger.jsonl"
    first = Ledger.create(path, header())
    second = Ledger.open(path)
    second.spend(0, COHORT)
    with pytest.raises(LedgerCorrupted):
        first.spend(0, COHORT)
    assert Ledger.open(path).rounds_spent == 1


def test_an_existing_file_is_never_overwritten(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger.create(path, header())
    with pytest.raises(FileExistsError):
        Ledger.create(path, header())


def test_reopening_gives_the_same_state(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger.create(path, header())
    ledger.spend(0, COHORT)
    ledger.outcome(0, "released", COHORT[:3])
    ledger.spend(4, COHORT)
    again = Ledger.open(path)
    assert again.header == ledger.header
    assert again.head == ledger.head
    assert again.participations == ledger.participations
    assert (again.last_round, again.rounds_spent, again.truncated_bytes) == (4, 2, 0)
    assert again.epsilon() == ledger.epsilon()
    assert again.realised_epsilon() == ledger.realised_epsilon()
    assert again.awaiting_outcome
    again.outcome(4, "aborted", [])
    assert Ledger.open(path).head == again.head


def test_a_round_without_an_outcome_may_be_booked_again_and_counts_twice(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger.jsonl", header())
    ledger.spend(7, COHORT)
    ledger.spend(7, COHORT)
    assert ledger.participations[COHORT[0]] == 2
    ledger.outcome(7, "released", COHORT)
    for stale in (7, 6):
        with pytest.raises(LedgerMisuse):
            ledger.spend(stale, COHORT)
    assert verify_ledger(read_ledger(tmp_path / "ledger.jsonl")).ok


def test_realised_epsilon_follows_the_survivors(tmp_path):
    """Full cohorts carry more noise than guaranteed, so they cost less; aborted rounds do not."""
    values = {}
    for name, status, survivors in (
        ("guaranteed", "released", 3),
        ("aborted", "aborted", 0),
        ("everyone", "released", 4),
    ):
        ledger = Ledger.create(tmp_path / name, header())
        for round_ in range(5):
            ledger.spend(round_, COHORT)
            ledger.outcome(round_, status, COHORT[:survivors])
        values[name] = ledger.realised_epsilon()
        verdict = verify_ledger(read_ledger(tmp_path / name))
        assert verdict.realised == pytest.approx(values[name], rel=1e-9)
    whole = SCHEDULE.round_events(Adversary.COALITION)
    assert values["guaranteed"] == pytest.approx(values["aborted"], rel=1e-9)
    assert values["everyone"] < values["guaranteed"]
    assert values["guaranteed"] >= rdp_epsilon([type(whole)(whole.event, 5)], 1e-5)


@pytest.mark.parametrize(
    "act",
    [
        lambda ledger: ledger.spend(-1, COHORT),
        lambda ledger: ledger.spend(0, COHORT[:3]),
        lambda ledger: ledger.spend(0, []),
        lambda ledger: ledger.spend(0, [*COHORT[:3], COHORT[0]]),
        lambda ledger: ledger.spend(0, [*COHORT[:3], ""]),
        lambda ledger: ledger.outcome(0, "released", COHORT),
    ],
)
def test_entries_without_a_place_are_refused(tmp_path, act):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger.create(path, header())
    before = path.read_bytes()
    with pytest.raises(LedgerMisuse):
        act(ledger)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("round_", "status", "survivors"),
    [
        (1, "released", COHORT),
        (0, "finished", COHORT),
        (0, "released", COHORT[:2]),
        (0, "released", [*COHORT, "stranger"]),
        (0, "released", [COHORT[0]] * 3),
    ],
)
def test_outcomes_must_fit_their_spend(tmp_path, round_, status, survivors):
    ledger = Ledger.create(tmp_path / "ledger.jsonl", header())
    ledger.spend(0, COHORT)
    with pytest.raises(LedgerMisuse):
        ledger.outcome(round_, status, survivors)


def test_after_close_nothing_is_written(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger.jsonl", header())
    ledger.close("budget_spent", {})
    for act in (lambda: ledger.spend(0, COHORT), lambda: ledger.close("done", {})):
        with pytest.raises(LedgerMisuse):
            act()
    assert Ledger.open(tmp_path / "ledger.jsonl").status == "budget_spent"


def test_more_clients_than_enrolled_are_refused(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger.jsonl", header(clients=4))
    ledger.spend(0, CLIENTS[:4])
    with pytest.raises(LedgerMisuse):
        ledger.spend(1, CLIENTS[2:6])


def test_without_noise_spends_are_recorded_at_infinity(tmp_path):
    schedule = ReleaseSchedule(Mode.NONE, 0.1, None, 5, local_steps=2)
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger.create(path, header(schedule=schedule, budget=None))
    assert ledger.epsilon().pld == 0.0
    ledger.spend(0, CLIENTS)
    ledger.outcome(0, "released", CLIENTS[:1])
    assert ledger.epsilon().pld == ledger.realised_epsilon() == math.inf
    assert ledger.epsilons()[Adversary.OUTSIDE].pld == math.inf
    verdict = verify_ledger(read_ledger(path))
    assert verdict.ok, verdict.problems
    assert verdict.epsilon[Adversary.SERVER].pld == math.inf


def test_local_mode_takes_any_cohort_and_counts_every_local_step(tmp_path):
    schedule = ReleaseSchedule(Mode.LOCAL, 0.05, 1.0, 30, local_steps=3)
    ledger = Ledger.create(tmp_path / "ledger.jsonl", header(schedule=schedule))
    for round_ in range(2):
        ledger.spend(round_, CLIENTS[: 1 + round_])
        ledger.outcome(round_, "released", CLIENTS[:1])
    event = schedule.round_events(Adversary.SERVER).event
    exact = epsilon_pair([type(schedule.round_events(Adversary.SERVER))(event, 6)], 1e-5)
    assert exact.pld <= ledger.epsilon().pld <= exact.pld * 1.01
    assert verify_ledger(read_ledger(tmp_path / "ledger.jsonl")).ok


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"run_id": ""}, InvalidPrivacyParameter),
        ({"plan_hash": ""}, InvalidPrivacyParameter),
        ({"clients": 0}, InvalidPrivacyParameter),
        ({"budget": None}, InvalidPrivacyParameter),
        ({"unit": PrivacyUnit.USER}, InvalidPrivacyParameter),
        ({"adjacency": Adjacency.REPLACE_ONE}, UnsupportedAdjacency),
    ],
)
def test_headers_that_bind_nothing_are_refused(changes, error):
    with pytest.raises(error):
        header(**changes)


def test_canonical_json_has_one_spelling():
    value = {"b": [1, 2.5, None, True], "a": {"é": "\ud800", "x": 1e-5}}
    encoded = canonical_bytes(value)
    assert from_canonical_bytes(encoded) == value
    assert b" " not in encoded
    for other in (b'{"a":1,"a":1}', b'{"a": 1}', b'{"b":1,"a":1}', b'{"a":1.50}', b'{"a":NaN}'):
        with pytest.raises(ValueError):
            from_canonical_bytes(other)
    with pytest.raises(ValueError):
        canonical_bytes({"a": math.inf})


def test_ten_thousand_rounds_with_changing_survivors_are_cheap():
    """A fold over six distinct mechanisms: the cost must not grow with rounds times orders."""
    schedule = ReleaseSchedule(Mode.DISTRIBUTED, 0.002, NoiseShares(2.0, 20, 5, 2), 10_000)
    state = LedgerState(header(schedule=schedule, clients=20))
    names = [f"c{index}" for index in range(20)]
    for round_ in range(10_000):
        state.spend(round_, names)
        state.outcome("released", names[: 15 + round_ % 6], {})
    certified = schedule.epsilon(Adversary.COALITION, 1e-5)
    assert 0 < state.realised_epsilon() < certified.rdp
    assert certified.pld <= state.epsilon_after(10_000).pld < 1.01 * certified.pld
