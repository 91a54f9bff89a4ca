"""Reading JSON that somebody else may have written: what cannot be read is one kind of error."""

from __future__ import annotations

import json

DEEPEST = 64
"""Levels of nesting that are read; a run's own files have fewer than ten."""


def parse_json(encoded: bytes) -> object:
    """Read JSON text.

    Args:
        encoded: UTF-8 text.

    Returns:
        Plain data, nested no deeper than `DEEPEST`, so that what walks over it may recurse.

    Raises:
        ValueError: a sentence that says why it cannot be read.
    """
    try:
        content: object = json.loads(encoded.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except ValueError as error:
        raise ValueError(f"not usable JSON: {error}") from error
    _require_shallow(content)
    try:
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise ValueError(
            "a number that is not finite, or half a character (a lone surrogate)"
        ) from None
    return content


def _require_shallow(content: object) -> None:
    level = [content]
    for _ in range(DEEPEST):
        level = [item for value in level for item in _inside(value)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
