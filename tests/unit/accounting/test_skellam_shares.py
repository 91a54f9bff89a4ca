"""Skellam shares and the Renyi accounting of integer noise: arithmetic, bounds, ledgers."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from accounting import (
    Accounting,
    Adjacency,
    Adversary,
    Budget,
    GridNoise,
    InvalidPrivacyParameter,
    Ledger,
    LedgerHeader,
    Mode,
    NoiseShares,
    PrivacyUnit,
    RecordCopies,
    ReleaseSchedule,
    Repeated,
    RunSpend,
    SkellamNoise,
    UnsupportedMechanism,
    all_runs_epsilon,
    calibrate_noise_multiplier,
    decode_event,
    decode_schedule,
    encode_event,
    encode_schedule,
    guarantee,
    pld_epsilon,
    read_ledger,
    unconditional_epsilon,
    verify_ledger,
)
from accounting.discrete_rdp import library_epsilon
from accounting.integer_divergences import (
    dominating_gaussian,
    integer_divergences,
    sampled_symmetric,
    skellam_divergence,
    unsampled_divergence,
)
from tests.support.forged_ledgers import lines_of, rechained, write_lines

DELTA = 1e-5
NUMBERS = (1.0, 2.0**20, 20, 5, 2, 10**6, 200)
SKELLAM = SkellamNoise(*NUMBERS, sampler_relative_error=2.0**-42)
GRID = GridNoise(*NUMBERS, sampler_relative_error=2.0**-45)
BY_SKELLAM = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, SKELLAM, 200, accounting=Accounting.RDP)
BY_RDP = replace(BY_SKELLAM, noise=GRID)
BY_REDUCTION = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, GRID, 200)


def test_shares_are_whole_and_suffice():
    """13 honest shares of 2 m carry at least (z D2)^2 = 2^40; one unit of m less would not."""
    assert SKELLAM.poisson_mean == math.ceil(2**40 / 26)
    assert 13 * SKELLAM.share_variance_steps >= 2**40 > 13 * 2 * (SKELLAM.poisson_mean - 1)
    assert SKELLAM.effective_noise_multiplier(15, 2) == pytest.approx(1.0, rel=1e-9)
    assert SKELLAM.effective_noise_multiplier(15, 2) >= 1.0
    assert SKELLAM.effective_noise_multiplier(20, 0) == pytest.approx(math.sqrt(20 / 13))
    assert SKELLAM.release(13, 0.05).variance_steps == 13 * SKELLAM.share_variance_steps


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"sensitivity_steps": 2000.0}, "share_stddev_steps"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"noise_multiplier": 1e7}, "noise_multiplier"),
        ({"sensitivity_steps": math.inf}, "sensitivity_steps"),
        ({"dimension": 0}, "dimension"),
        ({"releases": 0}, "releases"),
        ({"colluders": 10}, "dropout_tolerance"),
        ({"sampler_relative_error": 1.0}, "sampler_relative_error"),
        ({"sampler_relative_error": 2.0**-20}, "sampler_relative_error"),
    ],
)
def test_noise_that_would_not_do_is_refused(changes, name):
    with pytest.raises(InvalidPrivacyParameter) as caught:
        replace(SKELLAM, **changes)
    assert caught.value.parameter == name


def test_each_share_books_two_draws():
    """Azuma over 2 * 20 * 10^6 * 200 = 8e9 Poisson variables, each within 2^-42."""
    samples, single = 8e9, 2.0**-42
    by_hand = samples * single**2 / 2 + single * math.sqrt(2 * samples * 300 * math.log(10))
    assert by_hand < SKELLAM.slack.log_ratio < 1.001 * by_hand
    assert SKELLAM.slack == BY_SKELLAM.slack
    assert SKELLAM.slack_epsilon == 2 * SKELLAM.slack.log_ratio
    assert replace(SKELLAM, sampler_relative_error=0.0).slack.log_ratio == 0


def test_accounting_and_noise_must_fit():
    with pytest.raises(InvalidPrivacyParameter, match="Skellam noise takes rdp"):
        ReleaseSchedule(Mode.DISTRIBUTED, 0.05, SKELLAM, 200)
    for noise in (NoiseShares(1.0, 20, 5, 2), None):
        mode = Mode.DISTRIBUTED if noise else Mode.NONE
        with pytest.raises(InvalidPrivacyParameter, match="only integer noise"):
            ReleaseSchedule(mode, 0.05, noise, 200, accounting=Accounting.RDP)
    with pytest.raises(InvalidPrivacyParameter, match="copies of a pair"):
        replace(BY_SKELLAM, copies=RecordCopies(2, 200))


@pytest.mark.parametrize("adversary", Adversary)
def test_rdp_certifies_and_the_reduction_stands_beside_where_it_applies(adversary):
    by_rdp, by_skellam = (one.epsilon(adversary, DELTA) for one in (BY_RDP, BY_SKELLAM))
    reduced = BY_REDUCTION.epsilon(adversary, DELTA)
    assert by_rdp.certified == by_rdp.rdp
    assert by_rdp.pld == reduced.pld == reduced.certified < by_rdp.certified
    assert by_rdp.rdp == unconditional_epsilon(BY_REDUCTION, adversary, DELTA)
    assert by_skellam.pld == math.inf
    assert by_skellam.certified == pytest.approx(by_rdp.rdp, rel=1e-4)
    assert by_skellam.certified >= by_rdp.rdp * (1 - 1e-9), "Skellam is never the cheaper one"


def skellam_law(mean, reach):
    """Exact probabilities e^-V I_k(V) for variance V = 2 mean."""
    support = np.arange(-reach, reach + 1)
    law = special.ive(np.abs(support), 2.0 * mean)
    assert law.sum() == pytest.approx(1.0, abs=1e-10)
    return law


def renyi(p, q, order):
    seen = (p > 0) & (q > 0)
    log_terms = order * np.log(p[seen]) + (1 - order) * np.log(q[seen])
    return float(special.logsumexp(log_terms)) / (order - 1)


@given(
    mean=st.integers(8, 3000),
    shift=st.integers(1, 12),
    order=st.integers(2, 24),
    rate=st.sampled_from([0.05, 0.3, 1.0]),
)
@settings(deadline=None, max_examples=80)
def test_skellam_bounds_hold_and_are_close_in_one_dimension(mean, shift, order, rate):
    """Directly summed divergences, both directions, with and without sampling."""
    stddev = math.sqrt(2 * mean)
    reach = math.ceil(10 * stddev) + 2 * order * shift
    base = skellam_law(mean, reach)
    moved = np.roll(base, shift)
    mixed = (1 - rate) * base + rate * moved
    inner = slice(shift, -shift)
    one = skellam_divergence(2.0 * mean, float(shift), 1)
    (bound,) = sampled_symmetric(one, rate, (order,))
    remove = renyi(mixed[inner], base[inner], order)
    add = renyi(base[inner], mixed[inner], order)
    assert add <= remove * (1 + 1e-6) + 1e-12
    assert remove <= bound * (1 + 1e-6)
    if order * shift < 0.2 * stddev:
        assert remove > 0.9 * bound


def test_narrower_noise_refutes_the_bound():
    """The check above can fail: noise of 10 % less variance exceeds the bound."""
    mean, shift, order = 3000, 12, 4
    base = skellam_law(int(0.9 * mean), 1200)
    found = renyi(np.roll(base, shift)[shift:-shift], base[shift:-shift], order)
    assert found > float(skellam_divergence(2.0 * mean, shift, 1)(np.array([float(order)]))[0])


@pytest.mark.parametrize("schedule", [BY_RDP, BY_SKELLAM])
@pytest.mark.parametrize("adversary", [Adversary.COALITION, Adversary.NO_SECAGG])
def test_a_library_prices_the_same_and_notices_one_per_cent(schedule, adversary):
    found = schedule.epsilon(adversary, DELTA).rdp
    spends = schedule.view(adversary)
    assert library_epsilon(schedule, spends, DELTA) == pytest.approx(found, rel=1e-4)
    event = spends[0].event
    louder = replace(event, sensitivity_steps=1.01 * event.sensitivity_steps)
    other = library_epsilon(schedule, [Repeated(louder, spends[0].count)], DELTA)
    assert other > 1.005 * found


def test_the_dominating_gaussian_dominates_at_whole_orders():
    orders = np.arange(2.0, 200.0)
    for event in (SKELLAM.release(13, 0.05), GRID.release(13, 0.05), SKELLAM.release(1, 1.0)):
        found = unsampled_divergence(event)(orders)
        dominating = orders / (2 * dominating_gaussian(event).noise_multiplier ** 2)
        assert np.all(found <= dominating * (1 + 1e-12))
        assert found == pytest.approx(dominating, rel=1e-4)


def test_orders_without_a_bound_are_never_used():
    sampled = SKELLAM.release(13, 0.05)
    assert np.isinf(integer_divergences(sampled, (1.5, 2.0, 2.5))).tolist() == [True, False, True]
    assert np.isfinite(integer_divergences(GRID.release(13, 1.0), (1.5, 2.0))).all()
    assert np.isinf(integer_divergences(SKELLAM.release(13, 1.0), (1.5,))).all()
    with pytest.raises(UnsupportedMechanism):
        pld_epsilon([Repeated(sampled, 3)], DELTA)


def test_calibration_meets_the_target_under_rdp():
    def schedule(noise_multiplier):
        return replace(BY_SKELLAM, noise=replace(SKELLAM, noise_multiplier=noise_multiplier))

    found = calibrate_noise_multiplier(
        lambda noise: schedule(noise).view(Adversary.COALITION),
        Budget(3.0, DELTA),
        accounting=Accounting.RDP,
    )
    at_least = schedule(found.noise_multiplier).epsilon(Adversary.COALITION, DELTA)
    below = schedule(0.999 * found.noise_multiplier).epsilon(Adversary.COALITION, DELTA)
    assert at_least.certified <= 3.0 + 1e-5 < below.certified
    assert found.noise_multiplier == pytest.approx(1.3759, rel=2e-3)


@pytest.mark.parametrize("schedule", [BY_RDP, BY_SKELLAM, BY_REDUCTION])
def test_schedules_and_events_survive_the_ledger(schedule):
    encoded = encode_schedule(schedule)
    assert decode_schedule(encoded) == schedule
    assert ("accounting" in encoded) == (schedule.accounting is Accounting.RDP)
    event = schedule.round_events(Adversary.COALITION).event
    assert decode_event(encode_event(event)) == event


def test_older_headers_mean_the_reduction_and_unknown_words_are_refused():
    encoded = encode_schedule(BY_RDP)
    del encoded["accounting"]
    assert decode_schedule(encoded) == BY_REDUCTION
    for accounting in ("moments", None, 3):
        with pytest.raises(InvalidPrivacyParameter, match="accounting"):
            decode_schedule({**encoded, "accounting": accounting})


def header(schedule, epsilon=8.0):
    return LedgerHeader(
        run_id="r",
        plan_hash="1",
        config_hash="2",
        unit=PrivacyUnit.PAIR,
        adjacency=Adjacency.ZERO_OUT,
        budget=Budget(epsilon, DELTA),
        schedule=schedule,
        clients=20,
    )


CLIENTS = [f"c{number}" for number in range(20)]


def written(folder, schedule):
    ledger = Ledger.create(folder / "ledger.jsonl", header(schedule))
    for number, survivors in enumerate([20, 15, 17]):
        ledger.spend(number, CLIENTS)
        ledger.outcome(number, "released", CLIENTS[:survivors])
    ledger.close("finished", {})
    return ledger


@pytest.mark.parametrize("schedule", [BY_RDP, BY_SKELLAM])
def test_a_ledger_is_priced_alike_by_writer_and_stranger(tmp_path, schedule):
    ledger = written(tmp_path, schedule)
    verdict = verify_ledger(read_ledger(tmp_path / "ledger.jsonl"))
    assert verdict.ok, verdict.problems
    assert verdict.epsilon == ledger.epsilons()
    assert verdict.realised == pytest.approx(ledger.realised_epsilon(), rel=1e-9)
    guaranteed = ledger.epsilon()
    assert guaranteed.certified == guaranteed.rdp
    assert guaranteed.rdp == pytest.approx(
        schedule.spent(Adversary.COALITION, DELTA, 3, 3).rdp, rel=1e-12
    )
    fewest = Ledger.create(tmp_path / "fewest.jsonl", header(schedule))
    for number in range(3):
        fewest.spend(number, CLIENTS)
    assert ledger.realised_epsilon() < fewest.realised_epsilon()


def test_the_budget_is_held_against_the_renyi_bound(tmp_path):
    """What the reduction would still allow is refused."""
    one = BY_RDP.spent(Adversary.COALITION, DELTA, 1, 1)
    between = (one.pld + one.rdp) / 2
    assert Ledger.create(tmp_path / "a", header(BY_RDP, between)).would_exceed(CLIENTS)
    assert not Ledger.create(tmp_path / "b", header(BY_REDUCTION, between)).would_exceed(CLIENTS)
    assert not Ledger.create(tmp_path / "c", header(BY_RDP, 1.001 * one.rdp)).would_exceed(CLIENTS)


def test_another_noise_or_accounting_in_the_header_is_noticed(tmp_path):
    written(tmp_path, BY_SKELLAM)
    original = lines_of(tmp_path)
    for schedule in (BY_RDP, BY_REDUCTION, replace(BY_SKELLAM, sample_rate=0.04)):
        lines = [dict(line) for line in original]
        body = {**lines[0]["body"], "schedule": encode_schedule(schedule)}
        write_lines(tmp_path, rechained([{**lines[0], "body": body}, *lines[1:]]))
        problems = verify_ledger(read_ledger(tmp_path / "ledger.jsonl")).problems
        assert any("books another release than the plan's" in problem for problem in problems)


@pytest.mark.parametrize(("factor", "contradicted"), [(0.98, True), (1.02, False)])
def test_a_wrong_renyi_bound_is_contradicted(tmp_path, monkeypatch, factor, contradicted):
    """The verifier does not take its own formula for granted; too large a bound is still one."""
    written(tmp_path, BY_SKELLAM)
    record = read_ledger(tmp_path / "ledger.jsonl")
    honest = ReleaseSchedule.spent

    def cheaper(self, *arguments):
        pair = honest(self, *arguments)
        return replace(pair, rdp=factor * pair.rdp)

    monkeypatch.setattr(ReleaseSchedule, "spent", cheaper)
    problems = verify_ledger(record).problems
    assert any("contradict each other" in problem for problem in problems) is contradicted


def test_the_statement_names_the_noise_and_what_certifies():
    for schedule, law in ((BY_SKELLAM, "Skellam"), (BY_RDP, "discrete Gaussian")):
        priced = {adversary: schedule.epsilon(adversary, DELTA) for adversary in Adversary}
        text = guarantee(header(schedule), priced)
        assert f"RDP of the {law} noise itself, certified" in text
        assert f"coalition: {math.ceil(priced[Adversary.COALITION].rdp * 1e4) / 1e4:.4f}" in text
        assert ("PLD by reduction" in text) == (law == "discrete Gaussian")
        assert "The sampler's distance from exact noise" in text


def test_runs_together_are_held_to_the_renyi_bound_if_one_is():
    both = [RunSpend(BY_SKELLAM, 200, 200), RunSpend(BY_REDUCTION, 200, 200)]
    together = all_runs_epsilon(both, Adversary.COALITION, DELTA)
    assert together.pld == math.inf
    alone = BY_SKELLAM.epsilon(Adversary.COALITION, DELTA).certified
    assert alone < together.certified < 2 * alone


def test_own_noise_prices_copies_apart():
    own = SkellamNoise(1.0, 2.0**20, 1, 0, 0, 10**6, 100)
    once = ReleaseSchedule(Mode.LOCAL, 0.05, own, 50, accounting=Accounting.RDP)
    twice = replace(once, copies=RecordCopies(2, 50))
    assert twice.round_events(Adversary.SERVER).count == 2
    assert twice.view(Adversary.SERVER) == replace(once, participations=100).view(Adversary.SERVER)


def test_other_modes_take_integer_noise_as_well():
    own = SkellamNoise(1.0, 2.0**20, 1, 0, 0, 10**6, 100)
    local = ReleaseSchedule(Mode.LOCAL, 0.05, own, 50, 2, accounting=Accounting.RDP)
    assert local.round_events(Adversary.SERVER).count == 2
    costs = {local.epsilon(adversary, DELTA).certified for adversary in Adversary}
    assert len(costs) == 1
    user = ReleaseSchedule(Mode.USER, 1.0, SKELLAM, 10, accounting=Accounting.RDP)
    found = user.epsilon(Adversary.COALITION, DELTA).certified
    by_gaussian = unconditional_epsilon(replace(user, noise=GRID), Adversary.COALITION, DELTA)
    assert by_gaussian < found < 1.05 * by_gaussian, "whole orders only, and it is below 3"
    with pytest.raises(InvalidPrivacyParameter, match="cohort 1"):
        ReleaseSchedule(Mode.LOCAL, 0.05, SKELLAM, 50, accounting=Accounting.RDP)
