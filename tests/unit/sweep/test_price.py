"""The price of selection, against numbers derived by hand."""

import math
from dataclasses import replace

import pytest

from accounting import (
    Adversary,
    GaussianRelease,
    GroupPoissonGaussianRelease,
    InvalidPrivacyParameter,
    Mode,
    NoiseShares,
    PoissonGaussianRelease,
    RandomizedLabels,
    RecordCopies,
    ReleaseSchedule,
    Repeated,
    RunSpend,
    UnsupportedMechanism,
    all_runs_epsilon,
    best_run_epsilon,
    encode_schedule,
    epsilon_pair,
    gaussian_epsilon,
    selection_epsilon,
)
from accounting.accountants import Slack
from accounting.selection import composed_slack
from privfed_dpo.sweep.price import price_facts, price_rows, selection_price, spends_of
from privfed_dpo.sweep.records import Attempt, Booked
from privfed_dpo.sweep.results import best_run
from tests.support.sweeps import SCHEDULE, ended

DELTA = 1e-5
FLIPPED = ReleaseSchedule(Mode.NONE, 1.0, None, 1, labels=RandomizedLabels(0.1))


def local(noise, *, rate=1.0, rounds=4):
    return RunSpend(ReleaseSchedule(Mode.LOCAL, rate, noise, rounds), rounds, rounds)


def test_all_runs_compose():
    """Without sampling, releases with multipliers z_i cost one of separation (sum 1/z_i^2)^(1/2).

    Four rounds at 10 and nine at 15: 4/100 + 9/225 = 0.08.
    """
    runs = [local(10.0), RunSpend(ReleaseSchedule(Mode.LOCAL, 1.0, 15.0, 9), 9, 9)]
    by_hand = gaussian_epsilon(math.sqrt(0.08), DELTA)
    assert all_runs_epsilon(runs, Adversary.COALITION, DELTA).pld == pytest.approx(
        by_hand, rel=1e-6
    )


def test_only_what_was_booked_counts():
    half = RunSpend(ReleaseSchedule(Mode.LOCAL, 1.0, 10.0, 4), 2, 3)
    both = all_runs_epsilon([half, half], Adversary.COALITION, DELTA)
    assert both == all_runs_epsilon([local(10.0)], Adversary.COALITION, DELTA)


def test_the_same_run_twice_is_dearer_than_once_and_cheaper_than_twice_epsilon():
    run = local(2.0, rate=0.2)
    once = all_runs_epsilon([run], Adversary.COALITION, DELTA).pld
    twice = all_runs_epsilon([run, run], Adversary.COALITION, DELTA).pld
    assert once < twice < 2 * once


def test_the_coalition_sees_more_than_outsiders():
    shares = NoiseShares(noise_multiplier=1.0, cohort=10, dropout_tolerance=2, colluders=3)
    run = RunSpend(ReleaseSchedule(Mode.DISTRIBUTED, 0.2, shares, 5), 5, 5)
    coalition = all_runs_epsilon([run], Adversary.COALITION, DELTA).pld
    outside = all_runs_epsilon([run], Adversary.OUTSIDE, DELTA).pld
    assert outside < coalition


def test_selection_is_priced_by_the_worst_run():
    """Runs at noise 2 and 4 and rates 0.1 and 0.2 are dominated by one at noise 2 and rate 0.2."""
    runs = [local(2.0, rate=0.1, rounds=3), local(4.0, rate=0.2, rounds=5)]
    worst = [Repeated(PoissonGaussianRelease(0.2, 2.0), 5)]
    assert best_run_epsilon(runs, DELTA) == selection_epsilon(worst, DELTA, 2)
    unsampled = [local(2.0), local(4.0, rate=0.2)]
    worst = [Repeated(GaussianRelease(2.0), 4)]
    assert best_run_epsilon(unsampled, DELTA) == selection_epsilon(worst, DELTA, 2)


def test_copies_of_a_record_fill_more_rounds_than_one_client_takes_part_in():
    """Three copies in four rounds each, at least two to a sum: six sums at most, of ten."""
    shares = NoiseShares(noise_multiplier=2.0, cohort=10, dropout_tolerance=2, colluders=1)
    copies = RecordCopies(most=3, rounds=12)
    schedule = ReleaseSchedule(Mode.DISTRIBUTED, 0.2, shares, 4, copies=copies)
    run = RunSpend(schedule, 4, 10)
    event = GroupPoissonGaussianRelease(3, 0.2, 2.0)
    by_hand = epsilon_pair([Repeated(event, 6)], DELTA)
    assert all_runs_epsilon([run], Adversary.COALITION, DELTA) == by_hand
    with pytest.raises(UnsupportedMechanism):
        best_run_epsilon([run, run], DELTA)


def test_slack_makes_selection_dearer_and_never_cheaper():
    spends = [Repeated(PoissonGaussianRelease(0.2, 1.0), 25)]
    exact = selection_epsilon(spends, DELTA, 10)
    small = selection_epsilon(spends, DELTA, 10, slack=Slack(1e-9, 0.0, 1e-7))
    large = selection_epsilon(spends, DELTA, 10, slack=Slack(1e-3, 0.0, 1e-3))
    assert exact < small < exact + 1e-3 < large


