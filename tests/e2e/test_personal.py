"""Adapters that clients keep: trained as stated, apart from the shared one, and named not private."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from privfed_dpo.config import PersonalConfig
from privfed_dpo.dpo.label_privacy import _exchanged
from privfed_dpo.engine.contribution import PrivateShard
from privfed_dpo.errors import ConfigError, InputNotice
from privfed_dpo.lifecycle import reopen, train
from privfed_dpo.personal import compare_clients, fit_personal
from privfed_dpo.server_update import ServerState, ServerUpdate
from privfed_dpo.solo import PulledUpdate, run_optimizer, train_alone
from privfed_dpo.verification import verify_run
from tests.support.entropy import counted_entropy
from tests.support.tiny_run import tiny_config

DIALS = ("data.heterogeneity=0", "data.synthetic.opposed_share=0.5", "data.synthetic.verdict=own")
EVERYTHING = (
    "personal.enabled=true",
    "personal.steps=4",
    "personal.keep=true",
    "evaluation.references=[local_only, centralised]",
    "evaluation.compared_clients=3",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run twice, the second with everything compared."""
    folder = tmp_path_factory.mktemp("runs")
    plain = train(tiny_config(folder / "plain", *DIALS), entropy=counted_entropy("personal"))
    compared = train(
        tiny_config(folder / "compared", *DIALS, *EVERYTHING), entropy=counted_entropy("personal")
    )
    return plain, compared


@pytest.fixture(scope="module")
def assembly(runs):
    return reopen(runs[0])


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_what_is_released_does_not_depend_on_personal_adapters(runs):
    plain, compared = (summary_of(folder) for folder in runs)
    assert plain["adapter_sha256"] == compared["adapter_sha256"]
    assert plain["epsilon"] == compared["epsilon"]
    assert plain["final"]["reward_accuracy"] == compared["final"]["reward_accuracy"]
    assert verify_run(runs[1]).ok


def test_nothing_is_compared_unless_asked(runs):
    assert summary_of(runs[0])["comparison"] is None
    assert summary_of(runs[0])["not_compared"] is None
    assert not (runs[0] / "clients").exists()
    page = (runs[0] / "report.html").read_text()
    assert "Not computed: personal adapters, local-only adapters, a centralised adapter" in page
    assert "no epsilon covers them" not in page


def test_every_arm_is_measured_and_named_not_private(runs):
    comparison = summary_of(runs[1])["comparison"]
    arms = comparison["arms"]
    assert list(arms) == ["shared", "personal", "local_only", "centralised"]
    for arm in arms.values():
        values = list(arm["per_client"].values())
        assert len(values) == 3
        assert arm["mean"] == pytest.approx(np.mean(values))
        assert arm["min"] == min(values)
        gap = arms["shared"]["mean"] - arm["mean"]
        assert arm["shared_minus_this"] == pytest.approx(gap)
    assert set(comparison["personal_steps"]) == set(arms["personal"]["per_client"])
    page = (runs[1] / "report.html").read_text()
    assert "no epsilon covers them" in page
    assert "Accuracy by client and kind of adapter" in page


def test_kept_adapters_lie_apart_from_the_released_one(runs):
    shared = load_file(runs[1] / "adapter" / "adapter_model.safetensors")
    steps = summary_of(runs[1])["comparison"]["personal_steps"]
    folders = sorted((runs[1] / "clients").iterdir())
    assert [int(folder.name) for folder in folders] == [int(name[-3:]) for name in sorted(steps)]
    for folder, name in zip(folders, sorted(steps), strict=True):
        own = load_file(folder / "adapter_model.safetensors")
        moved = any(not np.array_equal(own[key], shared[key]) for key in shared)
        assert moved is (steps[name] > 0)


def test_one_step_is_the_mean_clipped_gradient(assembly):
    """Against plain numpy over the pair gradients: clip each, add, divide, step."""
    shard, start, bound = assembly.shards[0], assembly.start, assembly.plan.max_grad_norm
    assembly.adapter.write(start)
    rows = np.concatenate(
        [rows.double().numpy() for rows in assembly.gradients(shard.pairs, shard.reference)]
    )
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    mean = (rows * np.minimum(1.0, bound / norms)).mean(axis=0)
    stepped = train_alone(
        assembly,
        shard,
        start=start,
        steps=1,
        sample_rate=1.0,
        update=ServerUpdate("sgd", 0.7, 0.0),
        entropy=secrets.token_bytes,
    )
    assert np.allclose(stepped, start - 0.7 * mean, atol=2e-6)
    assert not np.allclose(stepped, start - 0.6 * mean, atol=2e-6)


def test_the_pull_is_the_gradient_of_half_the_squared_distance():
    anchor, weights = np.array([1.0, -2.0]), np.array([3.0, 1.0], np.float32)
    update = PulledUpdate("sgd", 0.5, 0.0, anchor=anchor, pull=0.1)
    stepped = update.apply(ServerState.start(weights), np.array([1.0, 1.0]))
    assert stepped.weights == pytest.approx([3 - 0.5 * (1 + 0.2), 1 - 0.5 * (1 + 0.3)])


