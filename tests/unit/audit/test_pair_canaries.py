import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.audit.pair_canaries import (
    COINS_FILE,
    PairCanaries,
    PairCoins,
    canary_slots,
    write_canaries,
)
from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.errors import DataError
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.model.tiny import SPECIAL_TOKENS, build_word_tokenizer
from tests.support.entropy import counted_entropy

WORDS = tuple(f"w{number}" for number in range(50))
TOKENIZER = build_word_tokenizer(WORDS)


def coins(form="in_out", count=20, label="coins"):
    return PairCoins.toss(form, count, StreamIssuer(counted_entropy(label)).issue("c"))


def written(form="in_out", count=20, clients=3, **changes):
    options = {"max_length": 64, "seed": 5, "tokenizer": TOKENIZER} | changes
    tokenizer = options.pop("tokenizer")
    return write_canaries(coins(form, count), clients, tokenizer, **options)


def test_coins_are_fair_and_secret():
    tossed = coins(count=10_000)
    assert abs(tossed.heads.mean() - 0.5) < 0.03  # six standard errors
    assert "True" not in repr(tossed)
    assert not np.array_equal(tossed.heads, coins(count=10_000, label="other").heads)


@pytest.mark.parametrize("form", ["in_out", "swap"])
def test_coins_come_back_from_their_file(tmp_path, form):
    tossed = coins(form)
    tossed.save(tmp_path / COINS_FILE)
    again = PairCoins.load(tmp_path / COINS_FILE)
    assert again.form == form
    assert np.array_equal(again.heads, tossed.heads)


def test_missing_or_foreign_coins_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        PairCoins.load(tmp_path / COINS_FILE)
    (tmp_path / COINS_FILE).write_bytes(b"not an archive")
    with pytest.raises(DataError, match="cannot be read"):
        PairCoins.load(tmp_path / COINS_FILE)
    np.savez(tmp_path / COINS_FILE, form=np.array("upside_down"), heads=np.ones(3, dtype=bool))
    with pytest.raises(DataError, match="unknown form"):
        PairCoins.load(tmp_path / COINS_FILE)


@given(count=st.integers(0, 60), clients=st.integers(1, 9))
def test_slots_are_public_and_add_up(count, clients):
    slots = canary_slots(count, clients)
    assert sum(slots) == count
    assert max(slots) - min(slots) <= 1


@given(heads=st.lists(st.booleans(), min_size=1, max_size=30), clients=st.integers(1, 7))
def test_in_out_leaves_null_records_and_swap_leaves_none(heads, clients):
    pairs = tuple(TokenizedPair((i,), (1,), (2,), f"{i}") for i in range(len(heads)))
    for form in ("in_out", "swap"):
        tossed = PairCoins(form, np.array(heads))
        canaries = PairCanaries(tossed, pairs, clients)
        trained = [pair for c in range(clients) for pair in canaries.trained_by(c)]
        by_number = {pair.prompt[0]: pair for pair in trained}
        if form == "in_out":
            assert sorted(by_number) == np.flatnonzero(heads).tolist()
        else:
            assert len(by_number) == len(heads)
        for number, pair in by_number.items():
            assert pair.chosen == ((1,) if heads[number] else (2,))
        for client, slots in enumerate(canary_slots(len(heads), clients)):
            assert len(canaries.trained_by(client)) <= slots


def test_a_flipped_pair_has_a_key_of_its_own():
    canaries = written("swap", 40, 1)
    flipped = [
        (drawn, trained)
        for drawn, trained in zip(canaries.pairs, canaries.trained_by(0), strict=True)
        if drawn != trained
    ]
    assert flipped
    for drawn, trained in flipped:
        assert (trained.chosen, trained.rejected) == (drawn.rejected, drawn.chosen)
        assert trained.key != drawn.key, "a cached reference must never be mistaken"


def test_texts_are_repeatable_distinct_and_without_special_tokens():
    one, again, other = written(), written(), written(seed=6)
    assert one.pairs == again.pairs
    assert one.pairs != other.pairs
    special = {TOKENIZER.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    for pair in one.pairs:
        assert pair.chosen != pair.rejected
        assert not special & {*pair.prompt, *pair.chosen, *pair.rejected}
        assert len(pair.chosen) == len(pair.rejected) == 12


@pytest.mark.parametrize("max_length", [8, 13, 64])
def test_canaries_fit_the_length_of_the_run(max_length):
    for pair in written(max_length=max_length).pairs:
        assert 1 <= len(pair.prompt) <= max_length - len(pair.chosen)


def test_a_tokenizer_that_spells_english_gets_the_stock_prompts():
    prompt = "How are rainbows made?"
    tokenizer = build_word_tokenizer([*WORDS, *prompt.split()])
    ids = tuple(tokenizer(prompt)["input_ids"])
    prompts = {pair.prompt for pair in written(tokenizer=tokenizer).pairs}
    assert ids in prompts


def test_a_tokenizer_without_words_is_refused():
    with pytest.raises(DataError, match="too few words"):
        written(tokenizer=build_word_tokenizer(["only"]))
