"""A client's own books: they outlast it, add up over runs, and refuse before anything is lost."""

import errno
import os

import numpy as np
import pytest

from accounting import read_ledger
from accounting.accountants import epsilon_pair
from accounting.events import (
    GroupPoissonGaussianRelease,
    PoissonGaussianRelease,
    Repeated,
)
from privfed_dpo.config.client_policy import LimitsConfig
from privfed_dpo.deployment.client_process import _declining
from privfed_dpo.deployment.consent import objections
from privfed_dpo.deployment.own_ledgers import BooksUnwritable, OwnLedgers
from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.control_variates import ControlVariate
from privfed_dpo.errors import ResumeMismatch
from privfed_dpo.wire.client_socket import Declined
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import fake_plan

RUN, OTHER = b"1" * 16, b"2" * 16
NAMES = [f"client-{n}" for n in range(8)]
PLAN = fake_plan("federation.rounds=6", "privacy.noise_multiplier=2")
HALF_OF_THEM = (
    "federation.rounds=40",
    "federation.cohort=5",
    "privacy.dropout_tolerance=1",
    "privacy.colluders=0",
    "privacy.noise_multiplier=12",
    "privacy.sample_rate=0.1",
)
"""Five of ten clients in each round; a client is in half of the rounds."""
WHOLE = PLAN.epsilons[PLAN.schedule.headline].certified


def books(folder, max_epsilon=100.0, max_delta=0.5):
    return OwnLedgers(
        folder,
        name="client-3",
        identity=IdentityKey.generate(counted_entropy("me")),
        limits=LimitsConfig(max_epsilon=max_epsilon, max_delta=max_delta),
    )


def test_what_was_booked_is_known_after_a_restart(tmp_path):
    mine = books(tmp_path)
    mine.begin(RUN, PLAN, b"document", "data")
    assert mine.total().epsilon == 0
    for number in (1, 2, 5):
        mine.require_room(RUN, number, NAMES)
        mine.book(RUN, number, NAMES)
    spent = mine.total()
    schedule = PLAN.schedule
    assert spent.epsilon == schedule.spent(schedule.headline, PLAN.delta, 3, 5).certified
    assert 0 < spent.epsilon < WHOLE
    again = books(tmp_path)
    assert again.total() == spent
    assert (again.participations(RUN), again.last_round(RUN)) == (3, 5)
    assert again.document(RUN) == b"document"
    assert again.document(OTHER) is None
    again.begin(RUN, PLAN, b"document", "data")
    with pytest.raises(ClientRefused, match="another description"):
        again.begin(RUN, PLAN, b"another", "data")


def test_a_run_costs_no_more_than_its_plan_said(tmp_path):
    mine = books(tmp_path)
    mine.begin(RUN, PLAN, b"d", "data")
    for number in range(1, 7):
        mine.book(RUN, number, NAMES)
    assert mine.total().epsilon == pytest.approx(WHOLE)
    with pytest.raises(ClientRefused, match="used up"):
        mine.require_room(RUN, 7, NAMES)


def test_runs_add_up_and_the_last_one_stops_in_time(tmp_path):
    """Two runs at once fit by themselves; together they do not, whatever either server says."""
    schedule = PLAN.schedule
    one_round = schedule.spent(schedule.headline, PLAN.delta, 1, 1).certified
    mine = books(tmp_path, max_epsilon=WHOLE + one_round / 2)
    mine.begin(RUN, PLAN, b"d", "data")
    mine.begin(OTHER, PLAN, b"e", "data")
    for number in range(1, 7):
        mine.book(RUN, number, NAMES)
    with pytest.raises(ClientRefused, match="over all runs"):
        mine.require_room(OTHER, 1, NAMES)
    restarted = books(tmp_path, max_epsilon=WHOLE + one_round / 2)
    with pytest.raises(ClientRefused, match="over all runs"):
        restarted.require_room(OTHER, 1, NAMES)
    with pytest.raises(ClientRefused, match="the whole plan"):
        restarted.begin(b"3" * 16, PLAN, b"f", "data")
    assert books(tmp_path, max_epsilon=WHOLE + one_round).require_room(OTHER, 1, NAMES) is None


