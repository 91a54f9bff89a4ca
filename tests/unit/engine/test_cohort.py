import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.engine.cohort import choose_cohort, participation_bound


@settings(deadline=None)
@given(
    clients=st.integers(1, 40),
    share=st.floats(0.01, 1),
    rounds=st.integers(1, 30),
    seed=st.integers(),
)
def test_nobody_takes_part_more_often_than_the_bound(clients, share, rounds, seed):
    names = tuple(f"c{i}" for i in range(clients))
    size = max(1, math.ceil(share * clients))
    counts = Counter()
    for number in range(1, rounds + 1):
        cohort = choose_cohort(names, size, counts, seed=seed, round_number=number)
        assert len(set(cohort)) == size
        counts.update(cohort)
    bound = participation_bound(rounds=rounds, clients=clients, cohort=size)
    assert max(counts.values()) <= bound
    assert max(counts.values()) - min(counts[n] for n in names) <= 1


def test_the_bound_is_reached():
    assert participation_bound(rounds=10, clients=7, cohort=3) == 5  # 30 places over 7 clients
    assert participation_bound(rounds=10, clients=7, cohort=7) == 10


def test_ties_are_broken_differently_in_every_round_and_seed():
    names = tuple(f"c{i}" for i in range(30))
    first = choose_cohort(names, 10, {}, seed=1, round_number=1)
    assert first == choose_cohort(names, 10, {}, seed=1, round_number=1)
    assert first != choose_cohort(names, 10, {}, seed=1, round_number=2)
    assert first != choose_cohort(names, 10, {}, seed=2, round_number=1)
