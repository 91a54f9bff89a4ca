"""Answers to public prompts before and after training, as transformers' `generate` gives them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.eligibility import position_limit

_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, TemplateError)


@dataclass(frozen=True, slots=True)
class AnswerSample:
    """What a model says to one prompt.

    Attributes:
        prompt: as given.
        before: answer of the base model.
        after: answer with the trained adapter.
    """

    prompt: str
    before: str
    after: str


def sample_answers(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    in_step: bool = False,
) -> tuple[AnswerSample, ...]:
    """Answers prompts greedily, once without the adapter and once with it.

    Nothing is drawn at random, so the same adapter gives the same answers. A prompt is one user
    message where the tokenizer has a chat template, and plain text elsewhere. What goes beyond the
    model's positions is cut: a prompt is left as it is up to half of them, so that the answer ends
    early, and loses its beginning beyond.

    Args:
        adapter: the policy.
        tokenizer: of the base model.
        prompts: PUBLIC prompts: they and the answers are written down and shown. Answers are
            post-processing of the released adapter and cost no privacy.
        max_tokens: longest answer.
        in_step: whether the base is spread over processes, which then all answer: none may stop
            before the last one has.

    Returns:
        One sample per prompt; none, and a warning, where this model does not generate: a sample is
        not worth a run.
    """
    try:
        return tuple(
            _sample(adapter, tokenizer, prompt, max_tokens=max_tokens, in_step=in_step)
            for prompt in prompts
        )
    except _FAILURES as error:
        warnings.warn(f"This model gave no sample answers: {error}", stacklevel=2)
        return ()


def _sample(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    max_tokens: int,
    in_step: bool,
) -> AnswerSample:
    ids = _encode(tokenizer, prompt).to(adapter.device)
    limit = position_limit(adapter.model.get_base_model())
    if limit is not None:
        max_tokens = min(max_tokens, max(limit - ids.shape[1], limit // 2))
        ids = ids[:, -(limit - max_tokens) :]
    with adapter.disabled():
        before = _answer(adapter, tokenizer, ids, max_tokens=max_tokens, in_step=in_step)
    after = _answer(adapter, tokenizer, ids, max_tokens=max_tokens, in_step=in_step)
    return AnswerSample(prompt, before, after)


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: str) -> torch.Tensor:
    text, special = prompt, True
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        special = False  # the template writes them itself
    ids: torch.Tensor = tokenizer(text, add_special_tokens=special, return_tensors="pt")[
        "input_ids"
    ]
    return ids


@torch.no_grad()
def _answer(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    ids: torch.Tensor,
    *,
    max_tokens: int,
    in_step: bool,
) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sampling settings a checkpoint came with
        row = adapter.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_tokens,
            pad_token_id=adapter.pad_id,
            eos_token_id=tokenizer.eos_token_id,
            synced_gpus=in_step,
        )[0]
    answer: str = tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True)
    return answer.strip()