def test_deltas_add_up_too(tmp_path):
    mine = books(tmp_path, max_delta=1.5 * PLAN.delta)
    mine.begin(RUN, PLAN, b"d", "data")
    mine.book(RUN, 1, NAMES)
    with pytest.raises(ClientRefused, match="delta"):
        mine.begin(OTHER, PLAN, b"e", "data")


def test_the_books_are_a_signed_ledger(tmp_path):
    mine = books(tmp_path)
    mine.begin(RUN, PLAN, b"d", "data")
    mine.book(RUN, 1, NAMES)
    found = read_ledger(tmp_path / RUN.hex() / "ledger.jsonl")
    assert [line.kind for line in found.lines] == ["header", "spend"]
    assert all(line.signature for line in found.lines)


def test_a_line_a_crash_tore_was_never_released(tmp_path):
    mine = books(tmp_path)
    mine.begin(RUN, PLAN, b"d", "data")
    mine.book(RUN, 1, NAMES)
    path = tmp_path / RUN.hex() / "ledger.jsonl"
    mine.book(RUN, 2, NAMES)
    path.write_bytes(path.read_bytes()[:-9])
    assert books(tmp_path).last_round(RUN) == 1


def test_a_crash_while_a_run_was_being_joined_leaves_nothing_behind_that_stops_the_client(tmp_path):
    mine = books(tmp_path)
    mine.begin(RUN, PLAN, b"d", "data")
    (tmp_path / RUN.hex() / "ledger.jsonl").rename(tmp_path / RUN.hex() / "ledger.jsonl.new")
    again = books(tmp_path)
    assert again.document(RUN) is None
    again.begin(RUN, PLAN, b"d", "data")
    again.book(RUN, 1, NAMES)
    assert books(tmp_path).last_round(RUN) == 1


def test_a_run_goes_on_with_the_pairs_it_was_joined_with_or_not_at_all(tmp_path):
    mine = books(tmp_path)
    mine.begin(RUN, PLAN, b"d", "these pairs")
    mine.book(RUN, 1, NAMES)
    again = books(tmp_path)
    assert again.under_other_data("these pairs") == ()
    assert again.under_other_data("others") == (RUN.hex(),)
    before = (tmp_path / RUN.hex() / "ledger.jsonl").read_bytes()
    with pytest.raises(ResumeMismatch, match="this client's data"):
        again.begin(RUN, PLAN, b"d", "others")
    assert (tmp_path / RUN.hex() / "ledger.jsonl").read_bytes() == before
    again.begin(OTHER, PLAN, b"d", "others")
    assert again.total() == mine.total(), "a new run with other pairs; what was spent stays spent"
    digest = tmp_path / RUN.hex() / "data"
    assert digest.stat().st_mode & 0o077 == 0, "guesses of pairs can be checked against it"
    assert b"these pairs" not in before


def test_digests_of_pairs_are_told_to_nobody(tmp_path):
    """Neither the server, which asks, nor the client's own log, which others collect."""
    kept, found = "aa" * 32, "bb" * 32
    mine, told = books(tmp_path), []
    mine.begin(RUN, PLAN, b"d", kept)

    def join(_):
        mine.begin(RUN, PLAN, b"d", found)

    answer = _declining(join, lambda event, **facts: told.append((event, facts)))
    with pytest.raises(Declined) as declined:
        answer(b"offer")
    ((event, facts),) = told
    assert (event, facts["kind"]) == ("failed", "ResumeMismatch")
    assert "this client's data is not the one this run started with" in facts["detail"]
    error = declined.value.__cause__
    assert isinstance(error, ResumeMismatch)
    words = (str(declined.value), str(error), error.advice, error.expected, error.found, str(told))
    assert not any(digest in text for digest in (kept, found) for text in words)


