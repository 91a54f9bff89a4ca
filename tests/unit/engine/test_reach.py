"""What a refused target says would help does help, and little less would not."""

import math
import re
from dataclasses import replace

import pytest

from privfed_dpo.config import parse_config
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.engine.public_facts import PublicFacts
from privfed_dpo.engine.reach import largest_noise_multiplier
from privfed_dpo.errors import PlanRefused

BASE = """
privacy: {target_epsilon: 1, max_noise_multiplier: 4, delta: 1.0e-5, sample_rate: 0.2}
federation: {rounds: 400}
"""


def facts(clients=20, pairs=100):
    names = tuple(f"c{i:04}" for i in range(clients))
    return PublicFacts(names, (pairs,) * clients, 1000, "f", 4)


def config_of(*overrides):
    # Data of the user's own, so that only the facts say how many clients there are.
    return parse_config(BASE, ["data.train=t.jsonl", "model.base=./base", *overrides])


def plan_of(*overrides, **held):
    return make_plan(config_of(*overrides), facts(**held))


def ways(*overrides, **held):
    """What the refusal of these settings names: rounds, pairs per client with rate, clients."""
    with pytest.raises(PlanRefused, match="out of reach") as caught:
        plan_of(*overrides, **held)
    said = caught.value.advice
    patterns = {
        "rounds": r"federation\.rounds=(\d+)",
        "pairs": r", (\d+) at each client on average, with privacy\.sample_rate=([\d.e-]+),",
        "clients": r"(\d+) clients like these \(there are \d+\) with federation\.cohort=(\d+)",
        "epsilon": r"privacy\.target_epsilon=([\d.e-]+)\. ",
    }
    found = {name: re.search(pattern, said) for name, pattern in patterns.items()}
    return {name: tuple(map(float, m.groups())) for name, m in found.items() if m}


@pytest.fixture(scope="module")
def told():
    return ways()


def test_all_ways_out_are_named_where_all_help(told):
    assert set(told) == {"rounds", "pairs", "clients", "epsilon"}


def test_so_many_rounds_are_within_reach_and_one_more_is_not(told):
    (rounds,) = told["rounds"]
    assert plan_of(f"federation.rounds={rounds:.0f}").epsilons
    with pytest.raises(PlanRefused, match="out of reach"):
        plan_of(f"federation.rounds={rounds + 1:.0f}")


def test_so_many_pairs_are_enough_and_a_few_percent_fewer_are_not(told):
    pairs, rate = told["pairs"]
    plan = plan_of(f"privacy.sample_rate={rate}", pairs=int(pairs))
    assert plan.expected_batch_pairs == pytest.approx(0.2 * 2000, rel=0.01), "a round as large"
    assert plan.noise.noise_multiplier <= 4
    fewer = int(0.97 * pairs)
    with pytest.raises(PlanRefused, match="out of reach"):
        plan_of(f"privacy.sample_rate={20 / fewer}", pairs=fewer)


def test_so_many_clients_are_enough_and_a_few_percent_fewer_are_not(told):
    clients, cohort = told["clients"]
    assert cohort == 20
    plan = plan_of("federation.cohort=20", clients=int(clients))
    assert plan.noise.noise_multiplier <= 4
    assert plan.participations < 400
    with pytest.raises(PlanRefused, match="out of reach"):
        plan_of("federation.cohort=20", clients=int(0.95 * clients))


def test_the_epsilon_that_is_named_is_within_reach_and_a_little_less_is_not(told):
    (epsilon,) = told["epsilon"]
    plan = plan_of(f"privacy.target_epsilon={epsilon}")
    assert plan.noise.noise_multiplier == pytest.approx(4, rel=0.01)
    assert plan.noise.noise_multiplier <= 4
    with pytest.raises(PlanRefused, match="out of reach"):
        plan_of(f"privacy.target_epsilon={0.98 * epsilon}")


def test_only_what_helps_is_named():
    """One step of 4 C noise costs more than epsilon 0.1: fewer rounds or rarer clients are no way."""
    assert set(ways("privacy.target_epsilon=0.1", "federation.rounds=30")) == {"pairs", "epsilon"}


def test_users_are_protected_whole_so_more_pairs_of_theirs_change_nothing():
    user = ("privacy.mode=user", "privacy.max_update_norm=1", "federation.rounds=100")
    told = ways(*user)
    assert set(told) == {"rounds", "clients", "epsilon"}
    clients, cohort = map(int, told["clients"])
    assert plan_of(*user, f"federation.cohort={cohort}", clients=clients).epsilons


@pytest.mark.parametrize("mode", ["local", "gossip"])
def test_nodes_that_bring_their_own_noise_get_ways_of_their_own(mode):
    settings = [f"privacy.mode={mode}"]
    if mode == "gossip":
        settings.append("secure_agg.enabled=false")
    told = ways(*settings)
    assert ("clients" in told) == (mode == "local"), "without a server every node is in every round"
    pairs, rate = told["pairs"]
    assert plan_of(*settings, f"privacy.sample_rate={rate}", pairs=int(pairs)).epsilons


# Without a limit of the user's


@pytest.mark.parametrize(
    ("mode", "limit"),
    [
        ("distributed", 20 * 20 * math.sqrt(400)),  # 400 pairs a round, 400 rounds
        ("local", 20 * math.sqrt(20 * 3 * 400)),  # 20 pairs a step, 20 * 3 * 400 steps
        ("gossip", 20 * math.sqrt(20 * 3 * 400)),
        ("user", 20 * math.sqrt(400)),  # 20 clients a round
    ],
)
def test_where_noise_drowns_the_data_by_hand(mode, limit):
    config = config_of()
    config = config.model_copy(
        update={
            "privacy": config.privacy.model_copy(
                update={"mode": mode, "max_noise_multiplier": None}
            ),
            "federation": config.federation.model_copy(update={"local_steps": 3}),
        }
    )
    assert largest_noise_multiplier(config, facts()) == pytest.approx(limit)
    few = config.model_copy(
        update={"federation": config.federation.model_copy(update={"cohort": 5})}
    )
    ratio = 2 if mode in ("local", "gossip") else 4
    assert largest_noise_multiplier(few, facts()) == pytest.approx(limit / ratio)
    halved = replace(facts(), client_pairs=(50,) * 20)
    per_pairs = 1 if mode == "user" else 2
    assert largest_noise_multiplier(config, halved) == pytest.approx(limit / per_pairs)


def test_few_pairs_and_a_small_epsilon_are_refused_with_the_pairs_it_takes():
    unlimited = ("privacy.max_noise_multiplier=null", "federation.rounds=10")
    settings = (*unlimited, "privacy.target_epsilon=0.02")
    told = ways(*settings, clients=5, pairs=4)
    assert set(told) <= {"pairs", "clients", "epsilon"}, "noise and signal fall alike with rounds"
    pairs, rate = told["pairs"]
    assert plan_of(*settings, f"privacy.sample_rate={rate}", clients=5, pairs=int(pairs)).epsilons
    wanted = "privacy.max_noise_multiplier=1e5"
    assert plan_of(*settings, wanted, clients=5, pairs=4).epsilons, "whoever insists, gets it"
    assert plan_of(*unlimited, "privacy.target_epsilon=1", clients=5, pairs=4).epsilons
