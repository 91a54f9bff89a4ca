import pytest
import torch
from transformers import CohereConfig, GraniteConfig

from privfed_dpo.errors import ModelError
from privfed_dpo.model.logprobs import completion_logprobs, frozen_head, token_logprobs
from privfed_dpo.model.pair_batch import pack_pairs, split_pairs
from tests.support.toy_models import FAMILIES, VOCABULARY_SIZE, toy_model, toy_pairs

PAIRS = toy_pairs(6, seed=5)


def _one_sequence_at_a_time(model, pairs):
    rows = []
    for pair in pairs:
        row = []
        for completion in (pair.chosen, pair.rejected):
            ids = torch.tensor([[*pair.prompt, *completion]])
            scores = model(input_ids=ids).logits[0, :-1].float().log_softmax(dim=1)
            row.append(scores.gather(1, ids[0, 1:, None])[len(pair.prompt) - 1 :].sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def _pack(model, pairs):
    kind = "additive" if model.config._attn_implementation == "eager" else "boolean"
    return pack_pairs(pairs, pad_id=0, mask=kind, mask_dtype=model.dtype)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_both_forms_equal_one_sequence_at_a_time(family):
    model = toy_model(family).requires_grad_(False)
    with torch.no_grad():
        truth = _one_sequence_at_a_time(model, PAIRS)
        packed = completion_logprobs(model, _pack(model, PAIRS))
        apart = completion_logprobs(model, split_pairs(PAIRS, pad_id=0))
    assert packed.dtype == torch.float32
    assert packed.shape == (6, 2)
    torch.testing.assert_close(packed, truth, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(apart, truth, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        CohereConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            initializer_range=0.2,
            logit_scale=0.25,
        ),
        GraniteConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            initializer_range=0.2,
            logits_scaling=4.0,
        ),
    ],
    ids=["multiplied", "divided"],
)
def test_scaled_logits_are_scaled(config):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    with torch.no_grad():
        truth = _one_sequence_at_a_time(model, PAIRS)
        scores = completion_logprobs(model, split_pairs(PAIRS, pad_id=0))
    torch.testing.assert_close(scores, truth, rtol=1e-5, atol=1e-4)


def test_the_head_never_sees_more_than_a_chunk_nor_tokens_of_the_prompt():
    model = toy_model("llama").requires_grad_(False)
    seen = []
    model.lm_head.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    batch = pack_pairs(PAIRS, pad_id=0)
    with torch.no_grad():
        completion_logprobs(model, batch, chunk_elements=7 * VOCABULARY_SIZE)
    assert max(seen) == 7
    assert sum(seen) == sum(len(p.chosen) + len(p.rejected) for p in PAIRS)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_chunked_scores_and_slopes_equal_autograd(rows):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(10, 8, generator=generator, requires_grad=True)
    head = torch.nn.Linear(8, 31).requires_grad_(False)
    targets = torch.randint(0, 31, (10,), generator=generator)
    upstream = torch.randn(10, generator=generator)
    plain = head(hidden).log_softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    (expected,) = torch.autograd.grad((plain * upstream).sum(), hidden)
    scores = token_logprobs(hidden, targets, head, rows)
    (slopes,) = torch.autograd.grad((scores * upstream).sum(), hidden)
    torch.testing.assert_close(scores, plain)
    torch.testing.assert_close(slopes, expected)


def test_softcapped_head_by_hand():
    model = toy_model("gemma2").requires_grad_(False)
    cap = model.config.final_logit_softcapping
    hidden = torch.randn(3, 32)
    raw = hidden @ model.lm_head.weight.T
    torch.testing.assert_close(frozen_head(model)(hidden), cap * torch.tanh(raw / cap))


def test_a_trainable_head_is_refused():
    model = toy_model("llama").requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    with pytest.raises(ModelError, match="head is trainable"):
        completion_logprobs(model, split_pairs(PAIRS, pad_id=0))


def test_something_that_is_no_language_model_is_refused():
    with pytest.raises(ModelError, match="Linear"):
        frozen_head(torch.nn.Linear(2, 2))
