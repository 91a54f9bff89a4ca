"""The audit of real runs: what it finds, keeps, leaves alone, and when it fails."""

import json

import numpy as np
import pytest

from accounting import Adjacency, Adversary
from privfed_dpo.assembly import assemble
from privfed_dpo.audit.pair_canaries import COINS_FILE, PairCoins, canary_slots
from privfed_dpo.audit.run_audit import audit_run
from privfed_dpo.engine.events import RoundFinished
from privfed_dpo.errors import DataError
from privfed_dpo.lifecycle import reopen, resume, train
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.publishing import publish
from privfed_dpo.verification import verify_run
from tests.support.command_line import caller
from tests.support.entropy import counted_entropy
from tests.support.tiny_run import tiny_config

AUDITED = (
    "evaluation.audit_lanes=600",
    "evaluation.audit_pairs=20",
    "evaluation.audit_held_back=4",
    "evaluation.gradient_pairs=0",
    "evaluation.every=3",
    "privacy.noise_multiplier=1.2",
)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """One run with every kind of canary, and its audit."""
    folder = tmp_path_factory.mktemp("audit") / "run"
    train(tiny_config(folder, *AUDITED), entropy=counted_entropy("audit"))
    before = json.loads((folder / "summary.json").read_text())
    return folder, before, audit_run(folder, reopen)


@pytest.fixture
def command(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


def test_every_kind_of_canary_is_judged_against_the_claim_it_tests(audited):
    _, summary, findings = audited
    claims = {
        adversary: summary["epsilon"][adversary.value]["pld"]
        for adversary in (Adversary.SERVER, Adversary.OUTSIDE)
    }
    kinds = {(judged.canaries, judged.bound.method) for judged in findings.bounds}
    assert kinds == {
        *(("lanes", method) for method in (
            "one_run", "one_run_gaussian", "rates", "rates_gaussian", "gaussian_fit"
        )),
        ("pairs in/out", "one_run"),
        ("pairs in/out", "one_run_gaussian"),
    }  # fmt: skip
    for judged in findings.bounds:
        assert judged.certified == pytest.approx(claims[judged.adversary], rel=1e-9)
        assert judged.adjacency is Adjacency.ZERO_OUT
        assert judged.bound.delta == summary["delta"]
    lanes = [judged for judged in findings.bounds if judged.canaries == "lanes"]
    assert all(judged.as_run < judged.certified for judged in lanes), "everyone survived"
    assert max(judged.bound.epsilon for judged in lanes) > 0.5, "600 lanes see something"


def test_what_is_kept_is_enough_to_recompute_and_disturbs_nothing(audited):
    folder, before, findings = audited
    kept = json.loads((folder / "audit.json").read_text())
    after = json.loads((folder / "summary.json").read_text())
    assert kept == json.loads(json.dumps(findings.as_dict()))
    assert after == {**before, "audit": kept}
    with np.load(folder / "audit_scores.npz") as scores:
        assert scores["lane_scores"].shape == scores["lane_coins"].shape == (600,)
        assert scores["pair_scores"].shape == scores["pair_coins"].shape == (20,)
        coins = PairCoins.load(folder / COINS_FILE)
        assert np.array_equal(scores["pair_coins"], coins.heads)
        highest = np.argsort(-scores["pair_scores"], kind="stable")
    (judged,) = [b.bound for b in findings.bounds if b.canaries != "lanes"][:1]
    assert judged.correct == coins.heads[highest[: judged.guesses]].sum()
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems


def test_membership_compares_pairs_of_the_same_clients(audited):
    _, _, findings = audited
    canaries, members = findings.membership
    assert "canaries" in canaries.about
    assert canaries.members + canaries.others == 20
    assert (members.members, members.others) == (6 * (12 - 4), 6 * 4)
    assert 0 <= members.auc <= 1
    assert any("of all records" in note for note in findings.notes), "29 % canaries are said aloud"


def test_a_run_is_published_with_its_audit_unless_that_scored_pairs_of_clients(audited, tmp_path):
    with pytest.raises(DataError, match="holds audit: figures of private pairs"):
        publish(audited[0], tmp_path / "refused")
    canaries_only = [word for word in AUDITED if "held_back" not in word]
    folder = tmp_path / "run"
    train(tiny_config(folder, "federation.rounds=1", *canaries_only))
    assert {bound.canaries for bound in audit_run(folder, reopen).bounds} == {
        "lanes", "pairs in/out"
    }  # fmt: skip
    there = publish(folder, tmp_path / "published") / "run"
    kept = json.loads((folder / "audit.json").read_text())
    assert json.loads((there / "summary.json").read_text())["audit"] == kept
    assert not list(there.rglob("audit_scores.npz"))


def test_the_command_prints_keeps_and_reports(audited, command):
    folder, _, findings = audited
    ended = command("audit", folder)
    assert ended.code == (1 if findings.verdict == "fail" else 0)
    for part in ("Gaussian fit", "pairs in/out", "certified", "membership"):
        assert part in ended.out
    assert json.loads(command("audit", folder, "--json").out)["bounds"]
    assert "epsilon at least" in (folder / "report.html").read_text()


def test_changed_coins_are_noticed(audited):
    folder, _, _ = audited
    kept = (folder / COINS_FILE).read_bytes()
    try:
        coins = PairCoins.load(folder / COINS_FILE)
        PairCoins(coins.form, ~coins.heads).save(folder / COINS_FILE)
        assert any("audit_pairs.npz" in problem for problem in verify_run(folder).problems)
        with pytest.raises(Exception, match="data"):
            audit_run(folder, reopen)
    finally:
        (folder / COINS_FILE).write_bytes(kept)


def test_an_interrupted_run_keeps_its_coins_and_is_audited_as_a_whole(tmp_path):
    folder = tmp_path / "run"

    def stop(event):
        if isinstance(event, RoundFinished) and event.row.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(folder, *AUDITED), observers=[stop])
    coins = PairCoins.load(folder / COINS_FILE)
    resume(folder)
    assert np.array_equal(PairCoins.load(folder / COINS_FILE).heads, coins.heads)
    findings = audit_run(folder, reopen)
    assert len(findings.bounds) == 7
    assert verify_run(folder).ok


