"""One value, one sequence of bytes: the JSON that ledgers are hashed over."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None


def canonical_bytes(value: JSON) -> bytes:
    """Return the only encoding of `value`: keys sorted, no spaces, ASCII, no line break.

    Raises:
        ValueError: a number is not finite.
        TypeError: something in it is not JSON.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode("ascii")


def from_canonical_bytes(encoded: bytes) -> Any:
    """Read what `canonical_bytes` wrote, and nothing else.

    Decoding then encoding again must give the same bytes, so duplicate keys, spaces, other
    spellings of a number and trailing data are all refused.

    Raises:
        ValueError: `encoded` is not canonical JSON.
    """
    value = json.loads(encoded, parse_constant=_refuse_constant)
    if canonical_bytes(value) != encoded:
        raise ValueError("the line is JSON, but not in its canonical form")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number that a ledger may hold")
