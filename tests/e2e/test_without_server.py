"""Whole runs without a server: trained, checked by a stranger, killed and resumed."""

import json
import math

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from accounting import Adversary
from privfed_dpo.engine.events import PhaseClosed, RoundFinished
from privfed_dpo.errors import DataError, PlanRefused
from privfed_dpo.lifecycle import plan, resume, train
from privfed_dpo.verification import verify_run
from tests.e2e.test_interruption import Stop, kill_at, ledger_of, rows_of
from tests.support.tiny_run import tiny_config

NO_SERVER = (
    "privacy.mode=gossip",
    "secure_agg.enabled=false",
    "privacy.dropout_tolerance=0",
    "privacy.colluders=0",
    "federation.learning_rate=0.01",
    "federation.local_learning_rate=0.5",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three rounds of six nodes on a path with faults."""
    folder = tmp_path_factory.mktemp("gossip") / "run"
    faults = ("gossip.link_dropout=0.2", "gossip.node_dropout=0.1", "gossip.topology=path")
    return train(tiny_config(folder, *NO_SERVER, *faults, "federation.local_steps=2"))


def test_the_run_verifies_against_every_other_node(finished):
    verdict = verify_run(finished)
    assert verdict.ok, verdict.problems
    assert verdict.rounds == 3
    assert verdict.epsilon[Adversary.COALITION] == verdict.epsilon[Adversary.NO_SECAGG]
    assert 0 < verdict.epsilon[Adversary.COALITION].pld <= 8
    summary = json.loads((finished / "summary.json").read_text())
    assert "mode gossip" in summary["statement"]
    assert "all other nodes together" in summary["statement"]
    assert summary["status"] == "finished"


def test_rows_hold_what_a_graph_adds_and_start_at_the_reference(finished):
    start, *rows = rows_of(finished)
    assert start["loss"] == pytest.approx(math.log(2), abs=1e-6)
    for row in rows:
        assert 0 < row["consensus_error"] <= row["consensus_error_before"] * (1 + 1e-9)
        assert row["consensus_predicted"] > 0
        assert 0 <= row["spectral_gap"] < 1
        assert 0 <= row["client_accuracy_min"] <= row["client_accuracy_mean"] <= 1
        assert row["drift"] > 0
        assert row["upload_bytes"] > 0
        assert row["epsilon"] <= 8


def test_the_released_adapter_is_the_mean_of_what_nodes_hold(finished):
    with (finished / "checkpoint" / "state.npz").open("rb") as file:
        file.seek(32)
        arrays = dict(np.load(file))
    scale = 2.0 ** (32 + 16)
    mean = arrays["nodes_values"].astype(np.longdouble).mean(axis=0) / scale
    assert np.allclose(arrays["weights"], mean.astype(float), atol=1e-10)
    base = AutoModelForCausalLM.from_pretrained(finished / "base")
    model = PeftModel.from_pretrained(base, finished / "adapter", is_trainable=True)
    loaded = [p for p in model.parameters() if p.requires_grad]
    flat = np.concatenate([p.detach().numpy().ravel() for p in loaded])
    assert np.allclose(np.sort(flat), np.sort(arrays["weights"].astype(np.float32)))


def test_the_report_tells_of_neighbours(finished):
    report = (finished / "report.html").read_text(encoding="utf-8")
    assert "Disagreement between nodes" in report
    assert "all other nodes together" in report
    assert "none: nodes average with neighbours" in report
    assert "NOT certified" in report
    network = json.loads((finished / "summary.json").read_text())["network_privacy"]
    epsilon = json.loads((finished / "summary.json").read_text())["epsilon"]["coalition"]["pld"]
    assert [pair["distance"] for pair in network["by_distance"]] == [1, 2, 3, 4, 5]
    assert all(pair["epsilon"] <= epsilon * (1 + 1e-6) for pair in network["by_distance"])


def test_the_baseline_has_no_epsilon(tmp_path):
    config = tiny_config(
        tmp_path / "run",
        *NO_SERVER,
        "privacy.mode=none",
        "privacy.target_epsilon=null",
        "gossip.enabled=true",
        "gossip.order=cta",
        "gossip.topology=complete",
        "federation.rounds=2",
        "evaluation.every=2",
    )
    rows = rows_of(train(config))
    assert [row["epsilon"] for row in rows] == [None] * 3
    assert rows[1]["consensus_error"] is None, "only what was due is measured"
    assert rows[2]["consensus_error"] < rows[2]["consensus_error_before"]
    assert rows[2]["consensus_predicted"] is None
    verdict = verify_run(tmp_path / "run")
    assert verdict.ok, verdict.problems


@pytest.mark.parametrize(
    ("kind", "number", "phase", "lost"),
    [
        ("PhaseClosed", 2, "Acknowledge", {2}),
        pytest.param("RoundFinished", 2, "", set(), marks=pytest.mark.slow),
    ],
)
def test_kill_9_then_resume(tmp_path, kind, number, phase, lost):
    folder = tmp_path / "run"
    kill_at(tiny_config(folder, *NO_SERVER), kind, number, phase)
    assert verify_run(folder).ok
    resume(folder)
    spends = [line["body"]["round"] for line in ledger_of(folder) if line["kind"] == "spend"]
    assert spends == [1, 2, 3]
    rows = rows_of(folder)
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert {row["round"] for row in rows if row["status"] == "lost"} == lost
    assert verify_run(folder).ok


def test_an_interrupted_node_goes_on_where_it_was(tmp_path):
    """What nodes hold after a resume is what the last whole round left, not the start."""
    config = tiny_config(tmp_path / "run", *NO_SERVER, "federation.local_learning_rate=2")
    held = {}

    def remember(event):
        if isinstance(event, RoundFinished):
            held[event.row.round] = event.row.loss

    stop = Stop(lambda e: isinstance(e, PhaseClosed) and (e.round, e.phase) == (3, "Adapt"))
    with pytest.raises(KeyboardInterrupt):
        train(config, observers=[remember, stop])
    resume(tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert [row["loss"] for row in rows[:3]] == [held[n] for n in range(3)]
    assert rows[3]["status"] == "lost"
    assert verify_run(tmp_path / "run").ok


def test_links_come_from_a_file(tmp_path):
    links = tmp_path / "links.txt"
    links.write_text("0 1\n1 2\n2 3\n3 4\n4 5\n5 0\n0 3\n")
    wanted = (*NO_SERVER, "gossip.topology=file", f"gossip.links_file={links}")
    facts = plan(tiny_config(tmp_path / "run", *wanted)).describe()["gossip"]
    assert (facts["links"], facts["degree_max"], facts["topology"]) == (7, 3, "file")
    links.write_text("0 1\n2 3\n4 5\n")
    with pytest.raises(PlanRefused, match="falls into parts"):
        plan(tiny_config(tmp_path / "run", *wanted))
    links.unlink()
    with pytest.raises(DataError, match="links cannot be read"):
        plan(tiny_config(tmp_path / "run", *wanted))


MASKED = ("gossip.masked=true", "gossip.topology=complete")


def test_masked_sums_train_to_the_end_and_resume(tmp_path):
    """Killed between two phases of the secure sums; masks and noise are drawn anew."""
    folder = tmp_path / "run"
    config = tiny_config(folder, *NO_SERVER, *MASKED, "gossip.node_dropout=0.1")
    kill_at(config, "PhaseClosed", 2, "MaskedInput")
    assert verify_run(folder).ok
    resume(folder)
    rows = rows_of(folder)
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert {row["round"] for row in rows if row["status"] == "lost"} == {2}
    assert rows[1]["consensus_error"] < rows[1]["consensus_error_before"]
    for row in (rows[1], rows[3]):
        assert row["consensus_error"] <= row["consensus_error_before"]
        assert row["upload_bytes"] > row["survivors"] * 4 * 8
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    facts = json.loads((folder / "plan.json").read_text())
    assert [c["smallest_mixture"] for c in facts["gossip"]["masking"]["coalitions"]] == [5, 4]
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "a node learns only the sum of its neighbours" in report
    assert "at least 5 stay mixed" in report


def test_masking_changes_what_nodes_see_and_not_epsilon(tmp_path):
    plain = plan(tiny_config(tmp_path / "a", *NO_SERVER, "gossip.topology=complete"))
    masked = plan(tiny_config(tmp_path / "b", *NO_SERVER, *MASKED))
    assert masked.epsilons == plain.epsilons
    assert masked.describe()["gossip"]["masking"]["coalitions"][0]["single_nodes_learned"] == []
    with pytest.raises(PlanRefused, match="hides too little"):
        plan(tiny_config(tmp_path / "c", *NO_SERVER, "gossip.masked=true"))
