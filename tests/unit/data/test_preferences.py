"""Loading: every TRL preference format gives the same pairs, and every problem is named."""

from __future__ import annotations

import gzip
import json

import pytest
from datasets import Dataset

from privfed_dpo.data.preferences import (
    ChatMessage,
    PreferencePair,
    describe_pairs,
    load_preferences,
)
from privfed_dpo.errors import DataError

ROW = {"prompt": "Is rain wet?", "chosen": " Yes.", "rejected": " No.", "user": "u1", "topic": "t"}
PAIR = PreferencePair("Is rain wet?", " Yes.", " No.", user="u1", topic="t")


def said(role, content):
    return {"role": role, "content": content}


CHAT_ROW = {
    "prompt": [said("user", "Is rain wet?")],
    "chosen": [said("assistant", "Yes.")],
    "rejected": [said("assistant", "No.")],
}
CHAT_PAIR = PreferencePair(
    (ChatMessage("user", "Is rain wet?"),),
    (ChatMessage("assistant", "Yes."),),
    (ChatMessage("assistant", "No."),),
)


def write(path, rows):
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_json_lines_plain_and_compressed(tmp_path, name):
    assert load_preferences(write(tmp_path / name, [ROW, ROW])) == (PAIR, PAIR)


@pytest.mark.parametrize(("row", "pair"), [(ROW, PAIR), (CHAT_ROW, CHAT_PAIR)])
def test_parquet(tmp_path, row, pair):
    path = tmp_path / "p.parquet"
    Dataset.from_list([row, row]).to_parquet(str(path))
    assert load_preferences(str(path)) == (pair, pair)


def test_a_local_data_set_folder_is_read_through_datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "validation.jsonl", [ROW])
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    assert load_preferences(str(tmp_path / "set"), split="validation") == (PAIR,)
    with pytest.raises(DataError, match=r"split 'nonsense'\) cannot be loaded"):
        load_preferences(str(tmp_path / "set"), split="nonsense")


def test_a_hub_id_goes_to_load_dataset_with_split_and_name(monkeypatch):
    asked = []

    def load_dataset(source, name, *, split):
        asked.append((source, name, split))
        return Dataset.from_list([ROW])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert load_preferences("owner/pairs", split="train[:1%]", name="en") == (PAIR,)
    assert asked == [("owner/pairs", "en", "train[:1%]")]


def test_message_lists(tmp_path):
    assert load_preferences(write(tmp_path / "p.jsonl", [CHAT_ROW])) == (CHAT_PAIR,)


def test_other_columns_are_dropped_and_names_can_be_mapped(tmp_path):
    row = {"q": "Is rain wet?", "good": " Yes.", "bad": " No.", "who": 7, "score": 0.5}
    loaded = load_preferences(
        write(tmp_path / "p.jsonl", [row]),
        columns={"prompt": "q", "chosen": "good", "rejected": "bad", "user": "who"},
    )
    assert loaded == (PreferencePair("Is rain wet?", " Yes.", " No.", user="7"),)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        # A shared beginning of a word stays with the word.
        ("Q: why? Because of rain", "Q: why? Because of rays", "Q: why? Because of"),
        # One completion continues the other: the cut moves back so that neither is empty.
        ("Q: why? so", "Q: why? so and so", "Q: why?"),
        # Transcripts are cut after the turn marker, spaces stay with the completions.
        ("\n\nHuman: hi\n\nAssistant: Hi all", "\n\nHuman: hi\n\nAssistant: Hi you",
         "\n\nHuman: hi\n\nAssistant:"),
        # Of several turns only those that both share.
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
         "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e",
         "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"),
    ],
)  # fmt: skip
def test_implicit_text_prompt(tmp_path, chosen, rejected, prompt):
    row = {"chosen": chosen, "rejected": rejected}
    (pair,) = load_preferences(write(tmp_path / "p.jsonl", [row]))
    assert pair == PreferencePair(
        prompt, chosen.removeprefix(prompt), rejected.removeprefix(prompt)
    )


