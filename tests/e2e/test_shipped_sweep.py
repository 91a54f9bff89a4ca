"""The shipped sweep, whole: it fits its half hour, and shows the orderings that theory demands."""

import csv
import json
from collections import defaultdict

import pytest

from privfed_dpo.verification import verify_run
from tests.architecture.documents import ROOT
from tests.support.command_line import start_process

pytestmark = pytest.mark.slow

EPSILONS = ("1", "2", "4", "8")
MODES = ("distributed", "local", "gossip")


def mean(values):
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "privacy-utility"
    file = ROOT / "configs/sweeps/privacy_utility.yaml"
    command = start_process(folder.parent, "sweep", file, "--dir", folder, "--workers", "2")
    _, told = command.communicate()
    assert command.returncode == 0, told
    with (folder / "results.csv").open() as text:
        return folder, list(csv.DictReader(text))


@pytest.fixture(scope="module")
def accuracies(swept):
    found = defaultdict(list)
    for row in swept[1]:
        for mode in row["privacy.mode"].split("|"):
            found[row["privacy.target_epsilon"], mode].append(float(row["reward_accuracy"]))
    return found


def test_every_run_ended_and_its_record_holds(swept):
    folder, rows = swept
    assert len(rows) == 42, "distributed and local without privacy are the same three runs"
    assert {row["status"] for row in rows} == {"finished"}
    for row in rows:
        run = folder / row["run_folder"]
        assert verify_run(run).ok
        assert (run / "report.html").is_file()
        assert float(row["epsilon_coalition_pld"] or 0) <= float(row["privacy.target_epsilon"])


def test_utility_grows_with_epsilon(accuracies):
    """Means of three seeds scatter by two or three points; what is asked for here is far larger."""
    for mode in ("local", "gossip"):
        by_epsilon = [mean(accuracies[epsilon, mode]) for epsilon in EPSILONS]
        assert mean(by_epsilon[2:]) > mean(by_epsilon[:2]) + 0.05
    over_modes = [mean([mean(accuracies[epsilon, mode]) for mode in MODES]) for epsilon in EPSILONS]
    assert over_modes[0] < over_modes[1] < over_modes[2]
    assert over_modes[1] + 0.03 < over_modes[3]
    free = mean(accuracies["inf", "distributed"])
    assert abs(mean(accuracies["8", "distributed"]) - free) < 0.06


def test_shared_noise_beats_everybody_s_own_at_equal_epsilon(accuracies):
    for epsilon in EPSILONS[:2]:
        shared, own = (mean(accuracies[epsilon, mode]) for mode in ("distributed", "local"))
        assert shared > own + 0.05
    gaps = [
        shared - own
        for epsilon in EPSILONS
        for shared, own in zip(
            accuracies[epsilon, "distributed"], accuracies[epsilon, "local"], strict=True
        )
    ]
    assert mean(gaps) > 0.05


def test_the_report_has_its_lines_its_audits_and_its_price(swept):
    folder, rows = swept
    page = (folder / "report.html").read_text()
    for words in ("no privacy", "each client alone", "Pareto front", "Empirical audit", "price of"):
        assert words in page
    private = [row for row in rows if row["privacy.target_epsilon"] != "inf"]
    assert all(row["audit_epsilon"] for row in private)
    assert sum(float(row["audit_epsilon"]) > 0 for row in private) >= 4, "lanes see something"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["price_of_selection"]["private_runs"] == len(private) == 36
    assert (folder / "figures" / "utility.svg").is_file()
