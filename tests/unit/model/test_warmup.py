import math

import pytest
import torch

from privfed_dpo.errors import ModelError
from privfed_dpo.model import warmup
from privfed_dpo.model.loading import ModelSpec, load_model
from privfed_dpo.model.warmup import warm_up

WORDS = ("a", "b", "c", "d", "e", "f")
# In this language every word decides the next one.
TEXTS = [[4, 5, 6, 7, 8, 9], [5, 6, 7, 8], [7, 8, 9]]
SETTINGS = {"steps": 40, "batch": 4, "learning_rate": 5e-3, "seed": 0}


def _fresh():
    return load_model(ModelSpec(), vocabulary=WORDS)


def test_it_learns_a_deterministic_language():
    loaded = _fresh()
    loss = warm_up(loaded, TEXTS, **SETTINGS)
    # ln 10 = 2.3 at random. The first word of a text is given, so nothing is left to guess.
    assert loss < 0.3
    logits = loaded.model(torch.tensor([[4, 5, 6, 7]])).logits
    assert logits[0, :, :].argmax(dim=1).tolist() == [5, 6, 7, 8]


def test_it_leaves_a_frozen_model_with_a_new_fingerprint():
    loaded = _fresh()
    before = loaded.fingerprint
    warm_up(loaded, TEXTS, **SETTINGS)
    assert loaded.fingerprint != before
    assert not any(p.requires_grad or p.grad is not None for p in loaded.model.parameters())
    assert not loaded.model.training


def test_zero_steps_change_nothing():
    loaded = _fresh()
    before = loaded.fingerprint
    assert math.isnan(warm_up(loaded, [], **{**SETTINGS, "steps": 0}))
    assert loaded.fingerprint == before


def test_the_cache_gives_the_same_weights_without_training(tmp_path, monkeypatch):
    first = _fresh()
    loss = warm_up(first, TEXTS, cache_dir=tmp_path, **SETTINGS)
    monkeypatch.setattr(
        "privfed_dpo.model.warmup._train", lambda *_a, **_k: pytest.fail("trained again")
    )
    second = _fresh()
    assert warm_up(second, TEXTS, cache_dir=tmp_path, **SETTINGS) == loss
    assert second.fingerprint == first.fingerprint
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]


def test_what_another_process_learned_meanwhile_is_taken_over(tmp_path, monkeypatch):
    """It looks, finds nothing, waits for the lock; when it is let in, the result is there."""
    first, calls = _fresh(), []
    warm_up(first, TEXTS, cache_dir=tmp_path, **SETTINGS)
    read = warmup._read

    def not_yet(loaded, path):
        calls.append(path)
        return None if len(calls) == 1 else read(loaded, path)

    monkeypatch.setattr(warmup, "_read", not_yet)
    monkeypatch.setattr(warmup, "_train", lambda *_a, **_k: pytest.fail("trained again"))
    second = _fresh()
    warm_up(second, TEXTS, cache_dir=tmp_path, **SETTINGS)
    assert second.fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "change",
    [{"steps": 41}, {"batch": 3}, {"learning_rate": 4e-3}, {"seed": 1}, {"texts": TEXTS[:2]}],
)
def test_other_settings_are_other_results(tmp_path, change):
    warm_up(_fresh(), TEXTS, cache_dir=tmp_path, **SETTINGS)
    merged = {"texts": TEXTS, **SETTINGS, **change}
    warm_up(_fresh(), merged.pop("texts"), cache_dir=tmp_path, **merged)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_torn_cache_file_is_computed_again(tmp_path):
    first = _fresh()
    warm_up(first, TEXTS, cache_dir=tmp_path, **SETTINGS)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    second = _fresh()
    warm_up(second, TEXTS, cache_dir=tmp_path, **SETTINGS)
    assert second.fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("texts", "change"),
    [
        ([], {}),
        ([[4]], {}),
        (TEXTS, {"batch": 0}),
        (TEXTS, {"learning_rate": 0.0}),
        (TEXTS, {"steps": -1}),
    ],
)
def test_settings_that_cannot_train_are_refused(texts, change):
    with pytest.raises(ModelError, match="Warm-up cannot run"):
        warm_up(_fresh(), texts, **{**SETTINGS, **change})


def test_a_diverged_warm_up_is_an_error_and_is_not_cached(tmp_path):
    loaded = _fresh()
    with torch.no_grad():
        loaded.model.lm_head.weight[:] = float("nan")
    with pytest.raises(ModelError, match="diverged"):
        warm_up(loaded, TEXTS, cache_dir=tmp_path, **SETTINGS)
    assert not list(tmp_path.iterdir())
