"""From preference pairs to token ids: one shared prompt, two completions, bounded lengths."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import TemplateError

from privfed_dpo.data.pairs import ChatMessage, PreferencePair, Text
from privfed_dpo.errors import DataError, InputNotice

Ids = tuple[int, ...]


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None
    chat_template: str | None

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Return a mapping whose `input_ids` are the ids of the text."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any:
        """Render a conversation as text when `tokenize=False`."""
        ...


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """A preference pair as token ids, none of the three empty.

    Attributes:
        prompt: ids both branches start with.
        chosen: ids of the preferred completion.
        rejected: ids of the other completion.
        key: SHA-256 (hex) of the three id sequences; names the pair in caches of reference
            log-probabilities.
    """

    prompt: Ids
    chosen: Ids
    rejected: Ids
    key: str


@dataclass(frozen=True, slots=True)
class TokenizedPairs:
    """Tokenized pairs in the order given, and what the length limit did to them.

    Attributes:
        pairs: one per input pair; none is dropped, because counts are public facts of the plan.
        truncated_count: pairs that lost at least one token.
        indistinct_count: pairs whose completions are the same after truncation; their gradient is
            zero, so they cost privacy and teach nothing.
    """

    pairs: tuple[TokenizedPair, ...]
    truncated_count: int
    indistinct_count: int


def pair_key(prompt: Ids, chosen: Ids, rejected: Ids) -> str:
    """SHA-256 (hex) of three id sequences, unambiguous in where each ends."""
    digest = hashlib.sha256()
    for ids in (prompt, chosen, rejected):
        digest.update(len(ids).to_bytes(8, "big"))
        for token in ids:
            digest.update(token.to_bytes(8, "big"))
    return digest.hexdigest()


def note_full_windows(pairs: Sequence[TokenizedPair], max_length: int) -> None:
    """Warn where public pairs fill the whole window, since what is longer was cut.

    Args:
        pairs: tokenized, of public data only: the note counts them.
        max_length: the limit they were tokenized with.
    """
    full = [p for p in pairs if len(p.prompt) + max(len(p.chosen), len(p.rejected)) >= max_length]
    if not full:
        return
    alike = sum(pair.chosen == pair.rejected for pair in full)
    same = f" {alike} of them end with two equal answers and show nothing." if alike else ""
    warnings.warn(
        f"{len(full)} of {len(pairs)} held-out pairs fill the whole window of {max_length} tokens: "
        f"what is longer is cut, prompts first and on the left.{same} Private pairs are cut alike. "
        "The window is data.max_length, or the model's own where that is smaller.",
        InputNotice,
        stacklevel=2,
    )


def tokenize_pairs(
    pairs: Sequence[PreferencePair],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    max_prompt_length: int | None = None,
    append_eos: bool = True,
) -> TokenizedPairs:
    """Tokenize pairs the way TRL's `DPOTrainer` does (version 1.16, `tokenize_fn`).

    Prompt plus completion is tokenized as one text, and the completion starts where the ids of
    the prompt alone, of prompt plus chosen and of prompt plus rejected stop agreeing. So a token
    that merges across the boundary belongs to the completions, as the model would meet it. Only
    if nothing at all agrees are prompt and completions tokenized separately.

    Lengths: if prompt plus the longer completion exceed `max_length`, the prompt is cut first,
    from the left, down to `max_prompt_length` at most; then completions are cut from the right.
    A beginning-of-text token survives the cut. At least one token of each completion is kept.

    Args:
        pairs: text pairs, conversations, or both.
        tokenizer: a transformers tokenizer. Conversations need its chat template, which also ends
            the answer; an end-of-text token is appended to text completions only.
        max_length: most tokens in prompt plus one completion; at least 2.
        max_prompt_length: most tokens in a prompt. If None, half of `max_length`, applied only to
            pairs that are too long.
        append_eos: whether text completions end with the tokenizer's end-of-text token.

    Returns:
        Tokenized pairs and counts.

    Raises:
        DataError: a limit is impossible, the tokenizer lacks the end-of-text token or chat
            template that is needed, or a text has no tokens.
    """
    if max_length < 2:  # noqa: PLR2004 - one token of prompt and one of completion
        raise DataError(f"max_length must be at least 2 tokens, not {max_length}")
    if max_prompt_length is not None and not 1 <= max_prompt_length < max_length:
        raise DataError(
            f"max_prompt_length must lie between 1 and max_length - 1 = {max_length - 1} tokens, "
            f"not {max_prompt_length}"
        )
    _check_tokenizer(pairs, tokenizer, append_eos=append_eos)
    tokenized: list[TokenizedPair] = []
    truncated = indistinct = 0
    for number, pair in enumerate(pairs, start=1):
        whole = _tokenize_pair(pair, tokenizer, append_eos=append_eos)
        if not all(whole):
            raise DataError(
                f"pair {number} has a prompt or completion without a single token",
                advice="Check that the tokenizer fits the language of the data.",
            )
        cut = _truncate(
            *whole,
            max_length=max_length,
            max_prompt_length=max_prompt_length,
            bos_token_id=tokenizer.bos_token_id,
        )
        truncated += cut != whole
        indistinct += cut[1] == cut[2]
        tokenized.append(TokenizedPair(*cut, key=pair_key(*cut)))
    return TokenizedPairs(
        pairs=tuple(tokenized), truncated_count=truncated, indistinct_count=indistinct
    )


def _check_tokenizer(
    pairs: Sequence[PreferencePair], tokenizer: Tokenizer, *, append_eos: bool
) -> None:
    conversations = sum(pair.conversational for pair in pairs)
    if conversations and not tokenizer.chat_template:
        raise DataError(
            f"{conversations} pairs are message lists, but the tokenizer has no chat template",
            advice="Use an instruction-tuned model or its tokenizer, or give the data as text.",
        )
    if append_eos and conversations < len(pairs) and tokenizer.eos_token_id is None:
        raise DataError(
            "the tokenizer has no end-of-text token to append to completions",
            advice="Name one as eos_token in the model's tokenizer_config.json, or take a model "
            "whose tokenizer has one.",
        )


def _tokenize_pair(
    pair: PreferencePair, tokenizer: Tokenizer, *, append_eos: bool
) -> tuple[Ids, Ids, Ids]:
    if pair.conversational:
        prompt, chosen, rejected = _render(pair, tokenizer)
        add_special_tokens = False
    else:
        prompt = str(pair.prompt)
        chosen, rejected = f"{prompt}{pair.chosen}", f"{prompt}{pair.rejected}"
        add_special_tokens = True
    prompt_ids, chosen_ids, rejected_ids = (
        _encode(tokenizer, text, add_special_tokens=add_special_tokens)
        for text in (prompt, chosen, rejected)
    )
    shared = min(_shared_length(prompt_ids, ids) for ids in (chosen_ids, rejected_ids))
    if shared:
        prompt_ids = prompt_ids[:shared]
        chosen_ids, rejected_ids = chosen_ids[shared:], rejected_ids[shared:]
    else:
        chosen_ids, rejected_ids = (
            _encode(tokenizer, text.removeprefix(prompt), add_special_tokens=False)
            for text in (chosen, rejected)
        )
    if append_eos and not pair.conversational and tokenizer.eos_token_id is not None:
        eos = (tokenizer.eos_token_id,)
        chosen_ids += eos if chosen_ids[-1:] != eos else ()
        rejected_ids += eos if rejected_ids[-1:] != eos else ()
    return prompt_ids, chosen_ids, rejected_ids


def _encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> Ids:
    """Ids of a text, without an end-of-text token that the tokenizer adds by itself."""
    ids = tuple(tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])
    if add_special_tokens and ids[-1:] == (tokenizer.eos_token_id,):
        plain = tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        return ids if plain[-1:] == ids[-1:] else ids[:-1]
    return ids


def _render(pair: PreferencePair, tokenizer: Tokenizer) -> tuple[str, str, str]:
    prompt, chosen, rejected = (_turns(text) for text in (pair.prompt, pair.chosen, pair.rejected))
    try:
        return (
            str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)),
            str(tokenizer.apply_chat_template(prompt + chosen, tokenize=False)),
            str(tokenizer.apply_chat_template(prompt + rejected, tokenize=False)),
        )
    except (TemplateError, ValueError) as error:
        raise DataError(
            f"the chat template refuses a conversation: {error}",
            advice="Check that its roles and their order are ones the model knows.",
        ) from error


def _turns(text: Text) -> list[dict[str, str]]:
    messages: tuple[ChatMessage, ...] = () if isinstance(text, str) else text
    return [{"role": message.role, "content": message.content} for message in messages]


def _shared_length(left: Ids, right: Ids) -> int:
    shared = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        shared += 1
    return shared


def _truncate(
    prompt: Ids,
    chosen: Ids,
    rejected: Ids,
    *,
    max_length: int,
    max_prompt_length: int | None,
    bos_token_id: int | None,
) -> tuple[Ids, Ids, Ids]:
    if max_prompt_length is not None:
        prompt = _keep_end(prompt, max_prompt_length, bos_token_id)
    longest = max(len(chosen), len(rejected))
    if len(prompt) + longest > max_length:
        floor = max_prompt_length if max_prompt_length is not None else max(1, max_length // 2)
        prompt = _keep_end(prompt, max(floor, max_length - longest), bos_token_id)
        room = max_length - len(prompt)
        chosen, rejected = chosen[:room], rejected[:room]
    return prompt, chosen, rejected


def _keep_end(prompt: Ids, length: int, bos_token_id: int | None) -> Ids:
    if len(prompt) <= length:
        return prompt
    if prompt[0] == bos_token_id and length > 1:
        return prompt[:1] + prompt[len(prompt) - length + 1 :]
    return prompt[len(prompt) - length :]
