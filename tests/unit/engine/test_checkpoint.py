import numpy as np
import pytest

from privfed_dpo.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from privfed_dpo.engine.events import MetricsRow
from privfed_dpo.errors import ResumeMismatch
from privfed_dpo.server_update import ServerState, ServerUpdate


@pytest.fixture
def checkpoint():
    start = ServerState.start(np.arange(5, dtype=np.float32))
    state = ServerUpdate("adam", 0.1, 0.9).apply(start, np.linspace(-1, 1, 5))
    rows = (
        MetricsRow(round=0, status="start", loss=0.6931),
        MetricsRow(round=1, status="released", epsilon=1.25, dropped={"Unmask": 2}),
    )
    return Checkpoint(
        1, state, rows, plan_hash="p", data_fingerprint="d", seconds=2.5, ledger_head="h"
    )


def load(folder, **changes):
    return load_checkpoint(folder, **({"plan_hash": "p", "data_fingerprint": "d"} | changes))


def test_round_trip_is_exact(tmp_path, checkpoint):
    save_checkpoint(tmp_path, checkpoint)
    found = load(tmp_path)
    for name, array in checkpoint.state.arrays().items():
        assert np.array_equal(found.state.arrays()[name], array)
    assert found.state.steps == 1
    assert found.rows == checkpoint.rows
    assert (found.round, found.seconds, found.ledger_head) == (1, 2.5, "h")


@pytest.mark.parametrize("changes", [{"plan_hash": "q"}, {"data_fingerprint": "e"}])
def test_another_plan_or_other_data_are_refused(tmp_path, checkpoint, changes):
    save_checkpoint(tmp_path, checkpoint)
    with pytest.raises(ResumeMismatch) as caught:
        load(tmp_path, **changes)
    assert caught.value.found in changes.values()


def test_any_flipped_byte_and_any_cut_is_noticed(tmp_path, checkpoint):
    save_checkpoint(tmp_path, checkpoint)
    path = tmp_path / "state.npz"
    good = path.read_bytes()
    for place in range(0, len(good), 97):
        bad = bytearray(good)
        bad[place] ^= 1
        path.write_bytes(bytes(bad))
        with pytest.raises(ResumeMismatch):
            load(tmp_path)
        path.write_bytes(good[:place])
        with pytest.raises(ResumeMismatch):
            load(tmp_path)


def test_a_missing_checkpoint_says_so(tmp_path):
    with pytest.raises(ResumeMismatch, match="nothing"):
        load(tmp_path)


def test_a_checkpoint_of_another_version_is_refused(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr("privfed_dpo.engine.checkpoint._SCHEMA", 1)
    save_checkpoint(tmp_path, checkpoint)
    monkeypatch.undo()
    with pytest.raises(ResumeMismatch, match="expected schema 2, found schema 1"):
        load(tmp_path)
