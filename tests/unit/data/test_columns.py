"""A source as a whole: a column named by hand that is nowhere, and prompts in only some rows."""

from __future__ import annotations

import json

import pytest

from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.preferences import load_preferences
from privfed_dpo.errors import DataError

ROW = {"question": "Is rain wet?", "chosen": "It is: yes.", "rejected": "It is: no."}
EXPLICIT = {"prompt": "Is rain wet?", "chosen": "It is: yes.", "rejected": "It is: no."}
IMPLICIT = {"chosen": "Is rain wet? Yes.", "rejected": "Is rain wet? No."}


def said(role, content):
    return {"role": role, "content": content}


@pytest.fixture
def load(tmp_path):
    def written(rows, **options):
        path = tmp_path / "p.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return load_preferences(str(path), **options)

    return written


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"prompt": "quesion"}, "prompt=quesion (in no row)"),
        ({"prompt": "question", "user": "workerid"}, "user=workerid (in no row)"),
        ({"prompt": "question", "topic": "subject"}, "topic=subject (in no row)"),
        ({"prompt": "question", "chosen": "better"}, "chosen=better (in no row)"),
        (
            {"prompt": "quesion", "user": "workerid"},
            "prompt=quesion (in no row), user=workerid (in no row)",
        ),
    ],
)
def test_a_column_named_by_hand_that_no_row_has_is_refused(load, columns, told):
    with pytest.raises(DataError) as caught:
        load([ROW, ROW], columns=columns)
    assert told in str(caught.value)
    assert "columns present: chosen, question, rejected" in str(caught.value)
    assert "data.columns" in caught.value.advice


def test_a_column_named_by_hand_that_is_always_null_is_refused(load):
    with pytest.raises(DataError, match=r"user=who \(always null\)"):
        load([{**EXPLICIT, "who": None}], columns={"user": "who"})


def test_a_column_named_by_hand_may_be_null_in_some_rows_if_it_is_no_prompt(load):
    named, nameless = load(
        [{**EXPLICIT, "who": "a"}, {**EXPLICIT, "who": None}], columns={"user": "who"}
    )
    assert (named.user, nameless.user) == ("a", None)


def test_held_out_pairs_need_no_users_and_no_topics_but_their_prompt(load):
    pair = PreferencePair("Is rain wet?", "It is: yes.", "It is: no.")
    named = {"prompt": "question", "user": "worker", "topic": "subject"}
    assert load([ROW], columns=named, labels_needed=False) == (pair,)
    with pytest.raises(DataError, match="prompt=quesion"):
        load([ROW], columns={"prompt": "quesion"}, labels_needed=False)


def test_columns_under_their_usual_names_may_be_missing(load):
    assert load([IMPLICIT, IMPLICIT])[1].prompt == "Is rain wet?"


@pytest.mark.parametrize("missing", [{"prompt": None}, {}])
def test_a_row_without_prompt_among_rows_with_one_is_refused(load, missing):
    rows = [EXPLICIT, EXPLICIT, {**IMPLICIT, **missing}, EXPLICIT]
    with pytest.raises(DataError) as caught:
        load(rows)
    assert (
        "3 of 4 rows have a prompt in column 'prompt' (rows 1, 2, 4) and 1 have none (row 3)"
        in str(caught.value)
    )
    assert "Give every row its prompt" in caught.value.advice


def test_only_the_first_rows_of_each_kind_are_named(load):
    with pytest.raises(DataError, match=r"9 of 10 .* \(rows 1, 2, 3, 4, 5, \.\.\.\)"):
        load([*[EXPLICIT] * 9, IMPLICIT])


def test_a_row_whose_prompt_is_nowhere_says_so(load):
    row = {"prompt": None, "chosen": "Yes.", "rejected": "No."}
    with pytest.raises(DataError, match="row 1: there is no prompt in column 'prompt', and"):
        load([row])


def test_a_text_prompt_that_message_lists_do_not_repeat_is_not_called_missing(load):
    row = {
        "prompt": "Is rain wet?",
        "chosen": [said("assistant", "Yes.")],
        "rejected": [said("assistant", "No.")],
    }
    with pytest.raises(DataError, match="the prompt in column 'prompt' is text, but") as caught:
        load([row])
    assert "give it as a message list" in str(caught.value)
    assert "no prompt" not in str(caught.value)