def test_implicit_message_prompt_and_its_repetition_as_text(tmp_path):
    asked, yes, no = (
        said("user", "Is rain wet?"),
        said("assistant", "Yes."),
        said("assistant", "No."),
    )
    implicit = {"chosen": [asked, yes], "rejected": [asked, no]}
    repeated = {**implicit, "prompt": "Is rain wet?"}
    for rows in ([implicit, {**implicit, "prompt": None}], [repeated, repeated]):
        assert load_preferences(write(tmp_path / "p.jsonl", rows)) == (CHAT_PAIR,) * 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, r"'rejected' is missing \(columns present: chosen, prompt\)"),
        ({**ROW, "chosen": None}, "'chosen' is missing"),
        ({**ROW, "chosen": "  "}, "'chosen' is empty"),
        ({**ROW, "prompt": ""}, "'prompt' is empty"),
        ({**ROW, "prompt": 3}, "'prompt' must be text or a list of messages, not int"),
        ({**ROW, "chosen": " No. "}, "chosen and rejected are the same"),
        ({**ROW, "user": ["u"]}, "'user' must be text or a whole number"),
        ({**ROW, "user": True}, "'user' must be text or a whole number"),
        ({**ROW, "user": " "}, "'user' is empty"),
        ({**CHAT_ROW, "chosen": "Yes."}, "both be text or both be message lists"),
        ({**ROW, "prompt": CHAT_ROW["prompt"]}, "prompt is a message list but"),
        ({**CHAT_ROW, "chosen": []}, "empty message list"),
        ({**CHAT_ROW, "chosen": ["Yes."]}, "must be an object with 'role' and 'content', not str"),
        ({**CHAT_ROW, "chosen": [{"content": "Yes."}]}, "a message has no 'role'"),
        ({**CHAT_ROW, "chosen": [said("assistant", None)]}, "content of a assistant message is not text"),
        ({**CHAT_ROW, "chosen": [said("assistant", "")]}, "content of a assistant message is empty"),
        ({**CHAT_ROW, "chosen": [said("user", "Yes.")]}, "first message is by 'user'"),
        ({"chosen": "Yes.", "rejected": "No."}, "do not begin alike"),
        ({"chosen": CHAT_ROW["chosen"], "rejected": CHAT_ROW["rejected"]}, "do not begin alike"),
        ('{"prompt": ', r"not JSON: .* \(column \d+\)"),
        ("[1]", "must be a JSON object on one line, not list"),
        ("[" * 100_000, "nested too deeply"),
        ('{"user": ' + "9" * 5000 + "}", "a number has too many digits"),
        ({**ROW, "prompt": "a \ud800 b"}, r"'prompt' holds half a character \(\\ud800, .*at place 3"),
        ({**ROW, "user": "u0\ud800"}, r"'user' holds half a character \(\\ud800, a lone surrogate"),
        ({**CHAT_ROW, "chosen": [said("assistant", "\udfff")]}, r"'chosen': the content of a assistant message holds half"),
        ({**CHAT_ROW, "chosen": [said("a\udc00", "Yes.")]}, r"'chosen': the role of a message holds half"),
        ({"a\ud800": "b"}, r"columns present: a\\ud800"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_its_line(tmp_path, row, message):
    with pytest.raises(DataError, match=f"row 2: .*{message}") as caught:
        load_preferences(write(tmp_path / "p.jsonl", [ROW, row, ROW]))
    assert "1 of 3 rows cannot be used" in str(caught.value)
    assert caught.value.source.endswith("p.jsonl")
    assert caught.value.exit_code == 2
    assert str(caught.value).encode()


def test_a_character_escaped_in_two_halves_is_whole(tmp_path):
    row = json.dumps({**ROW, "user": "\U0001f600"})
    assert "\\ud83d\\ude00" in row
    (pair,) = load_preferences(write(tmp_path / "p.jsonl", [row]))
    assert pair.user == "\U0001f600"


def test_many_bad_rows_are_listed_once_and_counted(tmp_path):
    rows = [ROW, *[{**ROW, "chosen": ""}] * 8, "not json"]
    with pytest.raises(DataError) as caught:
        load_preferences(write(tmp_path / "p.jsonl", rows))
    text = str(caught.value)
    assert "9 of 10 rows" in text
    assert [f"row {number}:" in text for number in (2, 6, 7)] == [True, True, False]
    assert "and 4 more" in text


def test_line_numbers_count_blank_lines_and_a_byte_order_mark_is_no_problem(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\n\n" + b'{"chosen": "\xff"}\n')
    with pytest.raises(DataError, match="row 3: not UTF-8") as caught:
        load_preferences(str(path))
    assert "1 of 2 rows" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b"", "no rows"),
        ("p.jsonl.gz", gzip.compress(b"\n\n", mtime=0), "no rows"),
        ("p.jsonl.gz", json.dumps(ROW).encode(), "not a whole gzip file"),
        (
            "p.jsonl.gz",
            gzip.compress(json.dumps(ROW).encode() * 99, mtime=0)[:-20],
            "not a whole gzip file",
        ),
        ("p.parquet", b"PAR1 but not really", "not a readable Parquet file"),
        ("p.csv", b"prompt,chosen,rejected", "files of this type are not read"),
    ],
    ids=["empty", "empty-gzip", "not-gzip", "torn-gzip", "not-parquet", "unknown-type"],
)
def test_unusable_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_preferences(str(path))


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/p", "gone.jsonl", "~/gone.parquet"])
def test_a_missing_file_is_not_taken_for_a_hub_id(source):
    with pytest.raises(DataError, match="no such file"):
        load_preferences(source)


def test_an_unreachable_hub_id_gives_advice(monkeypatch):
    def load_dataset(source, name, *, split):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"owner/pairs.*no route") as caught:
        load_preferences("owner/pairs")
    assert "hf auth login" in caught.value.advice


def test_an_unknown_part_in_the_mapping_is_refused():
    with pytest.raises(DataError, match="promt") as caught:
        load_preferences("p.jsonl", columns={"promt": "q"})
    assert "prompt, chosen" in caught.value.advice


def test_repeated_and_contradictory_judgments_are_counted():
    other = PreferencePair("Is rain wet?", " Yes.", " No.", user="u2")
    facts = describe_pairs([PAIR, other, PAIR, PAIR.flipped(), CHAT_PAIR, PAIR])
    assert (facts.pairs, facts.users, facts.topics, facts.conversational) == (6, 2, 1, 1)
    assert facts.duplicates == 2
    # The flipped verdict contradicts what came before it, and the last repeat contradicts it.
    assert facts.contradictions == 2
