"""Token ids are computed once for everybody who shares a folder, and never the wrong ones."""

import stat
import threading

import numpy as np
import pytest

from privfed_dpo.data import token_cache
from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.token_cache import PairTokenizer
from privfed_dpo.data.tokenize import tokenize_pairs
from tests.support.preference_files import preference_rows, texts_of
from tests.support.tokenizers import word_tokenizer

ROWS = preference_rows(users=2, per_user=3)
PAIRS = [PreferencePair(row["prompt"], row["chosen"], row["rejected"]) for row in ROWS]


@pytest.fixture
def tokenizer():
    return word_tokenizer(" ".join(texts_of(ROWS)).split())


@pytest.fixture
def counted(monkeypatch):
    calls = []

    def count(pairs, *rest, **options):
        calls.append(len(pairs))
        return tokenize_pairs(pairs, *rest, **options)

    monkeypatch.setattr(token_cache, "tokenize_pairs", count)
    return calls


def make(tokenizer, folder, fingerprint="f", max_length=64):
    return PairTokenizer(tokenizer, fingerprint, max_length, folder)


def test_what_is_read_back_is_what_was_computed(tokenizer, tmp_path, counted):
    plain = tokenize_pairs(PAIRS, tokenizer, max_length=64).pairs
    assert make(tokenizer, tmp_path)(PAIRS) == plain
    assert make(tokenizer, tmp_path)(PAIRS) == plain
    assert counted == [len(PAIRS)]
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "it holds private pairs"


def test_nothing_is_kept_without_a_folder(tokenizer, counted):
    make(tokenizer, None)(PAIRS)
    make(tokenizer, None)(PAIRS)
    assert counted == [len(PAIRS)] * 2
    assert make(tokenizer, None)([]) == ()


@pytest.mark.parametrize("change", [{"fingerprint": "g"}, {"max_length": 8}, {"pairs": PAIRS[1:]}])
def test_another_tokenizer_length_or_pair_is_another_file(tokenizer, tmp_path, counted, change):
    make(tokenizer, tmp_path)(PAIRS)
    pairs = change.pop("pairs", PAIRS)
    found = make(tokenizer, tmp_path, **change)(pairs)
    assert len(counted) == 2
    assert found == tokenize_pairs(pairs, tokenizer, max_length=change.get("max_length", 64)).pairs


@pytest.mark.parametrize("damage", ["cut", "other ids", "empty"])
def test_a_damaged_file_is_computed_again(tokenizer, tmp_path, counted, damage):
    first = make(tokenizer, tmp_path)(PAIRS)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    if damage == "other ids":
        make(tokenizer, tmp_path / "other")(PAIRS[::-1])
        (other,) = (tmp_path / "other").iterdir()
        with np.load(file) as found, np.load(other) as swapped:
            arrays = {name: found[name] for name in found.files} | {"ids": swapped["ids"]}
        with file.open("wb") as target:
            np.savez(target, **arrays)
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    counted.clear()
    assert make(tokenizer, tmp_path)(PAIRS) == first
    assert counted == [len(PAIRS)]
    assert make(tokenizer, tmp_path)(PAIRS) == first
    assert counted == [len(PAIRS)], "and kept again"


def test_two_who_want_it_at_once_compute_it_once(tokenizer, tmp_path, monkeypatch):
    calls, second_waits = [], threading.Event()

    def slow(pairs, *rest, **options):
        calls.append(len(pairs))
        second_waits.wait(30)
        return tokenize_pairs(pairs, *rest, **options)

    monkeypatch.setattr(token_cache, "tokenize_pairs", slow)
    found = []

    def wanted(*, last=False):
        if last:
            second_waits.set()
        found.append(make(tokenizer, tmp_path)(PAIRS))

    first = threading.Thread(target=wanted)
    second = threading.Thread(target=wanted, kwargs={"last": True})
    first.start()
    second.start()
    first.join()
    second.join()
    assert calls == [len(PAIRS)]
    assert found[0] == found[1]
