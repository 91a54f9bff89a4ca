"""Supervised fine-tuning on public text, so that a fresh model speaks before it is aligned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights

from privfed_dpo.durable import drafted
from privfed_dpo.errors import ModelError
from privfed_dpo.exclusive import one_at_a_time
from privfed_dpo.model.loading import LoadedModel

_RECIPE = "adamw 1"
_IGNORED = -100


def warm_up(
    loaded: LoadedModel,
    texts: Sequence[Sequence[int]],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    cache_dir: Path | None = None,
) -> float:
    """Trains all weights of a base model to predict public text, before any adapter exists.

    No privacy is given to these texts: pass public ones only. The result is a function of model,
    texts and settings; it is kept in `cache_dir` under their hash, and read back instead of
    computed when they are the same. A second process that wants it meanwhile waits for it. AdamW,
    linear warm-up over a tenth of the steps, then cosine decay to a tenth of the rate, gradient
    norm at most 1.

    Args:
        loaded: changed in place; its fingerprint is renewed, its weights are frozen again.
        texts: token ids, two or more each (shorter ones teach nothing and are left out).
        steps: optimizer steps, >= 0; with 0 nothing changes.
        batch: texts per step, drawn with replacement.
        learning_rate: peak rate.
        seed: seed of the draws.
        cache_dir: folder for results; None computes every time.

    Returns:
        Mean loss per token over the last tenth of the steps, in nats; NaN with 0 steps.

    Raises:
        ModelError: no text to learn from, bad settings, or training diverged (the weights are
            then unusable).
    """
    usable = [text for text in texts if len(text) > 1]
    if steps == 0:
        return float("nan")
    if not usable or steps < 0 or batch < 1 or not learning_rate > 0:
        raise ModelError(
            f"Warm-up cannot run: {len(usable)} texts, {steps} steps, batch {batch}, learning "
            f"rate {learning_rate}.",
            advice="Pass texts of at least two tokens and positive settings.",
        )
    path = None
    if cache_dir is not None:
        settings = (_RECIPE, loaded.fingerprint, steps, batch, learning_rate, seed)
        path = cache_dir / f"warmup-{_hash(settings, usable)[:32]}.safetensors"
    loss = None if path is None else _read(loaded, path)
    if loss is None:
        with one_at_a_time(None if path is None else path.with_suffix(".lock")):
            loss = None if path is None else _read(loaded, path)
            if loss is None:
                loss = _train(
                    loaded, usable, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed
                )
                if path is not None:
                    _write(loaded, path, loss)
    loaded.refresh_fingerprint()
    return loss


def _train(
    loaded: LoadedModel,
    texts: Sequence[Sequence[int]],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
) -> float:
    model = loaded.model
    device = next(model.parameters()).device
    draws = np.random.Generator(np.random.PCG64(seed))
    warm = max(1, steps // 10)
    losses: list[float] = []
    model.requires_grad_(True)
    try:
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _rate(step, warm, steps)
        )
        for _ in range(steps):
            rows = [texts[i] for i in draws.integers(0, len(texts), size=batch)]
            loss = _step_loss(loaded, rows, device)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    finally:
        for parameter in model.parameters():
            parameter.grad = None
        model.requires_grad_(False)
    final = float(np.mean(losses[-warm:]))
    if not np.isfinite(final):
        raise ModelError(
            "The warm-up diverged.", advice="Load the model again and lower the learning rate."
        )
    return final


def _step_loss(
    loaded: LoadedModel, rows: Sequence[Sequence[int]], device: torch.device
) -> torch.Tensor:
    width = max(len(row) for row in rows)
    pad_id = loaded.tokenizer.pad_token_id or 0
    ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    labels = torch.full((len(rows), width), _IGNORED, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        labels[index, : len(row)] = torch.tensor(row)
    # Padding stands on the right and is never scored, so the causal mask alone is enough.
    logits = loaded.model(input_ids=ids.to(device), use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels[:, 1:].to(device).flatten(), ignore_index=_IGNORED
    )


def _rate(step: int, warm: int, steps: int) -> float:
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return float(0.1 + 0.45 * (1 + np.cos(np.pi * progress)))


def _hash(settings: tuple[object, ...], texts: Sequence[Sequence[int]]) -> str:
    content = json.dumps([list(settings), [list(map(int, text)) for text in texts]])
    return hashlib.sha256(content.encode()).hexdigest()


def _read(loaded: LoadedModel, path: Path) -> float | None:
    try:
        with safe_open(path, framework="pt") as file:
            loss = float((file.metadata() or {})["loss"])
        load_weights(loaded.model, path, device=str(next(loaded.model.parameters()).device))
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError):
        return None
    return loss


def _write(loaded: LoadedModel, path: Path, loss: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted(path) as draft:
        save_weights(loaded.model, str(draft), metadata={"loss": repr(loss)})
