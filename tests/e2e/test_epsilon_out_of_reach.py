"""A target that these data cannot pay for: refused, with what to type instead, and that works."""

import json
import re

import pytest

from tests.architecture.documents import ROOT, text_of
from tests.support.command_line import caller, write_inputs

TARGET = ("privacy.target_epsilon=1", "federation.rounds=60", "privacy.max_noise_multiplier=2.5")


@pytest.fixture
def run(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("reach"))


@pytest.fixture
def told(run, home):
    return " ".join(run("plan", home / "tiny.yaml", *TARGET).refused().err.split())


def found(pattern, told):
    match = re.search(pattern, told)
    assert match, told
    return match.groups()


def assert_within(run, home, *change):
    ended = run("plan", home / "tiny.yaml", *TARGET, *change, "--json")
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    assert facts["noise_multiplier"] <= 2.5
    return facts


def test_the_refusal_says_what_was_asked_and_what_it_would_cost(told):
    assert "epsilon 1 is out of reach for 72 pairs at 6 clients" in told
    assert "even privacy.max_noise_multiplier=2.5" in told
    assert float(*found(r"costs epsilon (\d+\.\d+)", told)) > 1


def test_training_is_refused_too_and_leaves_nothing(run, home, tmp_path):
    folder = tmp_path / "run"
    run("train", home / "tiny.yaml", *TARGET, "--run-dir", folder).refused("out of reach")
    assert not folder.exists()


def test_as_few_rounds_as_it_says(run, home, told):
    (rounds,) = found(r"(federation\.rounds=\d+)", told)
    assert assert_within(run, home, rounds)["rounds"] < 60


def test_as_many_pairs_as_it_says(run, home, told):
    total, there, each, rate = found(
        r"(\d+) pairs \(there are (\d+)\), (\d+) at each client on average, with "
        r"(privacy\.sample_rate=[\d.]+),",
        told,
    )
    facts = assert_within(run, home, f"data.pairs_per_client={each}", rate)
    assert (facts["pairs_total"], there) == (int(total), "72")
    assert facts["expected_batch_pairs"] == pytest.approx(0.3 * 72, rel=0.01)


def test_as_many_clients_as_it_says(run, home, told):
    clients, cohort = found(
        r"(\d+) clients like these \(there are 6\) with (federation\.cohort=6)", told
    )
    assert assert_within(run, home, f"data.clients={clients}", cohort)["participations"] < 60


def test_as_large_an_epsilon_as_it_says(run, home, told):
    (epsilon,) = found(r"(privacy\.target_epsilon=[\d.]+)\. ", told)
    assert assert_within(run, home, epsilon)["target_epsilon"] > 1


def test_without_a_limit_only_noise_that_drowns_the_data_is_refused(run, home):
    tiny = home / "tiny.yaml"
    refused = run("plan", tiny, "privacy.target_epsilon=0.01").refused(
        "epsilon 0.01 is out of reach for 72 pairs at 6 clients",
        "a noise multiplier of 37.4, above which noise is larger than everything",
        "with privacy.sample_rate=",
    )
    assert "federation.rounds=" not in refused.err, "noise and signal fall alike with rounds"
    assert run("plan", tiny, "privacy.target_epsilon=0.1").code == 0
    insisted = ("privacy.target_epsilon=0.01", "privacy.max_noise_multiplier=1e5")
    assert run("plan", tiny, *insisted).code == 0


def test_a_limit_on_noise_that_is_given_is_a_contradiction(run, home):
    run("plan", home / "tiny.yaml", "privacy.noise_multiplier=2", TARGET[2]).refused(
        "privacy.max_noise_multiplier limits noise that is calibrated", "set one of them to null"
    )


def test_the_guide_tells_the_figures_of_its_own_example(run, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, section = text_of("docs/guide/guarantee.md").split("## A target out of reach\n")
    section = section.partition("\n## ")[0]
    (line,) = re.findall(r"^\.venv/bin/privfed-dpo (.+)$", section, re.MULTILINE)
    said = " ".join(run(*line.split()).refused().err.split())
    pattern = r"(\d+) rounds; or (\d+) pairs at each client, .* or (\d+) clients .* or epsilon ([\d.]+)\. "
    rounds, pairs, clients, epsilon = found(pattern, " ".join(section.split()))
    for told in (
        f"federation.rounds={rounds};",
        f" {pairs} at each client",
        f" {clients} clients like these",
        f"privacy.target_epsilon={epsilon}. ",
    ):
        assert told in said
