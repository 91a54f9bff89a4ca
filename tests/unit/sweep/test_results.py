"""Results as rows: columns, settings over seeds, the best run, the Pareto front."""

import csv
import io
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.sweep.records import RunState
from privfed_dpo.sweep.results import best_run, columns, pareto_front, results_csv, settings
from tests.support.sweeps import ended

SWEPT = ("privacy.target_epsilon", "privacy.mode")


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_holds_everything_that_is_known_of_a_run():
    shared = replace(
        ended("free", 0.9, epsilon=None),
        cells=({SWEPT[0]: "inf", SWEPT[1]: "distributed"}, {SWEPT[0]: "inf", SWEPT[1]: "local"}),
    )
    waiting = replace(ended("w", 0.1), state=RunState.WAITING, result=None, attempts=())
    failed = ended("f", None, status="aborted", exit_code=4, reason="too few, again")
    refused = {"name": "x", "label": "", "values": {SWEPT[0]: 1}, "seed": 7, "reason": "why"}
    text = results_csv(
        [ended("a", 0.8, audit_epsilon=1.25), shared, waiting, failed], [refused], SWEPT
    )
    rows = {row["run"]: row for row in read(text)}
    assert tuple(read(text)[0]) == columns(SWEPT)
    assert rows["a"]["epsilon_coalition_pld"] == "4.0"
    assert rows["a"]["epsilon_no_secagg_rdp"] == ""
    assert rows["a"]["audit_epsilon"] == "1.25"
    assert rows["a"]["run_folder"] == "runs/a"
    assert rows["a"]["seconds"] == "61.0"
    assert rows["free"][SWEPT[1]] == "distributed|local"
    assert rows["w"]["status"] == "waiting"
    assert rows["w"]["run_folder"] == ""
    assert (rows["f"]["status"], rows["f"]["exit_code"]) == ("aborted", "4")
    assert rows["f"]["reason"] == "too few, again"
    assert (rows["x"]["status"], rows["x"]["seed"]) == ("refused", "7")


def test_a_value_that_is_a_mapping_or_a_list_is_readable():
    key = "model.adapter.rank_pattern"
    run = replace(ended("a", 0.8), cells=({key: {"q_proj": 4}}, {key: ["x", "y"]}))
    (row,) = read(results_csv([run], [], (key,)))
    assert row[key] == '{"q_proj": 4}|["x", "y"]'


def test_seeds_make_one_setting():
    runs = [ended("a", 0.8), ended("b", 0.9, seed=1), ended("c", 0.7, epsilon=2.0)]
    four, two = settings(runs)
    assert four.measured("reward_accuracy") == (0.8, 0.9)
    assert (four.epsilon, two.epsilon) == (4.0, 2.0)
    assert (four.planned, two.planned) == (2, 1)


def test_an_unfinished_or_failed_run_is_planned_but_not_compared():
    runs = [
        ended("a", 0.8),
        ended("b", 0.99, seed=1, status="failed", exit_code=1),
        replace(ended("c", 0.9, seed=2), state=RunState.RUNNING, result=None),
    ]
    (setting,) = settings(runs)
    assert setting.measured("reward_accuracy") == (0.8,)
    assert setting.planned == 3
    assert best_run(runs, "reward_accuracy").name == "a"


def test_the_best_run_is_the_smallest_loss_and_the_cheaper_of_equals():
    runs = [ended("a", 0.8, loss=0.3), ended("b", 0.9, loss=0.2), ended("c", 0.9, epsilon=1.0)]
    assert best_run(runs, "loss").name == "b"
    assert best_run(runs, "reward_accuracy").name == "c"
    assert best_run([], "loss") is None


def test_the_front_by_hand():
    points = [(1.0, 0.6), (2.0, 0.7), (2.0, 0.65), (4.0, 0.7), (8.0, 0.9)]
    assert pareto_front(points, "reward_accuracy") == (True, True, False, False, True)
    losses = [(1.0, 0.6), (2.0, 0.7), (4.0, 0.5)]
    assert pareto_front(losses, "loss") == (True, False, True)
    assert pareto_front([(1.0, 0.5), (1.0, 0.5)], "loss") == (True, True), "equals do not beat"


NUMBERS = st.integers(0, 5).map(float)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12))
def test_what_is_not_on_the_front_is_beaten_by_something_that_is(points):
    kept = pareto_front(points, "reward_accuracy")
    front = [point for point, on in zip(points, kept, strict=True) if on]
    assert front
    for epsilon, value in points:
        assert any(e <= epsilon and v >= value for e, v in front)
    assert all(not (a[0] <= b[0] and a[1] >= b[1] and a != b) for a in front for b in front)
