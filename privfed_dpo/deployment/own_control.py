"""A client's control variate on its own disk: SCAFFOLD needs it in the next process too.

It never leaves the client, and losing it costs no privacy; but a client without it could not take
part any more, since the mean that the server keeps would no longer be that of the clients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from privfed_dpo.engine.checked_arrays import read_arrays, write_arrays
from privfed_dpo.engine.control_variates import ControlVariate


def save_control(path: Path, control: ControlVariate) -> None:
    """Put a control variate on the disk, whole or not at all, for its owner only.

    Raises:
        OSError: it could not be written; what was there before still is.
    """
    rounds = np.array([control.counted_round, control.pending_round], dtype=np.int64)
    arrays = {"value": control.value, "pending": control.pending, "rounds": rounds}
    write_arrays(path, arrays, secret=True)


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
    arrays = read_arrays(path, "the control variate")
    counted, pending = arrays["rounds"].tolist()
    return ControlVariate(arrays["value"], arrays["pending"], counted, pending)
