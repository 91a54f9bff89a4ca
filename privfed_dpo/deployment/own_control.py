"""A client's control variate on its own disk: SCAFFOLD needs it in the next process too.

It never leaves the client, and losing it costs no privacy; but a client without it could not take
part any more, since the mean that the server keeps would no longer be that of the clients.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from privfed_dpo.durable import write_atomically
from privfed_dpo.engine.control_variates import ControlVariate
from privfed_dpo.errors import ResumeMismatch

_DIGEST_BYTES = 32


def save_control(path: Path, control: ControlVariate) -> None:
    """Put a control variate on the disk, whole or not at all, for its owner only.

    Raises:
        OSError: it could not be written; what was there before still is.
    """
    buffer = io.BytesIO()
    rounds = np.array([control.counted_round, control.pending_round], dtype=np.int64)
    np.savez(
        buffer, allow_pickle=False, value=control.value, pending=control.pending, rounds=rounds
    )
    body = buffer.getvalue()
    write_atomically(path, hashlib.sha256(body).digest() + body, secret=True)


def load_control(path: Path, dimension: int) -> ControlVariate:
    """Read back what was saved last; zero where nothing was.

    Args:
        path: given to `save_control`.
        dimension: length of the adapter.

    Raises:
        ResumeMismatch: the file is damaged.
    """
    if not path.exists():
        return ControlVariate.start(dimension)
    content = path.read_bytes()
    digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    found = hashlib.sha256(body).digest()
    if found != digest:
        raise ResumeMismatch("the control variate", expected=digest.hex(), found=found.hex())
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        counted, pending = arrays["rounds"].tolist()
        return ControlVariate(arrays["value"], arrays["pending"], counted, pending)
