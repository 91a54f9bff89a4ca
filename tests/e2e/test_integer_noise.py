"""Whole runs under the Renyi accounting of integer noise, with Skellam shares and without."""

import json

import pytest

from accounting import Accounting, Adversary, SkellamNoise, read_ledger
from privfed_dpo.assembly import assemble
from privfed_dpo.errors import ConfigError
from privfed_dpo.lifecycle import train
from privfed_dpo.mechanism.skellam import Skellam
from privfed_dpo.verification import verify_run
from tests.support.forged_ledgers import lines_of, rechained, write_lines
from tests.support.tiny_run import tiny_config

BY_RDP = "privacy.accounting=rdp"
BY_SKELLAM = ("privacy.noise=skellam", BY_RDP)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("integer-noise")


@pytest.fixture(scope="module")
def by_skellam(home):
    return train(tiny_config(home / "skellam", *BY_SKELLAM))


@pytest.fixture(scope="module")
def by_rdp(home):
    return train(tiny_config(home / "rdp", BY_RDP))


def facts_of(folder, name):
    return json.loads((folder / name).read_text())


def assert_held_to_rdp(folder):
    verdict = verify_run(folder)
    assert verdict.ok, verdict.problems
    summary, plan = facts_of(folder, "summary.json"), facts_of(folder, "plan.json")
    assert summary["accounting"] == plan["accounting"] == "rdp"
    claimed = summary["epsilon"]["coalition"]["rdp"]
    assert verdict.epsilon[Adversary.COALITION].certified == pytest.approx(claimed, rel=1e-9)
    assert 0.99 * 8 < claimed <= 8
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["epsilon"] == pytest.approx(claimed, rel=1e-9)
    assert rows[-1]["epsilon_realised"] < claimed
    assert "noise itself, certified" in summary["statement"]
    assert "RDP, certified" in (folder / "report.html").read_text()
    return summary


def test_a_run_with_skellam_noise_is_trained_and_verified(by_skellam):
    summary = assert_held_to_rdp(by_skellam)
    assert summary["plan"]["noise"] == "skellam"
    assert all(pair["pld"] is None for pair in summary["epsilon"].values())
    assert "RDP of the Skellam noise itself" in summary["statement"]
    text = verify_run(by_skellam).as_text()
    assert "RDP" in text
    assert "PLD" not in text
    schedule = read_ledger(by_skellam / "ledger.jsonl").header.schedule
    assert isinstance(schedule.noise, SkellamNoise)
    assert schedule.accounting is Accounting.RDP


def test_a_run_held_to_rdp_alone_shows_the_reduction_beside_it(by_rdp):
    summary = assert_held_to_rdp(by_rdp)
    assert summary["plan"]["noise"] == "discrete_gaussian"
    pair = summary["epsilon"]["coalition"]
    assert 0.8 * pair["rdp"] < pair["pld"] < pair["rdp"]
    assert "PLD by reduction" in summary["statement"]


def test_the_plan_draws_what_it_books(home):
    plan = assemble(tiny_config(home / "drawn", *BY_SKELLAM)).plan
    share = plan.share_noise()
    assert isinstance(share, Skellam)
    assert 2 * share.poisson_mean == plan.noise.share_variance_steps
    event = plan.schedule.round_events(Adversary.COALITION).event
    honest = plan.threshold - plan.colluders
    assert event.variance_steps == honest * 2 * share.poisson_mean
    assert event.sensitivity_steps == plan.clipper().sensitivity_steps


@pytest.mark.parametrize(
    ("kind", "accounting", "sentence"),
    [
        ("grid", "rdp", "books another release than the plan's"),
        ("grid", None, "books another release than the plan's"),
        ("skellam", None, "the ledger cannot be read"),
    ],
)
def test_an_edited_noise_kind_is_found(by_skellam, tmp_path, kind, accounting, sentence):
    """Even with a chain made anew: spends, plan and header must agree."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("ledger.jsonl", "plan.json", "config.yaml"):
        (folder / name).write_bytes((by_skellam / name).read_bytes())
    lines = lines_of(folder)
    schedule = lines[0]["body"]["schedule"]
    schedule["noise"]["kind"] = kind
    if kind == "grid":
        schedule["noise"]["smoothing_steps"] = 3.0
    if accounting is None:
        del schedule["accounting"]
    write_lines(folder, rechained(lines))
    problems = verify_run(folder).problems
    assert any(sentence in problem for problem in problems), problems


def test_skellam_noise_is_refused_under_the_reduction(home):
    with pytest.raises(ConfigError, match=r"skellam needs privacy\.accounting=rdp"):
        tiny_config(home / "refused", "privacy.noise=skellam")


@pytest.mark.parametrize(
    "overrides",
    [("privacy.mode=local",), ("privacy.mode=user", "privacy.max_update_norm=0.5")],
    ids=["local", "user"],
)
def test_other_modes_take_skellam_noise_too(home, overrides):
    folder = home / overrides[0]
    train(tiny_config(folder, *BY_SKELLAM, "federation.local_steps=2", *overrides))
    assert verify_run(folder).ok
    assert facts_of(folder, "plan.json")["noise"] == "skellam"
