import warnings

import pytest

from privfed_dpo.data.copies import (
    CopyFacts,
    count_copies,
    require_stated_copies,
    require_unseen_held_out,
)
from privfed_dpo.data.pairs import ChatMessage, PreferencePair
from privfed_dpo.data.partition import ClientShard
from privfed_dpo.data.synthetic import synthetic_task
from privfed_dpo.errors import DataError, InputNotice

ROW = PreferencePair("Tea?", " Yes.", " No.")
OTHER = PreferencePair("Tea?", " No.", " Yes.")


def by(user, pair=ROW):
    return PreferencePair(pair.prompt, pair.chosen, pair.rejected, user=user)


def shards(*held):
    return [ClientShard(f"c{place}", tuple(pairs)) for place, pairs in enumerate(held)]


@pytest.mark.parametrize(
    ("held", "facts"),
    [
        ([[ROW, OTHER], []], CopyFacts(1, 1, 0, 0)),  # the other way round is another judgment
        ([[ROW], [ROW, OTHER], [ROW]], CopyFacts(3, 1, 1, 0)),
        ([[ROW, ROW], [OTHER, ROW]], CopyFacts(3, 2, 1, 0)),
        ([[by("a")], [by("b")], [by("c")]], CopyFacts(1, 1, 0, 0)),  # three people, three votes
        ([[by("a")], [by("a", OTHER)]], CopyFacts(1, 1, 0, 1)),
        ([[by("a"), ROW], [by("a"), ROW]], CopyFacts(2, 1, 2, 1)),
    ],
)
def test_copies_by_hand(held, facts):
    assert count_copies(shards(*held)) == facts


def test_message_lists_are_compared_as_they_are():
    def chat(answer):
        texts = ("Tea?", answer, " No.")
        return PreferencePair(*((ChatMessage("user", text),) for text in texts))

    assert count_copies(shards([chat(" Yes.")], [chat(" Yes.")])).most == 2
    assert count_copies(shards([chat(" Yes.")], [chat(" Sure.")])).most == 1


def test_a_topic_does_not_make_another_record():
    labelled = PreferencePair(ROW.prompt, ROW.chosen, ROW.rejected, topic="tea")
    assert count_copies(shards([ROW], [labelled])).most == 2


@pytest.mark.parametrize(
    ("mode", "held", "bound", "reason"),
    [
        ("distributed", [[ROW], [ROW]], 1, "one of them 2 times"),
        ("distributed", [[ROW, ROW], [OTHER]], 1, "one of them 2 times"),
        ("distributed", [[ROW], [ROW], [ROW]], 2, "one of them 3 times"),
        ("local", [[ROW], [ROW]], 1, "one of them 2 times"),
        ("local", [[ROW, ROW], [OTHER]], 2, "a client holds one record 2 times"),
        ("gossip", [[ROW, ROW], [OTHER]], 2, "a client holds one record 2 times"),
        ("user", [[by("a")], [by("a", OTHER)]], 1, "1 users have pairs at more than one client"),
    ],
)
def test_more_copies_than_stated_are_refused(mode, held, bound, reason):
    with pytest.raises(DataError, match=reason):
        require_stated_copies(shards(*held), mode=mode, record_copies=bound)


@pytest.mark.parametrize(
    ("mode", "held", "bound"),
    [
        ("distributed", [[ROW], [OTHER]], 1),
        ("distributed", [[ROW, ROW], [ROW]], 3),
        ("distributed", [[ROW], [OTHER]], 5),  # a bound is a promise, not a count
        ("local", [[ROW], [ROW]], 2),
        ("user", [[ROW, ROW], [ROW]], 1),  # no users named: each client is one
        ("user", [[by("a"), by("a")], [by("b")]], 1),
    ],
)
def test_what_the_promise_covers_is_taken(mode, held, bound):
    require_stated_copies(shards(*held), mode=mode, record_copies=bound)


@pytest.mark.parametrize("seed", range(4))
def test_nobody_judges_the_same_pair_twice_in_the_embedded_task(seed):
    task = synthetic_task(clients=2, pairs_per_client=1500, eval_pairs=1, seed=seed)
    assert count_copies([ClientShard("all", task.train)]).most == 1


def test_held_out_pairs_that_are_trained_on_are_refused_whoever_judged():
    with pytest.raises(DataError, match=r"2 of 3 held-out pairs stand in data\.train") as caught:
        require_unseen_held_out([ROW, OTHER, by("b")], [by("a")], private=True)
    assert caught.value.advice.startswith("Take them out of data.eval")


def test_without_privacy_they_are_worth_a_note():
    with pytest.warns(InputNotice, match=r"1 of 1 held-out pairs stand in data\.train"):
        require_unseen_held_out([ROW], [OTHER, ROW], private=False)


@pytest.mark.parametrize("private", [True, False])
def test_other_held_out_pairs_pass_without_a_word(private):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_unseen_held_out([OTHER], [ROW], private=private)
        require_unseen_held_out([], [ROW], private=private)
