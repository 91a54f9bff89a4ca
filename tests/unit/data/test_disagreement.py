"""Disagreement is counted over couples of votes on the same two texts, by hand."""

from __future__ import annotations

from privfed_dpo.data.disagreement import pairwise_disagreement
from privfed_dpo.data.pairs import PreferencePair


def vote(user, chosen, rejected, prompt="p"):
    return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected, user=user)


def test_nobody_shares_a_pair():
    assert pairwise_disagreement([]) is None
    assert pairwise_disagreement([vote("a", "x", "y"), vote("b", "x", "z")]) is None
    assert pairwise_disagreement([vote("a", "x", "y"), vote("b", "x", "y", prompt="q")]) is None
    assert pairwise_disagreement([vote(None, "x", "y"), vote(None, "y", "x")]) is None


def test_couples_are_counted():
    """Three votes 2:1 give 2 of 3 couples; two votes that agree give 0 of 1."""
    split = [vote("a", "x", "y"), vote("b", "y", "x"), vote("c", "x", "y")]
    assert pairwise_disagreement(split) == 2 / 3
    agreed = [vote("a", "u", "v"), vote("c", "u", "v")]
    assert pairwise_disagreement(split + agreed) == 2 / 4


def test_one_user_is_not_their_own_opponent():
    assert pairwise_disagreement([vote("a", "x", "y"), vote("a", "y", "x")]) is None