@pytest.mark.parametrize(
    ("overrides", "whole"),
    [
        # 7 copies, each client in 20 of 40 rounds: 140 single copies fill at most 35 rounds
        # with 4 or more.
        (("privacy.record_copies=7",), Repeated(GroupPoissonGaussianRelease(7, 0.1, 12.0), 35)),
        # 3 copies: 60 fill 30 rounds with 2 or more.
        (("privacy.record_copies=3",), Repeated(GroupPoissonGaussianRelease(3, 0.1, 12.0), 30)),
        # 2 copies: all 40 stand in pairs, in 20 rounds.
        (("privacy.record_copies=2",), Repeated(GroupPoissonGaussianRelease(2, 0.1, 12.0), 20)),
        # Noise of their own: 3 clients, 20 releases each.
        (
            ("privacy.record_copies=3", "privacy.mode=local"),
            Repeated(PoissonGaussianRelease(0.1, 12.0), 60),
        ),
    ],
    ids=["7 copies", "3 copies", "2 copies", "3 copies, local"],
)
def test_records_that_others_hold_too_cost_the_whole_plan_from_the_first_round_on(
    tmp_path, overrides, whole
):
    """The other holders play on to the end, whether this client stops now or was never asked again."""
    plan = fake_plan(*HALF_OF_THEM, *overrides, clients=10)
    assert (plan.participations, plan.rounds) == (20, 40)
    schedule, delta = plan.schedule, plan.delta
    price = epsilon_pair(
        (whole,), delta, slack=schedule.slack, accounting=schedule.accounting
    ).certified
    assert price == pytest.approx(plan.epsilons[schedule.headline].certified)
    mine = books(tmp_path, max_epsilon=1.9 * price)
    mine.begin(RUN, plan, b"d", "data")
    assert mine.total().epsilon == 0, "who answers no round has released nothing"
    cohort = NAMES[: plan.cohort]
    for number in range(1, 21):
        mine.require_room(RUN, number, cohort)
        assert mine.book(RUN, number, cohort).epsilon == price
        with pytest.raises(ClientRefused, match="the whole plan"):
            mine.begin(OTHER, plan, b"e", "data")
    assert books(tmp_path).total().epsilon == price, "rounds 21 to 40 are the others'"


def test_records_that_stand_once_cost_the_rounds_that_were_answered(tmp_path):
    plan = fake_plan(*HALF_OF_THEM, clients=10)
    mine = books(tmp_path)
    mine.begin(RUN, plan, b"d", "data")
    for count, number in enumerate((1, 7, 33), start=1):
        spent = mine.book(RUN, number, NAMES[: plan.cohort])
        released = Repeated(PoissonGaussianRelease(0.1, 12.0), count)
        priced = epsilon_pair(
            (released,), plan.delta, slack=plan.schedule.slack, accounting=plan.schedule.accounting
        )
        assert spent.epsilon == pytest.approx(priced.certified)


def test_a_looser_policy_forgets_nothing_and_a_tighter_one_stops_at_once(tmp_path):
    mine = books(tmp_path, max_epsilon=WHOLE)
    mine.begin(RUN, PLAN, b"d", "data")
    for number in range(1, 7):
        mine.book(RUN, number, NAMES)
    with pytest.raises(ClientRefused, match="over all runs"):
        mine.begin(OTHER, PLAN, b"e", "data")
    looser = books(tmp_path, max_epsilon=1.5 * WHOLE)
    assert looser.total() == mine.total()
    with pytest.raises(ClientRefused, match=f"to {2 * WHOLE:.4g}; its policy allows"):
        looser.begin(OTHER, PLAN, b"e", "data")
    books(tmp_path, max_epsilon=2.01 * WHOLE).begin(OTHER, PLAN, b"e", "data")
    tighter = books(tmp_path, max_epsilon=WHOLE / 2)
    with pytest.raises(ClientRefused, match="over all runs"):
        tighter.require_room(OTHER, 1, NAMES)