def test_a_stronger_pull_stays_nearer(assembly):
    start = assembly.start
    distances = []
    for pull in (0.0, 1.0, 10.0):
        own = train_alone(
            assembly,
            assembly.shards[0],
            start=start,
            steps=6,
            sample_rate=1.0,
            update=PulledUpdate("sgd", 0.1, 0.0, anchor=start.astype(np.float64), pull=pull),
            entropy=secrets.token_bytes,
        )
        distances.append(float(np.linalg.norm(own - start)))
    assert distances[0] > 1.2 * distances[1] > 1.2 * distances[2] > 0


@pytest.mark.parametrize(("contradicted", "kept"), [(False, 3), (True, 0)])
def test_steps_are_kept_only_while_they_help_on_pairs_kept_out(assembly, contradicted, kept):
    """One judgement ten times; those kept out repeat it, or say the opposite."""
    pair, reference = assembly.shards[0].pairs[0], assembly.shards[0].reference[:1]
    kept_out = np.random.default_rng([0, 0, 0xD177]).permutation(10)[:4]
    against = [contradicted and place in kept_out for place in range(10)]
    shard = PrivateShard(
        pairs=tuple(_exchanged(pair) if other else pair for other in against),
        reference=np.concatenate([reference[:, ::-1] if other else reference for other in against]),
    )
    personal = PersonalConfig(enabled=True, steps=3, proximal=0.0, validation_share=0.4)
    one = replace(
        assembly,
        shards=(shard, *assembly.shards[1:]),
        config=assembly.config.model_copy(update={"personal": personal}),
    )
    own = fit_personal(one, 0, assembly.start, entropy=secrets.token_bytes)
    assert own.steps == kept
    assert np.array_equal(own.weights, assembly.start) is (kept == 0)


def test_a_client_with_too_few_pairs_keeps_the_shared_adapter(assembly):
    shard = assembly.shards[0]
    two = PrivateShard(pairs=shard.pairs[:2], reference=shard.reference[:2])
    small = replace(assembly, shards=(two, *assembly.shards[1:]))
    own = fit_personal(small, 0, assembly.start, entropy=secrets.token_bytes)
    assert own.steps == 0
    assert np.array_equal(own.weights, assembly.start)


def test_nothing_can_be_compared_without_the_clients_pairs(assembly, tmp_path):
    wanted = assembly.config.model_copy(update={"personal": PersonalConfig(enabled=True)})
    elsewhere = replace(assembly, config=wanted, shards=())
    found = compare_clients(elsewhere, assembly.start, tmp_path, entropy=secrets.token_bytes)
    assert found is None


def test_a_deployment_refuses_what_needs_the_clients_pairs(tmp_path):
    elsewhere = (
        "deployment.roster=roster.yaml", "data.train=pairs.jsonl", "data.eval=held_out.jsonl",
        "model.base=somewhere",
    )  # fmt: skip
    tiny_config(tmp_path / "run", *elsewhere)
    for asked in ("personal.enabled=true", "evaluation.references=[local_only]"):
        with pytest.raises(ConfigError, match="never leave their clients"):
            tiny_config(tmp_path / "run", *elsewhere, asked)


def test_local_steps_without_a_server_step_keep_their_own_size(tmp_path):
    local = ("privacy.mode=local", "federation.local_steps=2", "federation.local_learning_rate=0.3")
    rule = run_optimizer(tiny_config(tmp_path / "run", *local))
    assert (rule.kind, rule.learning_rate, rule.momentum) == ("sgd", 0.3, 0.0)
    rule = run_optimizer(tiny_config(tmp_path / "run"))
    assert (rule.kind, rule.learning_rate, rule.momentum) == ("adam", 0.005, 0.9)


def test_users_who_are_no_clients_are_not_counted_as_clients_and_nothing_is_compared(tmp_path):
    config = tiny_config(
        tmp_path / "run",
        "data.pairs_per_client=8",
        "data.clients=4",
        "data.partition=iid",
        "federation.rounds=1",
        "model.warmup_steps=2",
        "personal.enabled=true",
        "evaluation.references=[local_only, centralised]",
    )
    with pytest.warns(InputNotice, match="No held-out pair belongs to any client"):
        folder = train(config)
    summary = summary_of(folder)
    assert summary["per_client"] is None
    assert summary["final"]["heterogeneity"] is None
    assert summary["final"]["grad_norm_sq"] > 0
    assert summary["comparison"] is None
    assert summary["not_compared"] == "no held-out pair belongs to any client"
    page = (folder / "report.html").read_text()
    assert "the shared adapter, all clients" not in page
    assert "none was: no held-out pair belongs to any client." in page
    assert "Set personal.enabled" not in page
