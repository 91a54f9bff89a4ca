"""Which held-out pairs are measured, and whose they are."""

import numpy as np

from privfed_dpo.data.tokenize import TokenizedPair, pair_key
from privfed_dpo.dpo.evaluate import PreferenceMetrics
from privfed_dpo.dpo.loss import PairLoss
from privfed_dpo.engine.held_out_slopes import PolicySlopes
from privfed_dpo.engine.measurement import HeldOutMeasure, HeldOutPairs, choose_held_out
from tests.support.fake_federation import DIMENSION, FakeGradients

ZERO = np.zeros(DIMENSION, dtype=np.float32)


class FakePolicy(FakeGradients):
    """Every other pair is judged right."""

    def preferences(self, pairs, reference, loss, *, with_kl=True):
        margins = np.array([1.0 if pair.prompt[0] % 2 else -1.0 for pair in pairs])
        return PreferenceMetrics(0.5, 0.5, 0.0, None, 0.0, 0.0, len(pairs)), margins


def sorted_by_user(users, pairs_of_each, places):
    ids = [((i + 1,), (i + 2,), (i + 3,)) for i in range(len(users) * pairs_of_each)]
    return HeldOutPairs(
        pairs=tuple(TokenizedPair(*one, key=pair_key(*one)) for one in ids),
        reference=np.arange(2.0 * len(ids), dtype=np.float32).reshape(-1, 2),
        users=tuple(user for user in users for _ in range(pairs_of_each)),
        gradient_places=tuple(places),
    )


def test_gradient_pairs_are_drawn_over_a_file_that_is_sorted_by_user():
    places = choose_held_out(200, 40, seed=3)
    assert list(places) == sorted(set(places)) == list(choose_held_out(200, 40, seed=3))
    assert list(places) != list(choose_held_out(200, 40, seed=4))
    held_out = sorted_by_user([f"u{i}" for i in range(10)], 20, places)
    groups = held_out.gradient_groups()
    assert len(groups) == 10, "the first 40 pairs are those of two users"
    pairs, reference = held_out.gradient_group()
    assert pairs == [held_out.pairs[place] for place in places]
    assert np.array_equal(reference, held_out.reference[list(places)])
    assert [pair for group, _ in groups.values() for pair in group] == pairs
    assert np.array_equal(np.concatenate([group[1] for group in groups.values()]), reference)
    slopes = PolicySlopes(FakePolicy(), held_out)
    assert slopes.pairs == 40
    means = [row for batch in slopes.rows(ZERO) for row in batch]
    assert np.allclose(slopes.mean(ZERO), np.mean(means, axis=0))


def test_pairs_of_nobody_in_the_run_are_no_clients():
    def measure(*users):
        held_out = sorted_by_user(users, 2, range(2 * len(users)))
        return HeldOutMeasure(FakePolicy(), held_out, max_grad_norm=1.0, loss=PairLoss())

    assert measure("", "").per_client_accuracy(ZERO) is None
    assert measure("a", "").per_client_accuracy(ZERO) == {"a": 0.5}
    assert measure("", "")(ZERO)["heterogeneity"] is None
    assert measure("", "")(ZERO)["grad_norm_sq"] > 0
    assert measure("a", "b")(ZERO)["heterogeneity"] > 0
