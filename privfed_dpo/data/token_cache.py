"""Token ids of preference pairs, computed once for everybody who shares a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.tokenize import TokenizedPair, Tokenizer, tokenize_pairs
from privfed_dpo.durable import drafted
from privfed_dpo.exclusive import one_at_a_time

# Changes whenever the ids of the same pair could change.
_RECIPE = "tokenize_pairs 1"
_KEY_BYTES = 32
_Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class PairTokenizer:
    """Tokenizes pairs, or reads back what was tokenized before.

    A file holds the pairs of one call, named after a hash of tokenizer, length and pairs, with a
    checksum; a file that does not fit is ignored and written anew. It holds the pairs themselves
    as token ids, readable by its owner only: keep `cache_dir` where the pairs may be.

    Attributes:
        tokenizer: see `tokenize_pairs`.
        fingerprint: of model and tokenizer; another tokenizer never meets these files.
        max_length: most tokens in prompt plus one completion.
        cache_dir: folder of the files; None keeps nothing.
    """

    tokenizer: Tokenizer = field(repr=False)
    fingerprint: str
    max_length: int
    cache_dir: Path | None = None

    def __call__(self, pairs: Sequence[PreferencePair]) -> tuple[TokenizedPair, ...]:
        """Tokenize pairs, in the order given.

        Raises:
            DataError: see `tokenize_pairs`.
        """
        if self.cache_dir is None or not pairs:
            return self._tokenize(pairs)
        path = self.cache_dir / f"{self._name(pairs)}.npz"
        known = _read(path)
        if known is not None:
            return known
        with one_at_a_time(path.with_suffix(".lock")):
            known = _read(path)
            if known is None:
                known = self._tokenize(pairs)
                _write(path, known)
        return known

    def _tokenize(self, pairs: Sequence[PreferencePair]) -> tuple[TokenizedPair, ...]:
        return tokenize_pairs(pairs, self.tokenizer, max_length=self.max_length).pairs

    def _name(self, pairs: Sequence[PreferencePair]) -> str:
        digest = hashlib.sha256(f"{_RECIPE}/{self.fingerprint}/{self.max_length}".encode())
        for pair in pairs:
            digest.update(repr((pair.prompt, pair.chosen, pair.rejected)).encode())
        return digest.hexdigest()[:32]


def _write(path: Path, pairs: Iterable[TokenizedPair]) -> None:
    listed = list(pairs)
    parts = [ids for pair in listed for ids in (pair.prompt, pair.chosen, pair.rejected)]
    arrays: _Arrays = {
        "ids": np.fromiter((token for ids in parts for token in ids), dtype=np.int64),
        "lengths": np.array([len(ids) for ids in parts], dtype=np.int64),
        "keys": np.frombuffer(b"".join(bytes.fromhex(p.key) for p in listed), dtype=np.uint8),
    }
    with drafted(path) as draft, draft.open("wb") as file:
        np.savez(file, allow_pickle=False, checksum=_checksum(arrays), **arrays)


def _read(path: Path) -> tuple[TokenizedPair, ...] | None:
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in ("ids", "lengths", "keys")}
            if not np.array_equal(found["checksum"], _checksum(arrays)):
                return None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return tuple(_pairs(arrays))


def _pairs(arrays: _Arrays) -> Iterator[TokenizedPair]:
    ids = arrays["ids"].tolist()
    bounds = np.cumsum([0, *arrays["lengths"].tolist()]).tolist()
    keys = arrays["keys"].tobytes()
    for number in range(len(arrays["lengths"]) // 3):
        start, first, second, end = bounds[3 * number : 3 * number + 4]
        key = keys[number * _KEY_BYTES : (number + 1) * _KEY_BYTES].hex()
        yield TokenizedPair(
            tuple(ids[start:first]), tuple(ids[first:second]), tuple(ids[second:end]), key
        )


def _checksum(arrays: _Arrays) -> npt.NDArray[np.uint8]:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(len(arrays[name]).to_bytes(8, "big") + arrays[name].tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)
