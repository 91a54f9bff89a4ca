"""A run that is also shown in TensorBoard: the same figures as in the run folder, read back."""

import importlib.util
import json
from dataclasses import fields

import pytest

from privfed_dpo import lifecycle
from privfed_dpo.engine.events import MetricsRow, RoundFinished
from privfed_dpo.errors import ConfigError
from privfed_dpo.observe.run_folder import read_rows
from privfed_dpo.observe.tensorboard import TENSORBOARD_FOLDER, keepers, row_scalars
from tests.support.tiny_run import tiny_config


class Killed(BaseException):
    pass


def points(folder):
    """Every point by tag and step, as TensorBoard itself reads the files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = {}
    for path in sorted((folder / TENSORBOARD_FOLDER).iterdir()):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            for point in events.Scalars(tag):
                assert (tag, point.step) not in read, "no point is written twice"
                read[tag, point.step] = point.value
    return read


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Three rounds; the process dies after the second one's points are written."""
    folder = tmp_path_factory.mktemp("tensorboard") / "run"
    config = tiny_config(
        folder,
        "run.tensorboard=true",
        "evaluation.curvature_products=2",
        "federation.server_optimizer=sgd",
    )

    def die(event):
        if isinstance(event, RoundFinished) and event.row.round == 2:
            raise Killed

    with pytest.raises(Killed):
        lifecycle.train(config, observers=[die])
    return lifecycle.resume(folder)


def test_every_figure_of_every_row_is_a_point_and_nothing_else_is(resumed):
    read = points(resumed)
    expected = {}
    for row in read_rows(resumed / "metrics.jsonl"):
        known = {field.name: row.get(field.name) for field in fields(MetricsRow)}
        known["dropped"] = row.get("dropped") or {}
        expected |= {(tag, row["round"]): v for tag, v in row_scalars(MetricsRow(**known))}
    rows = {key: value for key, value in read.items() if not key[0].startswith("floor")}
    assert rows == pytest.approx(expected, rel=1e-6)
    assert {step for tag, step in rows if tag == "privacy/epsilon"} == {0, 1, 2, 3}
    assert {"held_out/loss", "held_out/reward_accuracy", "round/survivors"} <= {t for t, _ in rows}


def test_the_floor_is_shown_as_the_summary_says_it(resumed):
    floor = json.loads((resumed / "summary.json").read_text())["floor"]
    shown = {tag: v for (tag, step), v in points(resumed).items() if tag.startswith("floor")}
    expected = {
        f"floor_{kind}/{source['name'].replace(' ', '_')}": source[kind]
        for source in floor["sources"]
        for kind in ("predicted", "measured")
        if source[kind] is not None
    }
    assert shown == pytest.approx(expected, rel=1e-6)
    assert shown


def test_every_field_of_a_row_has_a_place():
    numbers = {f.name: 1.0 for f in fields(MetricsRow)} | {"round": 1, "status": "released"}
    tags = dict(row_scalars(MetricsRow(**numbers | {"dropped": {"Unmask": 2}})))
    shown = {tag.rpartition("/")[2] for tag in tags}
    assert shown == set(numbers) - {"round", "status", "dropped"} | {"Unmask"}


def test_without_the_package_the_run_does_not_begin(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    with pytest.raises(ConfigError, match="tensorboard is not installed") as refused:
        lifecycle.train(tiny_config(tmp_path / "run", "run.tensorboard=true"))
    assert "privfed-dpo[tensorboard]" in refused.value.advice
    assert not (tmp_path / "run").exists()
    assert len(keepers(tmp_path, tiny_config(tmp_path / "run"))) == 1, "needed only if it is on"
