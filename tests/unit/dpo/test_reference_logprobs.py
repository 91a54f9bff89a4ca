import numpy as np
import pytest
import torch

from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from tests.support.toy_models import make_pair, shaken, toy_model, toy_pairs

PAIRS = toy_pairs(7, seed=2)


def _adapter():
    return shaken(Adapter.attach(toy_model("llama"), AdapterSpec(rank=2)))


def _files(folder):
    return sorted(folder.rglob("*.safetensors"))


def test_values_are_those_of_the_base_model():
    base = toy_model("llama")
    expected = []
    for pair in PAIRS:
        for completion in (pair.chosen, pair.rejected):
            ids = torch.tensor([[*pair.prompt, *completion]])
            scores = base(ids).logits[0, :-1].log_softmax(dim=1).gather(1, ids[0, 1:, None])
            expected.append(scores[len(pair.prompt) - 1 :].sum().item())
    found = ReferenceLogprobs(_adapter(), fingerprint="f", micro_batch_pairs=3)(PAIRS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.reshape(expected, (-1, 2)), rtol=1e-5, atol=1e-4)


def test_moving_the_adapter_changes_nothing():
    adapter = _adapter()
    before = ReferenceLogprobs(adapter, fingerprint="f")(PAIRS)
    shaken(adapter, seed=9, scale=1.0)
    assert np.array_equal(ReferenceLogprobs(adapter, fingerprint="f")(PAIRS), before)


def test_a_pair_is_scored_once():
    reference = ReferenceLogprobs(_adapter(), fingerprint="f")
    first = reference(PAIRS)
    again = reference([*reversed(PAIRS), PAIRS[0]])
    assert reference.computed_count == 7
    assert np.array_equal(again, np.concatenate([first[::-1], first[:1]]))


def test_repeated_pairs_in_one_call_are_scored_once():
    reference = ReferenceLogprobs(_adapter(), fingerprint="f")
    found = reference([PAIRS[0], PAIRS[0]])
    assert reference.computed_count == 1
    assert np.array_equal(found[0], found[1])


def test_no_pairs_give_an_empty_table():
    assert ReferenceLogprobs(_adapter(), fingerprint="f")([]).shape == (0, 2)


def test_the_disk_remembers(tmp_path):
    first = ReferenceLogprobs(_adapter(), fingerprint="f", cache_dir=tmp_path)
    values = first(PAIRS[:4])
    first(PAIRS[3:])
    second = ReferenceLogprobs(_adapter(), fingerprint="f", cache_dir=tmp_path)
    assert np.array_equal(second(PAIRS)[:4], values)
    assert second.computed_count == 0
    assert len(_files(tmp_path)) == 2
    assert not list(tmp_path.rglob("*.part"))


def test_another_model_meets_no_old_values(tmp_path):
    ReferenceLogprobs(_adapter(), fingerprint="f", cache_dir=tmp_path)(PAIRS)
    other = ReferenceLogprobs(_adapter(), fingerprint="g", cache_dir=tmp_path)
    other(PAIRS)
    assert other.computed_count == 7


def test_a_file_of_another_model_is_refused_though_it_lies_in_the_folder(tmp_path):
    # Fingerprints that share the 16 characters of the folder's name.
    one, two = "a" * 16 + "1", "a" * 16 + "2"
    ReferenceLogprobs(_adapter(), fingerprint=one, cache_dir=tmp_path)(PAIRS)
    other = ReferenceLogprobs(_adapter(), fingerprint=two, cache_dir=tmp_path)
    assert len(other.refused_files) == 1
    other(PAIRS)
    assert other.computed_count == 7


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_file_is_refused_and_its_pairs_are_scored_again(tmp_path, damage):
    values = ReferenceLogprobs(_adapter(), fingerprint="f", cache_dir=tmp_path)(PAIRS)
    (path,) = _files(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-5]
    elif damage == "flip":
        content[-3] ^= 0x10
    path.write_bytes({"empty": b"", "text": b"not a cache"}.get(damage, bytes(content)))
    again = ReferenceLogprobs(_adapter(), fingerprint="f", cache_dir=tmp_path)
    assert again.refused_files == (path.name,)
    assert np.array_equal(again(PAIRS), values)
    assert again.computed_count == 7
    # The same pairs make the same file, so the damage is healed.
    assert ReferenceLogprobs(_adapter(), fingerprint="f", cache_dir=tmp_path).refused_files == ()


def test_the_key_of_a_pair_decides(tmp_path):
    reference = ReferenceLogprobs(_adapter(), fingerprint="f")
    pair = PAIRS[0]
    swapped = make_pair(pair.prompt, pair.rejected, pair.chosen)
    found = reference([pair, swapped])
    np.testing.assert_allclose(found[0], found[1][::-1], rtol=1e-5)


def test_values_that_are_not_finite_are_returned_but_not_kept(tmp_path, monkeypatch):
    reference = ReferenceLogprobs(_adapter(), fingerprint="f", cache_dir=tmp_path)
    monkeypatch.setattr(
        reference, "_score", lambda pairs: np.full((len(pairs), 2), np.nan, dtype=np.float32)
    )
    assert np.isnan(reference(PAIRS)).all()
    assert not _files(tmp_path)
    reference(PAIRS)
    assert reference.computed_count == 14


def test_what_another_process_scored_meanwhile_is_taken_over(tmp_path):
    late = ReferenceLogprobs(_adapter(), fingerprint="f", cache_dir=tmp_path)
    early = ReferenceLogprobs(_adapter(), fingerprint="f", cache_dir=tmp_path)
    first = early(PAIRS)
    assert np.array_equal(late(PAIRS), first)
    assert late.computed_count == 0
    assert len(_files(tmp_path)) == 1
