"""Cohorts by secret coins: drawn at their rate, capped, too small ones aborted and booked."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from accounting import Adversary, read_ledger, verify_ledger
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.cohort import draw_secret_cohort
from privfed_dpo.errors import ConfigError, PlanRefused
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.mechanism.sampler import PoissonSampler
from privfed_dpo.server_update import ServerState
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import LoopbackCarrier
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import (
    DIMENSION,
    NullGradients,
    fake_clients,
    fake_ledger,
    fake_plan,
    fake_start,
    fake_training,
    invitation,
)

NAMES = tuple(f"c{n}" for n in range(40))
ZERO = np.zeros(DIMENSION, np.float32)


def secret_plan(*overrides, **changes):
    fixed = (
        "privacy.mode=user",
        "privacy.max_update_norm=0.25",
        "privacy.dropout_tolerance=1",
        "privacy.colluders=0",
        "federation.cohort_sampling=poisson",
        "federation.cohort=5",
        "federation.max_participations=12",
        "federation.rounds=16",
    )
    return fake_plan(*fixed, *overrides, **changes)


def test_every_client_joins_by_its_own_coin_at_the_booked_rate():
    issuer = StreamIssuer(counted_entropy("coins"))
    sizes, counts = [], Counter()
    for number in range(2000):
        cohort = draw_secret_cohort(
            NAMES,
            PoissonSampler(0.3),
            {},
            max_participations=1,
            stream=issuer.issue(f"cohort/{number}"),
        )
        sizes.append(len(cohort))
        counts.update(cohort)

    def p_value(rate):
        return stats.binomtest(sum(sizes), 2000 * 40, rate).pvalue

    assert p_value(0.3) > 1e-9
    assert p_value(0.3 * 1.05) < 1e-9
    spread = np.var(sizes) / (40 * 0.3 * 0.7)
    assert 0.8 < spread < 1.25, "a fixed size would have no spread"
    assert min(counts.values()) > 400


def test_a_client_at_its_cap_joins_no_more():
    counts = Counter()
    issuer = StreamIssuer(counted_entropy("cap"))
    for number in range(60):
        cohort = draw_secret_cohort(
            NAMES,
            PoissonSampler(0.5),
            counts,
            max_participations=7,
            stream=issuer.issue(f"{number}"),
        )
        counts.update(cohort)
    assert set(counts.values()) == {7}
    assert cohort == ()


def test_the_plan_is_made_for_every_size():
    """Five of eight on average: noise for four, a ring for eight, signatures for each size."""
    plan = secret_plan()
    assert (plan.cohort, plan.threshold, plan.participations) == (5, 4, 12)
    assert plan.cohort_sampler().sample_rate == plan.schedule.secret_cohort.rate == 5 / 8
    assert plan.noise.releases == 16
    assert [size for size in range(10) if plan.allows_cohort(size)] == [4, 5, 6, 7, 8]
    needed = [4, 4, 4, 4, 5]
    for size, threshold in zip(range(4, 9), needed, strict=True):
        params = plan.protocol_params(b"r" * 16, {n: bytes([n]) * 32 for n in range(size)})
        assert params.threshold == threshold >= plan.threshold
    room = 2.0 ** (plan.ring.bits - 1)
    noise = plan.noise.share_stddev_steps * np.sqrt(8)
    assert 8 * plan.ring.clipper_steps + 12 * noise < room
    facts = plan.describe()
    assert facts["cohort_sampling"] == "poisson"
    assert facts["cohort_shortfall"] == pytest.approx(stats.binom.cdf(3, 8, 5 / 8))
    fixed = fake_plan("privacy.mode=user", "privacy.max_update_norm=1").describe()
    assert (fixed["cohort_sampling"], fixed["cohort_shortfall"]) == ("fixed", None)


def test_outsiders_are_priced_like_the_server_in_a_large_federation():
    plan = secret_plan(
        "federation.cohort=100",
        "federation.rounds=100",
        "federation.max_participations=24",
        "privacy.dropout_tolerance=48",
        clients=1000,
        dimension=3,
    )
    assert plan.epsilons[Adversary.OUTSIDE] == plan.epsilons[Adversary.SERVER]
    assert plan.graph.neighbourhood is None


def play(plan, tmp_path, seed="coins"):
    clients, roster = fake_clients(plan, source=NullGradients)
    saved = []
    training = fake_training(
        plan,
        roster,
        fake_ledger(plan, tmp_path / "ledger.jsonl"),
        save=saved.append,
        issuer=StreamIssuer(counted_entropy(seed)),
    )
    start = Checkpoint(0, ServerState.start(ZERO), (), plan.plan_hash, "d", 0.0)
    carrier = LoopbackCarrier({n: c.handle for n, c in clients.items()})
    return drive(training.script(start), carrier), saved, tmp_path / "ledger.jsonl"


def test_a_whole_run_plays_what_it_can_and_books_what_it_cannot(tmp_path):
    plan = secret_plan()
    result, saved, path = play(plan, tmp_path)
    assert result.status == "finished", result.reason
    lines = [json.loads(line)["body"] for line in path.read_text().splitlines()[1:]]
    cohorts = [line["cohort"] for line in lines if "cohort" in line]
    outcomes = [line["status"] for line in lines if "survivors" in line]
    assert len(cohorts) == 16
    sizes = [len(cohort) for cohort in cohorts]
    assert len(set(sizes)) > 2
    assert min(sizes) < 4, "the seed should show a cohort that is too small"
    assert outcomes == ["released" if size >= 4 else "aborted" for size in sizes]
    assert [checkpoint.rows[-1].cohort for checkpoint in saved] == sizes
    verdict = verify_ledger(read_ledger(path))
    assert verdict.ok, verdict.problems
    assert verdict.rounds == 16
    counts = Counter(name for cohort in cohorts for name in cohort)
    assert verdict.participations == max(counts.values()) <= 12


def test_other_secrets_give_other_cohorts(tmp_path):
    runs = []
    for seed in ("one", "two"):
        folder = tmp_path / seed
        folder.mkdir()
        _, _, path = play(secret_plan("federation.rounds=3"), folder, seed)
        spends = [json.loads(line)["body"].get("cohort") for line in path.read_text().splitlines()]
        runs.append(spends)
    assert runs[0] != runs[1], "the public seed decides nothing here"


def test_a_run_ends_when_too_few_clients_are_below_their_cap(tmp_path):
    plan = secret_plan("federation.max_participations=2")
    result, _, path = play(plan, tmp_path)
    assert result.status == "budget_spent"
    assert "took part as often as allowed" in result.reason
    assert verify_ledger(read_ledger(path)).participations == 2


def test_clients_refuse_cohorts_below_the_threshold():
    plan = secret_plan()
    clients, _ = fake_clients(plan)

    def invite(number, size):
        start = fake_start(plan, range(size), ZERO, number)
        return clients[0].handle(invitation(start, number))

    assert invite(1, 4)
    assert invite(2, 8)
    with pytest.raises(ClientRefused, match="not one that the plan"):
        invite(3, 3)


def test_a_cap_below_what_fixed_cohorts_need_is_refused_and_above_it_changes_nothing():
    fixed = ("federation.cohort=6", "federation.rounds=10")  # 60 places over 8 clients
    with pytest.raises(PlanRefused, match="need a client 8 times") as caught:
        fake_plan(*fixed, "federation.max_participations=7")
    assert "at most 9 rounds" in caught.value.advice
    free, capped = fake_plan(*fixed), fake_plan(*fixed, "federation.max_participations=8")
    assert dataclasses.asdict(free) == dataclasses.asdict(capped)


def test_a_secret_run_may_not_end_early_for_one_client_s_budget():
    with pytest.raises(PlanRefused, match="may not end a run early"):
        secret_plan("privacy.target_epsilon=4.5")
    plan = secret_plan("privacy.noise_multiplier=null", "privacy.target_epsilon=6")
    assert plan.epsilons[Adversary.COALITION].pld <= 6


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("federation.max_participations=null", "chance alone bounds nothing"),
        ("federation.cohort=null", "chance alone bounds nothing"),
        ("privacy.mode=local", "no secret cohort is priced"),
    ],
)
def test_what_secret_cohorts_need_is_asked_for(override, reason):
    with pytest.raises(ConfigError, match=reason):
        secret_plan(override)
