"""What a run needs to go on after it was interrupted, saved whole or not at all.

Secrets are not in it: keys and noise live in memory only, and a resumed process draws new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from privfed_dpo.engine.checked_arrays import Array, read_arrays, write_arrays
from privfed_dpo.engine.events import MetricsRow
from privfed_dpo.engine.lanes import LaneRecord
from privfed_dpo.errors import ResumeMismatch
from privfed_dpo.server_update import ServerState

_STATE_FILE = "state.npz"
_LANES = "lanes_"
_NODES = "nodes_"
_DRIFT = "drift_"
_SCHEMA = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run after a whole round.

    Attributes:
        round: the last finished round; 0 before the first.
        state: global adapter and optimizer memory.
        rows: every metrics row so far; the run folder's metrics.jsonl is rebuilt from it.
        plan_hash: hex hash of the plan the run was started with.
        data_fingerprint: hash over all clients' pairs and the held-out pairs.
        seconds: wall-clock time spent so far.
        lanes: what the audit lanes showed so far; None if there are none.
        nodes: without a server, what the nodes hold; see `node_state`. None with a server.
        drift: old adapters and control variates, where the plan keeps any; see `drift_state`.
        ledger_head: hash of the ledger's last line when this was saved, which a resumed run must
            find in its ledger again; None only before there is a ledger.
    """

    round: int
    state: ServerState
    rows: Sequence[MetricsRow]
    plan_hash: str
    data_fingerprint: str
    seconds: float
    lanes: LaneRecord | None = None
    nodes: Mapping[str, npt.NDArray[np.generic]] | None = None
    drift: Mapping[str, npt.NDArray[np.generic]] | None = None
    ledger_head: str | None = None


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    round: int
    steps: int
    rows: tuple[MetricsRow, ...]
    plan_hash: str
    data_fingerprint: str
    seconds: float
    ledger_head: str | None


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically: after a crash the folder holds the old one or the new one."""
    header = _Header(
        schema=_SCHEMA,
        round=checkpoint.round,
        steps=checkpoint.state.steps,
        rows=tuple(checkpoint.rows),
        plan_hash=checkpoint.plan_hash,
        data_fingerprint=checkpoint.data_fingerprint,
        seconds=checkpoint.seconds,
        ledger_head=checkpoint.ledger_head,
    )
    arrays: dict[str, npt.NDArray[np.generic]] = dict(checkpoint.state.arrays())
    if checkpoint.lanes is not None:
        lanes = checkpoint.lanes.arrays()
        arrays |= {f"{_LANES}{name}": array for name, array in lanes.items()}
    arrays |= {f"{_NODES}{name}": array for name, array in (checkpoint.nodes or {}).items()}
    arrays |= {f"{_DRIFT}{name}": array for name, array in (checkpoint.drift or {}).items()}
    arrays["header"] = np.frombuffer(msgspec.json.encode(header), dtype=np.uint8)
    write_arrays(folder / _STATE_FILE, arrays)


def load_checkpoint(folder: Path, *, plan_hash: str, data_fingerprint: str) -> Checkpoint:
    """Read a checkpoint back.

    Args:
        folder: the run's `checkpoint` folder.
        plan_hash: hash of the plan made from the config and data found now.
        data_fingerprint: hash of the data found now.

    Raises:
        ResumeMismatch: the file is missing or damaged, or plan or data are not those of the run.
    """
    header, arrays = _read(folder / _STATE_FILE)
    if header.plan_hash != plan_hash:
        raise ResumeMismatch("the plan", expected=header.plan_hash, found=plan_hash)
    if header.data_fingerprint != data_fingerprint:
        raise ResumeMismatch("the data", expected=header.data_fingerprint, found=data_fingerprint)
    lanes, nodes, drift = (_group(arrays, prefix) for prefix in (_LANES, _NODES, _DRIFT))
    return Checkpoint(
        round=header.round,
        state=ServerState(
            weights=arrays["weights"],
            first_moment=arrays["first_moment"],
            second_moment=arrays["second_moment"],
            steps=header.steps,
        ),
        rows=header.rows,
        plan_hash=plan_hash,
        data_fingerprint=data_fingerprint,
        seconds=header.seconds,
        lanes=LaneRecord.from_arrays(lanes) if lanes else None,
        nodes=nodes or None,
        drift=drift or None,
        ledger_head=header.ledger_head,
    )


def _group(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _read(path: Path) -> tuple[_Header, dict[str, Array]]:
    try:
        arrays = read_arrays(path, "the checkpoint")
    except OSError as error:
        raise ResumeMismatch("the checkpoint", expected=str(path), found="nothing") from error
    try:
        header = msgspec.json.decode(arrays.pop("header").tobytes(), type=_Header)
    except msgspec.ValidationError as error:
        raise ResumeMismatch(
            "the checkpoint's format", expected=f"schema {_SCHEMA}", found=str(error)
        ) from error
    if header.schema != _SCHEMA:
        raise ResumeMismatch(
            "the checkpoint's format",
            expected=f"schema {_SCHEMA}",
            found=f"schema {header.schema}",
        )
    return header, arrays