def test_slacks_add_up():
    combined = composed_slack([Slack(0.1, 1e-20, 0.3), Slack(0.2, 2e-20, 0.4)])
    assert combined.log_ratio == pytest.approx(0.3)
    assert combined.certain_log_ratio == pytest.approx(0.7)
    assert combined.failure == pytest.approx(3e-20 * math.exp(0.3))


def test_runs_without_a_common_bound_are_refused():
    with pytest.raises(InvalidPrivacyParameter, match="no bound"):
        RunSpend(ReleaseSchedule(Mode.NONE, 1.0, None, 1), 1, 1)
    with pytest.raises(InvalidPrivacyParameter, match="no more than rounds"):
        RunSpend(local(1.0).schedule, 0, 3)
    shares = NoiseShares(noise_multiplier=1.0, cohort=5, dropout_tolerance=0, colluders=0)
    user = RunSpend(ReleaseSchedule(Mode.USER, 1.0, shares, 1), 1, 1)
    with pytest.raises(InvalidPrivacyParameter, match="different units"):
        all_runs_epsilon([user, local(1.0)], Adversary.COALITION, DELTA)
    with pytest.raises(InvalidPrivacyParameter, match="different units"):
        best_run_epsilon([user, local(1.0)], DELTA)


def test_every_attempt_counts_and_an_unknown_one_in_full():
    run = ended("a", 0.8)
    attempts = (
        Attempt("runs/a", "here", Booked(3, 3)),
        Attempt("runs/a_attempt-2", "here", Booked(0, 0)),
        Attempt("runs/a_attempt-3", "there", None),
    )
    spends, unknown = spends_of([replace(run, attempts=attempts), ended("b", 0.9, epsilon=None)])
    assert [spend.participations for spend in spends] == [3, 4]
    assert unknown == 1


def test_the_price_of_a_sweep():
    runs = [ended(f"r{seed}", 0.8 + 0.01 * seed, seed=seed, epsilon=2.0) for seed in range(3)]
    price = selection_price(runs, best_run(runs, "reward_accuracy"))
    coalition, outside = price.views
    assert price.best == "r2"
    assert coalition.own == 2.0
    twelve = epsilon_pair([Repeated(GaussianRelease(10.0), 12)], DELTA).pld
    assert coalition.all_runs.pld == outside.all_runs.pld == twelve
    assert coalition.selected is None, "the server sees every run"
    assert outside.selected == selection_epsilon([Repeated(GaussianRelease(10.0), 4)], DELTA, 3)
    assert price.sentence.startswith("If you publish r2, picked as the best of 3 private runs")
    assert price.sentence.endswith("all runs composed, not the run's own 2.000.")
    assert len(price.remarks) == 2
    assert "picked before any result" in price.remarks[0]
    assert "geometric, mean 3" in price.remarks[1]
    assert len(price_rows(price)) == 2
    assert price_facts(price)["views"]["coalition"]["own"] == 2.0


def test_runs_without_noise_are_named():
    runs = [ended("a", 0.8), ended("b", 0.9), ended("free", 0.99, epsilon=None)]
    price = selection_price(runs, best_run(runs, "reward_accuracy"))
    assert price.best == "b", "a run without privacy is never the best private one"
    assert price.private_runs == 2
    assert price.remarks[-1].startswith("Runs without noise have no bound at all, and 1 were made")


def test_flips_of_labels_add_up():
    """Flips with probability 0.1 cost log 9 each time; two runs, one of them begun twice."""
    flipped = {**SCHEDULE, "labels": encode_schedule(FLIPPED)["labels"]}
    runs = [replace(ended(n, 0.8), plan={**ended(n, 0.8).plan, "schedule": flipped}) for n in "ab"]
    again = replace(runs[1], attempts=runs[1].attempts * 2)
    price = selection_price([runs[0], again], runs[0])
    assert price.label_runs == 3
    assert price.label_epsilon == pytest.approx(3 * math.log(9))
    assert "in each of 3 runs" in price.remarks[-1]


def test_runs_without_a_value_of_the_objective_are_priced_all_the_same():
    runs = [ended(name, None, epsilon=2.0) for name in ("a", "b")]
    assert best_run(runs, "reward_accuracy") is None
    price = selection_price(runs, None)
    eight = epsilon_pair([Repeated(GaussianRelease(10.0), 8)], DELTA).pld
    assert [view.all_runs.pld for view in price.views] == [eight, eight]
    assert [view.own for view in price.views] == [None, None]
    assert price.sentence.startswith("No private run has a value of the objective")
    assert "any of the 2 private runs" in price.sentence
    assert price.remarks == ()
    assert [row[1::2] for row in price_rows(price)] == [("does not apply",) * 2] * 2
    assert price_facts(price)["best"] is None


def test_one_failed_run_is_priced_by_itself():
    price = selection_price([ended("a", None)], None)
    assert "If you publish it, or the report" in price.sentence


def test_one_run_is_no_selection():
    price = selection_price([ended("a", 0.8)], ended("a", 0.8))
    assert price.sentence.startswith("Only one private run was made")
    assert price.remarks == ()
    assert price_rows(price)[1][-1] == "does not apply"


def test_nothing_private_has_no_price():
    free = ended("free", 0.9, epsilon=None)
    assert selection_price([free], best_run([free], "reward_accuracy")) is None
