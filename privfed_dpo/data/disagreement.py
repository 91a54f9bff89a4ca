"""How often people who judged the same two texts disagree, counted where there are such pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import comb

from privfed_dpo.data.pairs import PreferencePair, Text


def pairwise_disagreement(pairs: Iterable[PreferencePair]) -> float | None:
    """Share of votes by two different users on the same two completions that contradict.

    Args:
        pairs: judgements that may be seen in clear, held-out ones; the figure carries no noise.
            Which of the two completions stands first does not matter. A user who judged the same
            pair several times counts with the first judgement.

    Returns:
        Over all couples of votes on one pair; None if no pair was judged by two users.
    """
    votes: dict[tuple[Text, frozenset[Text]], dict[str, Text]] = defaultdict(dict)
    for pair in pairs:
        if pair.user is not None:
            texts = frozenset((pair.chosen, pair.rejected))
            votes[(pair.prompt, texts)].setdefault(pair.user, pair.chosen)
    couples = differing = 0
    for chosen in votes.values():
        voters = len(chosen)
        first = next(iter(chosen.values()))
        agreeing = sum(choice == first for choice in chosen.values())
        couples += comb(voters, 2)
        differing += agreeing * (voters - agreeing)
    return differing / couples if couples else None