def test_books_that_cannot_be_written_say_where_and_keep_what_they_hold(tmp_path, monkeypatch):
    mine = books(tmp_path)
    mine.begin(RUN, PLAN, b"d", "data")
    mine.book(RUN, 1, NAMES)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        for write in (
            lambda: mine.begin(OTHER, PLAN, b"e", "data"),
            lambda: mine.keep_control(RUN, ControlVariate.start(3)),
            lambda: books(tmp_path),
        ):
            with pytest.raises(BooksUnwritable, match="No space left") as caught:
                write()
            assert str(tmp_path) in str(caught.value)
            assert "start the client again" in caught.value.advice
    again = books(tmp_path)
    assert (again.last_round(RUN), again.document(OTHER)) == (1, None)
    again.begin(OTHER, PLAN, b"e", "data")


def test_a_control_variate_outlasts_its_process(tmp_path):
    """Restarted at any moment, it is what it would have been."""
    rng = np.random.default_rng(0)
    lasting, mine = ControlVariate.start(5), books(tmp_path)
    mine.begin(RUN, PLAN, b"d", "data")
    counted = 0
    for number in range(1, 9):
        restarted = books(tmp_path).control(RUN, 5)
        for one in (lasting, restarted):
            one.settle(counted)
        change = rng.standard_normal(5)
        lasting.sent(number, change)
        restarted.sent(number, change)
        assert restarted.value.tobytes() == lasting.value.tobytes()
        if number == 4:
            continue  # killed before it was written: its vector never left
        mine.keep_control(RUN, restarted)
        counted = number if number % 3 else counted
    path = tmp_path / RUN.hex() / "control"
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ResumeMismatch, match="control variate"):
        books(tmp_path).control(RUN, 5)


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        ({"max_epsilon": 0.5}, "epsilon"),
        ({"max_delta": 1e-9}, "delta"),
        ({"min_cohort": 9}, "8 clients in a round"),
        ({"min_threshold": 7}, "sums of 6"),
        ({"min_colluders": 2}, "1 colluders"),
        ({"plans": ("ab" * 32,)}, "hash"),
    ],
)
def test_a_plan_outside_the_limits_is_objected_to(limits, word):
    allowed = {"max_epsilon": 100.0, "max_delta": 0.5}
    assert objections(PLAN, LimitsConfig(**allowed)) == []
    assert objections(PLAN, LimitsConfig(**allowed, plans=(PLAN.plan_hash,))) == []
    found = objections(PLAN, LimitsConfig(**(allowed | limits)))
    assert len(found) == 1
    assert word in found[0]


def test_no_privacy_is_objected_to():
    plan = fake_plan(
        "privacy.mode=none", "privacy.noise_multiplier=null", "secure_agg.enabled=false"
    )
    allowed = LimitsConfig(max_epsilon=1e9, max_delta=0.5, allow_clear_updates=True)
    assert objections(plan, allowed) == ["the plan promises no privacy"]


def test_updates_in_clear_need_their_owner_s_word():
    plan = fake_plan("privacy.mode=local", "secure_agg.enabled=false")
    limits = {"max_epsilon": 1e9, "max_delta": 0.5}
    (found,) = objections(plan, LimitsConfig(**limits))
    assert "the server sees this client's own update" in found
    assert objections(plan, LimitsConfig(**limits, allow_clear_updates=True)) == []


def test_of_secret_cohorts_the_smallest_counts():
    plan = fake_plan(
        *("privacy.mode=user", "federation.cohort_sampling=poisson", "federation.cohort=8"),
        *(
            "privacy.dropout_tolerance=2",
            "privacy.max_update_norm=1",
            "federation.max_participations=40",
        ),
        clients=12,
    )
    assert (plan.cohort, plan.threshold) == (8, 6)
    limits = {"max_epsilon": 1e9, "max_delta": 0.5}
    assert objections(plan, LimitsConfig(**limits, min_cohort=6)) == []
    (found,) = objections(plan, LimitsConfig(**limits, min_cohort=7))
    assert "6 clients in a round" in found
