"""From one raw row in any of TRL's preference formats to a `PreferencePair`.

Recognised, as in the TRL documentation ("Dataset formats and types", section Preference):

- explicit prompt: `prompt`, `chosen` and `rejected`, all text or all message lists;
- implicit prompt: `chosen` and `rejected` begin alike, and what they share is the prompt; a text
  `prompt` beside message lists that repeat it counts as implicit.

`user` and `topic` are optional; every other column is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privfed_dpo.data.pairs import ChatMessage, PreferencePair, Text

TURN_MARKER = "\n\nAssistant:"
"""Ends the shared part of a transcript in plain text (Bai et al., 2022, the hh-rlhf files)."""


class RowProblem(ValueError):
    """One row cannot be used; the loader collects these and reports them together."""


def pair_from_row(row: Mapping[str, Any], columns: Mapping[str, str]) -> PreferencePair:
    """Read one row.

    Args:
        row: column name to value, as parsed from JSON or Parquet.
        columns: for each name in `columns.KNOWN_COLUMNS`, the column that holds it in this source.

    Returns:
        The pair, with the prompt made explicit.

    Raises:
        RowProblem: a column is missing, of the wrong type or empty, no prompt can be found, or
            both completions are the same.
    """
    chosen = _text(row, columns["chosen"])
    rejected = _text(row, columns["rejected"])
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowProblem("chosen and rejected must both be text or both be message lists")
    if row.get(columns["prompt"]) is None:
        prompt, chosen, rejected = _split_implicit(
            chosen, rejected, otherwise=f"there is no prompt in column '{columns['prompt']}'"
        )
    else:
        prompt = _text(row, columns["prompt"])
        if isinstance(prompt, str) and not isinstance(chosen, str):
            prompt, chosen, rejected = _split_implicit(
                chosen,
                rejected,
                otherwise=f"the prompt in column '{columns['prompt']}' is text, but chosen and "
                "rejected are message lists: give it as a message list, or at the start of both",
            )
        elif isinstance(chosen, str) and not isinstance(prompt, str):
            raise RowProblem("prompt is a message list but chosen and rejected are text")
    if not isinstance(chosen, str) and not isinstance(rejected, str):
        _check_answers(chosen, rejected)
    if _stripped(chosen) == _stripped(rejected):
        raise RowProblem("chosen and rejected are the same")
    return PreferencePair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        user=_label(row, columns["user"]),
        topic=_label(row, columns["topic"]),
    )


def _text(row: Mapping[str, Any], column: str) -> Text:
    if column not in row or row[column] is None:
        present = ", ".join(sorted(_printable(name) for name in row)) or "none"
        raise RowProblem(f"column '{column}' is missing (columns present: {present})")
    value = row[column]
    if isinstance(value, str):
        if not value.strip():
            raise RowProblem(f"column '{column}' is empty")
        return _whole(value, f"column '{column}'")
    if isinstance(value, list | tuple):
        if not value:
            raise RowProblem(f"column '{column}' is an empty message list")
        return tuple(_message(item, column) for item in value)
    raise RowProblem(
        f"column '{column}' must be text or a list of messages, not {type(value).__name__}"
    )


def _message(item: object, column: str) -> ChatMessage:
    if not isinstance(item, Mapping):
        raise RowProblem(
            f"column '{column}': a message must be an object with 'role' and 'content', "
            f"not {type(item).__name__}"
        )
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or not role:
        raise RowProblem(f"column '{column}': a message has no 'role'")
    _whole(role, f"column '{column}': the role of a message")
    if not isinstance(content, str):
        raise RowProblem(f"column '{column}': the content of a {role} message is not text")
    if not content.strip():
        raise RowProblem(f"column '{column}': the content of a {role} message is empty")
    _whole(content, f"column '{column}': the content of a {role} message")
    return ChatMessage(role=role, content=content)


def _label(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowProblem(f"column '{column}' must be text or a whole number")
    label = str(value).strip()
    if not label:
        raise RowProblem(f"column '{column}' is empty")
    return _whole(label, f"column '{column}'")


def _whole(text: str, where: str) -> str:
    """The text, which JSON may have cut inside a character: no tokenizer or file takes that."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x}"
        raise RowProblem(
            f"{where} holds half a character ({found}, a lone surrogate) at place "
            f"{error.start + 1}; remove it or write the whole character"
        ) from error
    return text


def _printable(name: object) -> str:
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def _split_implicit(chosen: Text, rejected: Text, *, otherwise: str) -> tuple[Text, Text, Text]:
    """Cut off what both begin with; `otherwise` says why they have to."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        cut = _shared_text_length(chosen, rejected)
        if cut:
            return chosen[:cut], chosen[cut:], rejected[cut:]
    elif not isinstance(chosen, str) and not isinstance(rejected, str):
        cut = _shared_message_count(chosen, rejected)
        if cut:
            return chosen[:cut], chosen[cut:], rejected[cut:]
    raise RowProblem(f"{otherwise}, and chosen and rejected do not begin alike")


def _shared_message_count(
    chosen: tuple[ChatMessage, ...], rejected: tuple[ChatMessage, ...]
) -> int:
    shared = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        shared += 1
    return min(shared, len(chosen) - 1, len(rejected) - 1)


def _shared_text_length(chosen: str, rejected: str) -> int:
    """Where the implicit prompt ends: after the last shared turn marker, else before a space.

    Cutting between words keeps the completions well formed. Shared words that end up in the
    completions are harmless: their log-probability is the same on both sides and cancels.
    """
    limit = min(len(chosen), len(rejected))
    shared = 0
    while shared < limit and chosen[shared] == rejected[shared]:
        shared += 1
    marker = chosen.rfind(TURN_MARKER, 0, shared)
    if marker >= 0 and marker + len(TURN_MARKER) < limit:
        return marker + len(TURN_MARKER)
    for cut in range(min(shared, limit - 1), 0, -1):
        if chosen[cut].isspace() and rejected[cut].isspace() and not chosen[cut - 1].isspace():
            return cut
    return 0


def _check_answers(chosen: tuple[ChatMessage, ...], rejected: tuple[ChatMessage, ...]) -> None:
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if answer[0].role != "assistant":
            raise RowProblem(
                f"{name} must answer the prompt, but its first message is by '{answer[0].role}'"
            )


def _stripped(text: Text) -> object:
    if isinstance(text, str):
        return text.strip()
    return tuple((message.role, message.content.strip()) for message in text)
