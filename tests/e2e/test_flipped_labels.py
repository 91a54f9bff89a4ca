"""Runs whose labels are flipped once: what is promised, what is kept, what a stranger finds."""

import json
import shutil

import numpy as np
import pytest

from accounting import label_cost
from privfed_dpo.assembly import assemble
from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.errors import ConfigError, DataError, ResumeMismatch
from privfed_dpo.label_secret import LABELS_FILE, LabelSecret
from privfed_dpo.lifecycle import plan, resume, train
from privfed_dpo.verification import verify_run
from tests.support.tiny_run import tiny_config

SECRET = LabelSecret(b"s" * 32)
KEYS = ("privacy.label_epsilon=1.0", "federation.rounds=2")


class Stop(Exception):
    pass


def stop_after(round_number):
    def observer(event):
        if isinstance(event, RoundFinished) and event.row.round == round_number:
            raise Stop

    return observer


def exchanged(shards, plain):
    """Which pairs stand in the other order than in the data."""
    flips = []
    for shard, raw in zip(shards, plain, strict=True):
        for pair, true in zip(shard.pairs, raw.pairs, strict=True):
            same = pair == true
            assert same or (pair.chosen, pair.rejected) == (true.rejected, true.chosen)
            flips.append(not same)
    return np.array(flips)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("labels")


@pytest.fixture(scope="module")
def interrupted(home):
    """A run stopped after its first round, with the pairs it was trained on."""
    folder = home / "interrupted"
    with pytest.raises(Stop):
        train(tiny_config(folder, *KEYS), observers=[stop_after(1)])
    return folder


def test_labels_are_flipped_for_training_alone_and_the_loss_makes_up_for_it(home):
    config = tiny_config(home / "none", "privacy.label_epsilon=1.0")
    plain = assemble(tiny_config(home / "none"))
    found = assemble(config, labels=SECRET)
    flips = exchanged(found.shards, plain.shards)
    # 72 pairs at p = 0.269; 5 standard deviations. The same secret gives the same flips.
    assert 0.01 < flips.mean() < 0.54
    again = assemble(config, labels=SECRET)
    assert np.array_equal(exchanged(again.shards, plain.shards), flips)
    assert again.data_fingerprint == found.data_fingerprint != plain.data_fingerprint
    assert found.held_out.pairs == plain.held_out.pairs
    p = found.plan.schedule.labels.flip_probability
    assert p == pytest.approx(1 / (1 + np.e))
    assert (found.gradients.loss.kind, found.gradients.loss.label_smoothing) == ("robust", p)
    assert found.plan.objective["loss"] == "robust"
    with pytest.raises(DataError, match="needs a secret"):
        assemble(config)


def test_wrong_labels_of_the_data_and_flips_add_up(home):
    keys = ("dpo.loss=robust", "dpo.label_smoothing=0.1", "privacy.label_epsilon=1.0")
    objective = plan(tiny_config(home / "none", *keys)).objective
    p = 1 / (1 + np.e)
    assert objective["label_smoothing"] == pytest.approx(p * 0.9 + 0.1 * (1 - p))


@pytest.mark.parametrize("keys", [("dpo.loss=ipo",), ("dpo.label_smoothing=0.1",)])
def test_a_loss_that_cannot_make_up_for_flips_is_refused(home, keys):
    with pytest.raises(ConfigError, match="cannot make up for"):
        tiny_config(home / "none", "privacy.label_epsilon=1.0", *keys)


def test_an_interrupted_run_goes_on_with_the_flips_it_began_with(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    secret = folder / "checkpoint" / LABELS_FILE
    assert secret.stat().st_mode & 0o077 == 0
    resume(folder)  # other flips would be other data, which resume refuses
    assert verify_run(folder).ok
    assert not secret.exists(), "it is nobody's business after the end"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["label"]["pure"] == pytest.approx(1.0, rel=1e-9)
    assert "flipped once with probability 0.268941" in summary["statement"]
    assert "flipped once with probability 0.268941" in (folder / "report.html").read_text()


def test_no_label_is_ever_flipped_anew(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    secret = folder / "checkpoint" / LABELS_FILE
    secret.unlink()
    with pytest.raises(ResumeMismatch, match="label secret"):
        resume(folder)
    secret.write_bytes(b"x" * 32)
    with pytest.raises(ResumeMismatch, match="the data"):
        resume(folder)


def test_labels_alone_are_a_promise_without_noise(home):
    folder = home / "labels-alone"
    config = tiny_config(
        folder, *KEYS, "privacy.mode=none", "privacy.target_epsilon=null",
        "evaluation.audit_held_back=2",
    )  # fmt: skip
    train(config)
    assert verify_run(folder).ok
    assert (folder / "checkpoint" / LABELS_FILE).is_file(), "the auditor needs it"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epsilon"]["coalition"]["pld"] is None
    assert (summary["label"]["epsilon"], summary["label"]["delta"]) == (summary["label"]["pure"], 0)
    assert "NO differential privacy for pairs" in summary["statement"]
    assert "One label against everybody: epsilon = 1.0" in summary["statement"]
    summary["label"]["pure"] = 0.5
    (folder / "summary.json").write_text(json.dumps(summary))
    assert any("0.5 for a label" in problem for problem in verify_run(folder).problems)


def test_noise_adds_to_what_a_label_is_promised(home):
    found = plan(tiny_config(home / "none", *KEYS, "privacy.target_epsilon=0.2"))
    unit = found.epsilons[found.schedule.headline].pld
    cost = label_cost(found.schedule.labels, unit, found.delta)
    assert cost.epsilon < 0.25 < cost.pure
    assert 0 < cost.delta < 3 * found.delta