def test_lanes_that_give_their_canaries_away_fail_the_audit(audited, command):
    folder, _, _ = audited
    kept = (folder / "audit_lanes.npz").read_bytes()
    try:
        with np.load(folder / "audit_lanes.npz") as archive:
            arrays = {name: archive[name] for name in archive.files}
        arrays["opened"] = arrays["opened"] + 6.0 * arrays["included"]
        np.savez(folder / "audit_lanes.npz", **arrays)
        ended = command("audit", folder)
        assert ended.code == 1
        assert "refuted" in ended.out
        assert "the claim is refuted" in (folder / "report.html").read_text()
    finally:
        (folder / "audit_lanes.npz").write_bytes(kept)


def test_without_privacy_the_audit_sees_what_the_model_memorised(tmp_path):
    """The attack works: an adapter trained hard and without noise tells almost every coin."""
    config = tiny_config(
        tmp_path / "run", "privacy.mode=none", "privacy.target_epsilon=null",
        "privacy.max_grad_norm=null", "privacy.sample_rate=1.0", "data.clients=4",
        "data.pairs_per_client=6", "model.adapter.rank=8", "federation.rounds=25",
        "federation.learning_rate=0.02", "evaluation.every=25", "evaluation.gradient_pairs=0",
        "evaluation.audit_pairs=40", "evaluation.audit_pairs_form=swap",
    )  # fmt: skip
    findings = audit_run(train(config, entropy=counted_entropy("memory")), reopen)
    (canaries,) = findings.membership
    assert canaries.auc > 0.95
    one_run = findings.bounds[0]
    assert one_run.adjacency is Adjacency.REPLACE_ONE
    assert one_run.bound.guesses == 20
    assert one_run.bound.epsilon > 1.0
    assert one_run.verdict == "pass", "nothing was promised"


def test_what_cannot_be_audited_is_refused(tmp_path, command):
    folder = train(tiny_config(tmp_path / "run", "federation.rounds=1", *AUDITED[3:]))
    command("audit", folder).refused("nothing to audit", "audit_lanes")
    (folder / "summary.json").unlink()
    command("audit", folder).refused("has not ended", "resume")
    command("audit").refused("--self-test")
    command("audit", folder, "--self-test").refused("either")


@pytest.mark.parametrize("form", ["in_out", "swap"])
def test_canaries_take_up_public_slots_and_stand_last(tmp_path, form):
    config = tiny_config(
        tmp_path / "run", "evaluation.audit_pairs=10", f"evaluation.audit_pairs_form={form}"
    )
    with pytest.raises(DataError, match="coins"):
        assemble(config)
    sizes = {}
    for label in ("one", "other"):
        coins = PairCoins.toss(form, 10, StreamIssuer(counted_entropy(label)).issue("c"))
        assembly = assemble(config, coins=coins)
        sizes[label] = assembly.plan.facts.client_pairs
        for number, shard in enumerate(assembly.shards):
            placed = assembly.canaries.trained_by(number)
            assert shard.pairs[12:] == placed
            assert len(shard.reference) == len(shard.pairs)
    expected = tuple(12 + slots for slots in canary_slots(10, 6))
    assert sizes["one"] == sizes["other"] == expected, "sizes must not tell the coins"
