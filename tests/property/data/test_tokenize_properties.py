"""Whatever the text: branches decode to the text they came from, and limits hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.tokenize import tokenize_pairs
from tests.support.tokenizers import byte_pair_tokenizer

CORPUS = ["the cat sat on the mat", "a cat at a table ate the tea", "aaa bbb ababab"]
TOKENIZERS = [byte_pair_tokenizer(CORPUS), byte_pair_tokenizer(CORPUS, bos=True)]

texts = st.text(alphabet="abcteh é\n", min_size=1, max_size=30)
pairs_of_text = st.builds(PreferencePair, texts, texts, texts)


@given(pair=pairs_of_text, tokenizer=st.sampled_from(TOKENIZERS))
def test_prompt_and_completion_together_are_the_text(pair, tokenizer):
    (ids,) = tokenize_pairs([pair], tokenizer, max_length=10_000, append_eos=False).pairs
    for completion, text in ((ids.chosen, pair.chosen), (ids.rejected, pair.rejected)):
        whole = tokenizer.decode(ids.prompt + completion, skip_special_tokens=True)
        assert whole == pair.prompt + text
        assert completion


@given(
    pair=pairs_of_text,
    tokenizer=st.sampled_from(TOKENIZERS),
    max_length=st.integers(2, 40),
    share=st.none() | st.floats(0.01, 0.99),
)
def test_limits_hold_and_no_part_is_empty(pair, tokenizer, max_length, share):
    limit = None if share is None else max(1, int(share * (max_length - 1)))
    whole = tokenize_pairs([pair], tokenizer, max_length=10_000)
    cut = tokenize_pairs([pair], tokenizer, max_length=max_length, max_prompt_length=limit)
    before, after = whole.pairs[0], cut.pairs[0]
    assert min(len(after.prompt), len(after.chosen), len(after.rejected)) >= 1
    assert len(after.prompt) + max(len(after.chosen), len(after.rejected)) <= max_length
    assert limit is None or len(after.prompt) <= limit
    assert before.chosen[: len(after.chosen)] == after.chosen
    assert before.rejected[: len(after.rejected)] == after.rejected
    assert before.prompt[-1] == after.prompt[-1]
    assert cut.truncated_count == (after != before)
    assert (after.key == before.key) == (after == before)
