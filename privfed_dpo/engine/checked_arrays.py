"""Arrays in one file that is written whole or not at all, and that shows if it was damaged."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from privfed_dpo.durable import write_atomically
from privfed_dpo.errors import ResumeMismatch

Array = npt.NDArray[Any]
_DIGEST_BYTES = 32


def write_arrays(path: Path, arrays: Mapping[str, Array], *, secret: bool = False) -> None:
    """Write named arrays behind their SHA-256.

    Args:
        path: replaced as a whole.
        arrays: no objects among them.
        secret: whether only its owner may read the file.

    Raises:
        OSError: it could not be written; what was there before still is.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))
    body = buffer.getvalue()
    write_atomically(path, hashlib.sha256(body).digest() + body, secret=secret)


def read_arrays(path: Path, what: str) -> dict[str, Array]:
    """Read back what `write_arrays` wrote.

    Args:
        path: given to it.
        what: the file in words, for the error.

    Raises:
        ResumeMismatch: the file is damaged.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    found = hashlib.sha256(body).digest()
    if found != digest:
        raise ResumeMismatch(what, expected=digest.hex(), found=found.hex())
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
