"""Whole runs through every layer, small enough for seconds."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from accounting import Adversary
from privfed_dpo.assembly import assemble
from privfed_dpo.dpo.evaluate import evaluate_preferences
from privfed_dpo.engine.contribution import Contributor
from privfed_dpo.engine.drift_state import Departure
from privfed_dpo.engine.events import PhaseClosed, RoundFinished, RunFinished
from privfed_dpo.engine.lanes import LaneRecord
from privfed_dpo.errors import ConfigError, PlanRefused, RunAborted, RunDiverged
from privfed_dpo.lifecycle import plan, resume, train
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.sweep.outcome import failed_result, failure_of, run_result
from privfed_dpo.verification import verify_run
from tests.support.entropy import counted_entropy
from tests.support.tiny_run import tiny_config

METRICS_KEYS = {
    "round", "epsilon", "epsilon_rdp", "epsilon_realised", "loss", "reward_accuracy",
    "reward_margin", "kl", "grad_norm_sq", "heterogeneity", "drift", "clip_fraction", "cohort",
    "survivors", "upload_bytes", "download_bytes", "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One distributed run with what its observers saw."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    seen = []
    config = tiny_config(folder)
    assert train(config, observers=[seen.append]) == folder
    return config, folder, seen


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_the_run_folder_holds_the_contract(finished):
    _, folder, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.yaml", "environment.json", "metrics.jsonl", "ledger.jsonl", "summary.json",
        "adapter", "report.html", "checkpoint", "plan.json",
    }  # fmt: skip
    rows = rows_of(folder)
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        assert row.keys() >= METRICS_KEYS
    summary = summary_of(folder)
    assert summary["status"] == "finished"
    assert set(summary["epsilon"]) == {a.value for a in Adversary}
    assert "Not protected" in summary["statement"]


def test_training_starts_at_ln_2_and_one_half(finished):
    _, folder, _ = finished
    start = rows_of(folder)[0]
    assert start["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert start["reward_accuracy"] == 0.5
    assert start["reward_margin"] == 0.0
    assert start["kl"] == pytest.approx(0.0, abs=1e-9)
    assert start["epsilon"] == 0.0


def test_epsilon_grows_by_the_round_and_ends_within_the_target(finished):
    config, folder, _ = finished
    spent = [row["epsilon"] for row in rows_of(folder)]
    assert spent == sorted(spent)
    assert spent[-1] <= config.privacy.target_epsilon
    assert spent[-1] > 0.99 * config.privacy.target_epsilon
    last = rows_of(folder)[-1]
    assert last["epsilon_realised"] < last["epsilon_rdp"], "everyone survived: more noise than sold"


def test_events_tell_the_same_story_as_the_folder(finished):
    _, folder, seen = finished
    finished_rows = [e.row.round for e in seen if isinstance(e, RoundFinished)]
    assert finished_rows == [0, 1, 2, 3]
    assert sum(isinstance(e, PhaseClosed) for e in seen) == 15
    (end,) = [e for e in seen if isinstance(e, RunFinished)]
    assert end.summary["ledger_head"] == summary_of(folder)["ledger_head"]


def test_the_adapter_loads_in_peft_and_scores_the_same(finished):
    config, folder, _ = finished
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    reloaded = Adapter(PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True))
    assembly = assemble(config)
    held_out = assembly.held_out
    metrics, _ = evaluate_preferences(
        reloaded, held_out.pairs, held_out.reference, beta=config.dpo.beta
    )
    final = rows_of(folder)[-1]
    assert metrics.loss == pytest.approx(final["loss"], rel=1e-5)
    assert metrics.reward_margin == pytest.approx(final["reward_margin"], rel=1e-4, abs=1e-6)
    assert torch.count_nonzero(torch.from_numpy(reloaded.read())) > 0


def test_a_stranger_verifies_the_run(finished):
    _, folder, _ = finished
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    claimed = summary_of(folder)["epsilon"]["coalition"]["pld"]
    assert verdict.epsilon[Adversary.COALITION].pld == pytest.approx(claimed, rel=1e-9)


def test_clients_vouch_for_every_round_and_no_key_is_left_behind(finished):
    _, folder, _ = finished
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert all(line["signature"] for line in lines)
    outcomes = [line["body"] for line in lines if line["kind"] == "outcome"]
    assert [set(body["receipts"]) for body in outcomes] == [
        set(body["survivors"]) for body in outcomes
    ]
    assert not list(folder.rglob("*secret*"))


@pytest.mark.parametrize("mode", ["local", "none"])
def test_several_local_steps(tmp_path, mode):
    config = tiny_config(
        tmp_path / mode,
        f"privacy.mode={mode}",
        "federation.local_steps=2",
        "federation.rounds=2",
        "federation.server_optimizer=sgd",
        "federation.learning_rate=1.0",
        "federation.momentum=0",
    )
    folder = train(config)
    last = rows_of(folder)[-1]
    assert last["drift"] > 0
    assert summary_of(folder)["status"] == "finished"
    assert verify_run(folder).ok
    if mode == "none":
        assert last["epsilon"] is None
        assert "NO differential privacy" in summary_of(folder)["statement"]
    else:
        assert last["epsilon"] <= 8


def test_without_secure_aggregation_the_sum_is_the_same(tmp_path):
    """Same keys, same noise: masked sums equal plain sums bit for bit, so do the adapters."""
    common = ["privacy.mode=local", "federation.rounds=2"]
    vectors = []
    for name, enabled in (("masked", "true"), ("plain", "false")):
        config = tiny_config(tmp_path / name, *common, f"secure_agg.enabled={enabled}")
        assembly = assemble(config)
        contributors = [
            Contributor(assembly.plan, n, shard, assembly.source, issuer(n))
            for n, shard in enumerate(assembly.shards)
        ]
        start = assembly.adapter.read()
        vectors.append(sum_of(assembly, contributors, start, masked=enabled == "true"))
    assert np.array_equal(*vectors)


def issuer(number):
    from privfed_dpo.mechanism.keystream import StreamIssuer

    return StreamIssuer(counted_entropy(f"client-{number}"))


def sum_of(assembly, contributors, weights, *, masked):
    from privfed_dpo.engine.client import FederatedClient
    from privfed_dpo.engine.rounds import RoundCoordinator
    from privfed_dpo.wire.carrier import drive
    from privfed_dpo.wire.loopback import LoopbackCarrier
    from secure_agg import IdentityKey

    entropy = counted_entropy("keys")
    coordinator = IdentityKey.generate(entropy)
    identities = [IdentityKey.generate(entropy) for _ in contributors]
    roster = {n: identity.public for n, identity in enumerate(identities)}
    clients = {
        c.client: FederatedClient(
            contributor=c,
            run_id=b"r" * 16,
            identity=i,
            roster=roster,
            coordinator=coordinator.public,
            entropy=entropy,
        )
        for c, i in zip(contributors, identities, strict=True)
    }
    carrier = LoopbackCarrier({n: c.handle for n, c in clients.items()})
    assert assembly.plan.secure_aggregation is masked
    played = RoundCoordinator(
        plan=assembly.plan,
        run_id=b"r" * 16,
        round_number=1,
        cohort=roster,
        sign=coordinator.sign,
        observer=lambda _: None,
    )
    result = drive(played.script(Departure(weights)), carrier)
    assert len(result.survivors) == len(contributors)
    return result.total


def test_drop_outs_at_every_step_leave_a_correct_run(tmp_path):
    config = tiny_config(
        tmp_path / "run",
        "data.clients=9",
        "privacy.dropout_tolerance=3",
        "secure_agg.dropout_rate=0.15",
        "federation.rounds=6",
        "evaluation.gradient_pairs=0",
    )
    folder = train(config)
    rows = rows_of(folder)[1:]
    assert any(row["dropped"] for row in rows)
    assert all(row["survivors"] >= 6 for row in rows if row["status"] == "released")
    assert all(row["survivors"] == 0 for row in rows if row["status"] == "aborted")
    assert verify_run(folder).ok


def test_audit_lanes_show_included_canaries_and_the_planned_noise(tmp_path):
    config = tiny_config(
        tmp_path / "run", "evaluation.audit_lanes=900", "evaluation.gradient_pairs=0"
    )
    folder = train(config, entropy=counted_entropy("lanes"))
    plain = assemble(tiny_config(tmp_path / "other"))
    lanes = LaneRecord.from_arrays(np.load(folder / "audit_lanes.npz"))
    assert lanes.opened.shape == (3, 900)
    included, left_out = (
        lanes.opened[:, lanes.coins.included],
        lanes.opened[:, ~lanes.coins.included],
    )
    plan_facts = summary_of(folder)["plan"]
    sigma = plan_facts["share_noise_multiplier"] * np.sqrt(6)
    # 1,350 lane values on either side: five standard errors of a mean, of a variance.
    assert abs(included.mean() - 0.3) < 5 * np.hypot(sigma, 0.46) / np.sqrt(included.size)
    assert abs(left_out.mean()) < 5 * sigma / np.sqrt(left_out.size)
    assert abs(left_out.var() / sigma**2 - 1) < 5 * np.sqrt(2 / left_out.size)
    assert plan_facts["dimension"] == plain.plan.facts.dimension, "lanes are not trained"


def test_too_many_drop_outs_end_the_run_with_its_ledger(tmp_path):
    config = tiny_config(tmp_path / "run", "secure_agg.dropout_rate=0.95", "federation.rounds=20")
    with pytest.raises(RunAborted) as caught:
        train(config)
    assert caught.value.exit_code == 4
    assert summary_of(tmp_path / "run")["status"] == "aborted"
    assert verify_run(tmp_path / "run").ok


def test_the_budget_stops_the_run_and_keeps_the_model(tmp_path):
    config = tiny_config(
        tmp_path / "run", "privacy.noise_multiplier=0.9", "privacy.target_epsilon=5",
        "federation.rounds=30", "evaluation.every=10", "evaluation.gradient_pairs=0",
    )  # fmt: skip
    folder = train(config)
    summary = summary_of(folder)
    assert summary["status"] == "budget_spent"
    assert summary["epsilon"]["coalition"]["pld"] <= 5
    assert 0 < summary["rounds_done"] < 30
    rows = rows_of(folder)
    assert summary["final"]["round"] == rows[-1]["round"] == len(rows) - 1
    assert summary["final"]["reward_accuracy"] == rows[-1]["reward_accuracy"] is not None
    assert verify_run(folder).ok
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert verify_run(folder).ok


def test_a_used_folder_is_refused_before_any_compute(finished):
    config, folder, _ = finished
    with pytest.raises(ConfigError, match="not an empty folder"):
        train(config)
    assert verify_run(folder).ok


def test_impossible_plans_are_refused(tmp_path):
    config = tiny_config(tmp_path / "a")
    federation = config.federation.model_copy(update={"cohort": 9})
    with pytest.raises(PlanRefused, match="more than the 6 clients"):
        plan(config.model_copy(update={"federation": federation}))
    with pytest.raises(PlanRefused, match="no noise meets epsilon"):
        plan(tiny_config(tmp_path / "b", "privacy.target_epsilon=1e-13"))


def test_users_that_differ_stand_beside_what_is_attainable(tmp_path):
    folder = train(
        tiny_config(
            tmp_path / "run",
            "privacy.mode=none",
            "data.heterogeneity=0",
            "data.synthetic.opposed_share=0.5",
            "data.synthetic.verdict=own",
        )
    )
    known = summary_of(folder)["heterogeneity"]
    assert known["zeta_sq"] == rows_of(folder)[-1]["heterogeneity"] > 0
    assert known["disagreement_of"] == "own reward weights"
    assert known["pairwise_disagreement"] == pytest.approx(2 * 3 * 3 / (6 * 5))
    assert known["dials"]["opposed_share"] == 0.5
    attainable = known["bayes_accuracy"]
    assert attainable["own"]["mean"] == pytest.approx(1.0)
    assert attainable["groups"]["mean"] == pytest.approx(1.0)
    assert attainable["shared"]["mean"] == pytest.approx(0.5)
    text = (folder / "report.html").read_text()
    assert "best attainable, one rule for each group" in text
    assert "dial: opposed share" in text


def test_a_run_that_diverges_ends_tidily_and_spends_no_more(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(RunDiverged, match=r"federation\.learning_rate is too large") as caught:
        train(tiny_config(folder, "federation.learning_rate=1e30"))
    assert caught.value.exit_code == 1
    summary = summary_of(folder)
    assert (summary["status"], summary["rounds_done"]) == ("diverged", 1)
    assert (summary["final"]["round"], summary["final"]["loss"]) == (1, None)
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert "federation.learning_rate is too large" in (folder / "report.html").read_text()
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    assert verdict.rounds == 1
    with pytest.raises(ConfigError, match="ended with status diverged"):
        resume(folder)
    result = failed_result(folder, "run", *failure_of(caught.value))
    assert (result["status"], result["exit_code"]) == ("diverged", 1)
    with pytest.raises(RunDiverged):
        run_result(folder, "run")
