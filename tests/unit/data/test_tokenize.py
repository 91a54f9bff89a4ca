"""Tokens: the ids TRL's DPO trainer would train on, within bounds that never empty a branch."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest

from privfed_dpo.data.pairs import ChatMessage, PreferencePair
from privfed_dpo.data.tokenize import tokenize_pairs
from privfed_dpo.errors import DataError
from tests.support.tokenizers import CHATML, byte_pair_tokenizer, word_tokenizer

CORPUS = ["the cat sat on the mat. ", "is the cat on the mat? yes, it is.", "the theatre is there"]
TEXT = [
    PreferencePair("is the cat", " on the mat? yes.", " there? it is.", user="u"),
    # "the" and "atre" merge: tokenized alone the prompt ends in another token.
    PreferencePair("is the", "atre there", " cat there"),
    PreferencePair("the mat", "</s>", " sat"),
]


def chat(prompt, chosen, rejected):
    return PreferencePair(
        (ChatMessage("system", "be kind"), ChatMessage("user", prompt)),
        (ChatMessage("assistant", chosen),),
        (ChatMessage("assistant", rejected),),
    )


CHATS = [chat("is the cat there?", "yes", "it is"), chat("the mat", "the mat is on", "sat")]


def trl_ids(pairs, tokenizer):
    """What TRL prepares for the same rows, by its own code."""
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DPOTrainer

    def plain(text):
        if isinstance(text, str):
            return text
        return [{"role": message.role, "content": message.content} for message in text]

    rows = [
        {name: plain(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")}
        for pair in pairs
    ]
    arguments = SimpleNamespace(
        dataset_num_proc=None, max_length=None, truncation_mode="keep_start"
    )
    prepared = DPOTrainer._prepare_dataset(
        SimpleNamespace(_tokenizer=tokenizer),
        Dataset.from_list(rows),
        tokenizer,
        arguments,
        "train",
    )
    return [
        (tuple(row["prompt_ids"]), tuple(row["chosen_ids"]), tuple(row["rejected_ids"]))
        for row in prepared
    ]


def ids_of(result):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in result.pairs]


@pytest.mark.parametrize("bos", [False, True])
def test_text_pairs_have_the_ids_trl_trains_on(bos):
    tokenizer = byte_pair_tokenizer(CORPUS, bos=bos)
    ours = ids_of(tokenize_pairs(TEXT, tokenizer, max_length=512))
    assert ours == trl_ids(TEXT, tokenizer)
    alone = tuple(tokenizer("is the")["input_ids"])
    assert len(ours[1][0]) < len(alone), "the boundary should merge in this example"


def test_conversations_have_the_ids_trl_trains_on():
    tokenizer = byte_pair_tokenizer(CORPUS, chat_template=CHATML)
    assert ids_of(tokenize_pairs(CHATS, tokenizer, max_length=512)) == trl_ids(CHATS, tokenizer)


def test_a_conversation_reads_as_its_template_says():
    tokenizer = byte_pair_tokenizer(CORPUS, chat_template=CHATML)
    (pair,) = tokenize_pairs(CHATS[:1], tokenizer, max_length=512).pairs
    text = tokenizer.decode(pair.prompt, skip_special_tokens=False)
    assert text == "<|system|>be kind<|end|>\n<|user|>is the cat there?<|end|>\n<|assistant|>"
    assert tokenizer.decode(pair.chosen, skip_special_tokens=False) == "yes<|end|>\n"


def test_an_end_token_the_tokenizer_adds_by_itself_does_not_end_the_prompt():
    tokenizer = byte_pair_tokenizer(CORPUS, bos=True, eos=True)
    plain = byte_pair_tokenizer(CORPUS, bos=True)
    ours = tokenize_pairs(TEXT[:2], tokenizer, max_length=512)
    assert ids_of(ours) == ids_of(tokenize_pairs(TEXT[:2], plain, max_length=512))


def test_no_common_token_falls_back_to_separate_tokens():
    """The prompt "ab", and "abc" and "abd" with their completions, are three single tokens."""
    tokenizer = word_tokenizer(["ab", "abc", "abd", "c", "d"])
    (pair,) = tokenize_pairs([PreferencePair("ab", "c", "d")], tokenizer, max_length=8).pairs
    vocabulary = tokenizer.get_vocab()
    assert pair.prompt == (vocabulary["ab"],)
    assert pair.chosen == (vocabulary["c"], vocabulary["<eos>"])
    assert pair.rejected == (vocabulary["d"], vocabulary["<eos>"])


def test_end_of_text_is_appended_once_and_only_on_request():
    tokenizer = word_tokenizer(["a", "b", "c"])
    pairs = [PreferencePair("a", " b <eos>", " c")]
    (with_eos,) = tokenize_pairs(pairs, tokenizer, max_length=8).pairs
    (without,) = tokenize_pairs(pairs, tokenizer, max_length=8, append_eos=False).pairs
    assert (with_eos.chosen, with_eos.rejected) == ((4, 1), (5, 1))
    assert (without.chosen, without.rejected) == ((4, 1), (5,))


def numbered(prompt, chosen, rejected):
    """Words are numbers, so that a cut can be read off."""
    parts = (range(prompt), range(100, 100 + chosen), range(200, 200 + rejected))
    first, *rest = (" ".join(str(number) for number in part) for part in parts)
    return PreferencePair(first, *(f" {text}" for text in rest))


@pytest.mark.parametrize(
    ("sizes", "limits", "expected"),
    [
        ((4, 3, 2), (7, None), (4, 3, 2)),  # fits
        ((4, 3, 2), (6, None), (3, 3, 2)),  # the prompt gives way first
        ((4, 5, 2), (6, None), (3, 3, 2)),  # down to half the limit, then completions are cut
        ((1, 9, 2), (6, None), (1, 5, 2)),  # a short prompt leaves its room to the completions
        ((9, 1, 1), (6, None), (5, 1, 1)),  # short completions leave theirs to the prompt
        ((4, 3, 2), (9, 2), (2, 3, 2)),  # an explicit prompt limit always holds
        ((4, 9, 9), (9, 8), (4, 5, 5)),
        ((9, 9, 9), (2, None), (1, 1, 1)),  # the tightest limit keeps one of each
    ],
)
def test_prompts_are_cut_from_the_left_and_completions_from_the_right(sizes, limits, expected):
    words = [str(number) for part in (0, 100, 200) for number in range(part, part + 10)]
    tokenizer = word_tokenizer(words)
    result = tokenize_pairs(
        [numbered(*sizes)],
        tokenizer,
        max_length=limits[0],
        max_prompt_length=limits[1],
        append_eos=False,
    )
    (pair,) = result.pairs
    kept = tuple(len(ids) for ids in (pair.prompt, pair.chosen, pair.rejected))
    assert kept == expected
    assert result.truncated_count == (kept != sizes)
    assert tokenizer.decode(pair.prompt).split()[-1] == str(sizes[0] - 1)
    assert tokenizer.decode(pair.chosen).split()[0] == "100"
    assert tokenizer.decode(pair.rejected).split()[0] == "200"


def test_the_beginning_of_text_token_survives_the_cut():
    tokenizer = byte_pair_tokenizer(["x"], bos=True, vocabulary=262)
    result = tokenize_pairs(
        [PreferencePair("abcdefgh", "xy", "z")], tokenizer, max_length=6, append_eos=False
    )
    assert tokenizer.decode(result.pairs[0].prompt, skip_special_tokens=False) == "<s>fgh"


def test_pairs_that_truncation_made_equal_are_counted():
    tokenizer = word_tokenizer(["a", "b", "c", "d"])
    pairs = [PreferencePair("a", " b b b c", " b b b d"), PreferencePair("a", " b", " c")]
    result = tokenize_pairs(pairs, tokenizer, max_length=3, append_eos=False)
    assert (result.truncated_count, result.indistinct_count) == (1, 1)
    assert len(result.pairs) == 2


def test_the_key_names_the_ids_and_where_each_part_ends():
    tokenizer = word_tokenizer(["a", "b", "c", "d"])
    one, two, again = tokenize_pairs(
        [
            PreferencePair("a b", " c", " d"),
            PreferencePair("a", " b c", " d"),
            PreferencePair("a b", " c", " d", user="someone"),
        ],
        tokenizer,
        max_length=8,
        append_eos=False,
    ).pairs
    assert one.key == again.key != two.key
    encoded = b"".join(
        len(ids).to_bytes(8, "big") + b"".join(token.to_bytes(8, "big") for token in ids)
        for ids in ((3, 4), (5,), (6,))
    )
    assert one.key == hashlib.sha256(encoded).hexdigest()


def test_impossible_requests_are_refused_with_advice():
    words = word_tokenizer(["a", "b"])
    pairs = [PreferencePair("a", " a", " b")]
    with pytest.raises(DataError, match="max_length must be at least 2"):
        tokenize_pairs(pairs, words, max_length=1)
    with pytest.raises(DataError, match="between 1 and max_length - 1 = 7 tokens, not 8"):
        tokenize_pairs(pairs, words, max_length=8, max_prompt_length=8)
    with pytest.raises(DataError, match="2 pairs are message lists") as caught:
        tokenize_pairs([*pairs, *CHATS], words, max_length=8)
    assert "instruction-tuned" in caught.value.advice
    words.eos_token = None
    with pytest.raises(DataError, match="no end-of-text token") as caught:
        tokenize_pairs(pairs, words, max_length=8)
    assert "eos_token in the model's tokenizer_config.json" in caught.value.advice
    assert len(tokenize_pairs(pairs, words, max_length=8, append_eos=False).pairs) == 1


def test_a_role_the_template_refuses_and_a_text_without_tokens_are_data_errors():
    tokenizer = byte_pair_tokenizer(CORPUS, chat_template=CHATML)
    twice = PreferencePair(
        (ChatMessage("system", "a"), ChatMessage("system", "b"), ChatMessage("user", "c")),
        (ChatMessage("assistant", "d"),),
        (ChatMessage("assistant", "e"),),
    )
    with pytest.raises(DataError, match="refuses a conversation: a system message must come first"):
        tokenize_pairs([twice], tokenizer, max_length=99)
    words = word_tokenizer(["a", "b"])
    with pytest.raises(DataError, match="pair 2 has a prompt or completion without a single token"):
        tokenize_pairs(
            [PreferencePair("a", " a", " b"), PreferencePair("a", " ", " b")],
            words,
            max_length=8,
            append_eos=False,
        )
