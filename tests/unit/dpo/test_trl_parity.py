"""The same model, pairs and losses through TRL's DPOTrainer: an independent implementation."""

import copy
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from trl import DPOConfig, DPOTrainer

from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.tokenize import tokenize_pairs
from privfed_dpo.dpo.loss import PairLoss
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.loading import LoadedModel
from privfed_dpo.model.tiny import build_word_tokenizer
from tests.support.toy_models import shaken, toy_model

TEXTS = [
    {"prompt": "how do i fix", "chosen": " my bike please", "rejected": " no"},
    {"prompt": "how do", "chosen": " yes", "rejected": " my bike gently sure ok now"},
]
WORDS = [
    "how",
    "do",
    "i",
    "fix",
    "my",
    "bike",
    "please",
    "no",
    "yes",
    "gently",
    "sure",
    "ok",
    "now",
]


@pytest.mark.parametrize(
    ("loss", "label_smoothing"), [("sigmoid", 0.0), ("ipo", 0.0), ("hinge", 0.0), ("robust", 0.2)]
)
def test_loss_and_gradient_equal_those_of_trl(tmp_path, loss, label_smoothing):
    datasets.disable_progress_bars()
    tokenizer = build_word_tokenizer(WORDS)
    base = toy_model("llama")
    reference_model = copy.deepcopy(base)
    adapter = shaken(Adapter.attach(base, AdapterSpec(rank=2)), scale=0.02)
    beta = 0.3

    settings = DPOConfig(
        output_dir=str(tmp_path),
        loss_type=loss,
        beta=beta,
        label_smoothing=label_smoothing,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
    )
    # TRL gets the policy as one plain model, with the adapter's update inside its weights.
    merged = copy.deepcopy(adapter.model).merge_and_unload().requires_grad_(True)
    trainer = DPOTrainer(
        model=merged,
        ref_model=reference_model,
        args=settings,
        train_dataset=datasets.Dataset.from_list(TEXTS),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model, batch)
    expected.backward()

    pairs = tokenize_pairs([PreferencePair(**t) for t in TEXTS], tokenizer, max_length=64).pairs
    loaded = LoadedModel(base, tokenizer, "unused")
    reference = ReferenceLogprobs(adapter, fingerprint=loaded.fingerprint)(pairs)
    gradients = PairGradients(adapter, loss=loss, beta=beta, label_smoothing=label_smoothing)
    scored = gradients.scorer.batch(pairs)
    with torch.no_grad():
        losses = gradients.loss(
            gradients.scorer.logprobs(scored),
            torch.from_numpy(reference),
            scored.completion_lengths,
        )
    assert losses.mean().item() == pytest.approx(expected.item(), rel=2e-5, abs=2e-5)
    found = gradients.mean_gradient(pairs, reference)
    wanted = _through_the_factors(adapter, merged)
    assert np.linalg.norm(found - wanted) <= 2e-5 * np.linalg.norm(wanted)


def _through_the_factors(adapter, merged):
    """The chain rule: W = W0 + s B A gives dL/dA = s B' dL/dW and dL/dB = s dL/dW A'."""
    weights = dict(adapter.model.named_parameters())
    full = dict(merged.named_parameters())
    scale = 16.0 / 2
    parts = []
    for slot in adapter.layout:
        layer, _, factor = slot.name.removesuffix(".default.weight").rpartition(".")
        slope = full[layer.removeprefix("base_model.model.") + ".weight"].grad
        other = weights[slot.name.replace(factor, "lora_B" if factor == "lora_A" else "lora_A")]
        product = other.T @ slope if factor == "lora_A" else slope @ other.T
        parts.append(scale * product.detach().flatten().numpy())
    return np.concatenate(parts)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (PairLoss("simpo", 2.0, target_margin=0.7), "simpo"),
        (PairLoss("sigmoid", 0.3, reference_free=True), "sigmoid"),
        (PairLoss("hinge", 0.3, reference_free=True), "hinge"),
    ],
)
def test_reference_free_losses_equal_those_of_trl(loss, name):
    from trl.experimental.cpo import CPOTrainer

    trainer = SimpleNamespace(
        alpha=0.0,
        beta=loss.beta,
        simpo_gamma=loss.target_margin,
        label_smoothing=0.0,
        loss_type=name,
        accelerator=SimpleNamespace(device="cpu"),
    )
    generator = torch.Generator().manual_seed(3)
    policy = -20 * torch.rand(32, 2, generator=generator)
    lengths = torch.randint(1, 30, (32, 2), generator=generator).float()
    scores = policy / lengths if name == "simpo" else policy
    expected, _, _ = CPOTrainer.cpo_loss(trainer, scores[:, 0], scores[:, 1])
    torch.testing.assert_close(loss(policy, torch.full_like(policy, torch.nan), lengths), expected)
