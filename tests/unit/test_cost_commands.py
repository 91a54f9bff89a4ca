import json

import pytest
from typer.testing import CliRunner

from privfed_dpo.cli import app


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


ANCHORS = [
    ("0.01", "1.0", "1000", "1e-5", 1.82824, 2.10137),
    ("0.1", "2.0", "500", "1e-5", 5.55547, 6.03456),
    ("1", "4.0", "20", "1e-5", 4.98331, 5.37773),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "delta", "pld", "rdp"), ANCHORS)
def test_published_anchors(rate, noise, steps, delta, pld, rdp):
    found = json.loads(
        run("epsilon", "--sample-rate", rate, "--noise-multiplier", noise, "--steps", steps,
            "--delta", delta, "--json")
    )  # fmt: skip
    for adversary in ("server", "coalition", "outside", "no_secagg"):
        assert found["epsilon"][adversary]["pld"] == pytest.approx(pld, rel=1e-3)
        assert found["epsilon"][adversary]["rdp"] == pytest.approx(rdp, rel=1e-3)


def test_colluders_and_drop_outs_separate_the_adversaries():
    found = json.loads(
        run("epsilon", "--sample-rate", "0.05", "--noise-multiplier", "1", "--steps", "200",
            "--cohort", "20", "--dropout-tolerance", "5", "--colluders", "2", "--json")
    )["epsilon"]  # fmt: skip
    assert found["coalition"]["pld"] == pytest.approx(4.7659, rel=1e-3)
    assert found["server"]["pld"] == pytest.approx(4.1436, rel=1e-3)
    assert found["no_secagg"]["pld"] > 100


def test_calibration_carries_its_certificate():
    found = json.loads(
        run("calibrate", "--target-epsilon", "1.0", "--sample-rate", "0.01", "--steps", "1000",
            "--json")
    )  # fmt: skip
    certificate = found["certificate"]
    assert certificate["noise_multiplier"] == pytest.approx(1.41463, rel=2e-3)
    assert certificate["epsilon"] <= 1.0 < certificate["epsilon_just_below"]


def test_people_get_a_table_and_no_bound_without_noise():
    text = run("epsilon", "--sample-rate", "0.1", "--noise-multiplier", "1", "--steps", "2",
               "--mode", "none")  # fmt: skip
    assert "no bound" in text


def test_users_are_priced_per_participation_whoever_knows_who_took_part():
    arguments = ("epsilon", "--noise-multiplier", "1", "--steps", "10", "--mode", "user",
                 "--cohort", "100", "--json")  # fmt: skip
    found = json.loads(run(*arguments))["epsilon"]
    for adversary in ("server", "coalition", "outside"):
        assert found[adversary]["pld"] == pytest.approx(17.857, rel=1e-3)


def test_gossip_is_priced_as_local_noise():
    arguments = ("--noise-multiplier", "1", "--sample-rate", "0.05", "--steps", "100",
                 "--local-steps", "5", "--json")  # fmt: skip
    gossip = json.loads(run("epsilon", "--mode", "gossip", *arguments))["epsilon"]
    assert gossip == json.loads(run("epsilon", "--mode", "local", *arguments))["epsilon"]
    for pair in gossip.values():
        assert pair["pld"] == pytest.approx(7.524, rel=1e-3)


@pytest.mark.parametrize(
    ("rate", "steps", "noise", "epsilon"),
    [("0.1", "10", "1", 4.377), ("0.1", "91", "1", 17.857), ("0.05", "200", "4", 3.341)],
)
def test_shuffled_batches_are_booked_by_whole_epochs(rate, steps, noise, epsilon):
    found = json.loads(
        run("epsilon", "--sample-rate", rate, "--noise-multiplier", noise, "--steps", steps,
            "--batches", "shuffled", "--json")
    )  # fmt: skip
    assert found["epsilon"]["server"]["pld"] == pytest.approx(epsilon, rel=1e-3)


def test_calibration_knows_users():
    found = json.loads(
        run("calibrate", "--target-epsilon", "17.857", "--steps", "10", "--mode", "user",
            "--cohort", "20", "--dropout-tolerance", "5", "--colluders", "2", "--json")
    )  # fmt: skip
    assert found["certificate"]["noise_multiplier"] == pytest.approx(1.0, rel=2e-3)
    assert found["epsilon"]["server"]["pld"] < found["epsilon"]["coalition"]["pld"]


@pytest.mark.parametrize("copies", ["1", "2"])
def test_fewer_rounds_than_participations_are_refused(copies):
    result = CliRunner().invoke(
        app,
        ["epsilon", "--noise-multiplier", "1", "--sample-rate", "0.1", "--steps", "100",
         "--rounds", "1", "--record-copies", copies],
    )  # fmt: skip
    assert result.exit_code == 2
    assert "--rounds" in result.output


def test_copies_in_shuffled_epochs_of_local_steps_are_priced():
    """Ten rounds of twenty steps at rate 0.1 are twenty epochs, more than there are rounds."""
    found = json.loads(
        run("epsilon", "--mode", "local", "--noise-multiplier", "4", "--sample-rate", "0.1",
            "--steps", "10", "--local-steps", "20", "--batches", "shuffled", "--record-copies",
            "2", "--json")
    )  # fmt: skip
    plain = json.loads(run("epsilon", "--noise-multiplier", "4", "--steps", "40", "--json"))
    assert found["epsilon"]["server"] == plain["epsilon"]["server"]


GRID = ("epsilon", "--noise-multiplier", "1", "--sample-rate", "0.05", "--steps", "200",
        "--cohort", "20", "--dropout-tolerance", "5", "--colluders", "2",
        "--sensitivity-steps", "16384", "--dimension", "1000000")  # fmt: skip


def test_a_grid_adds_the_bound_that_needs_no_reduction():
    found = json.loads(run(*GRID, "--json"))
    for adversary in ("coalition", "server", "outside"):
        certified = found["epsilon"][adversary]
        unconditional = found["unconditional_rdp"][adversary]
        assert certified["pld"] < unconditional < 1.16 * certified["pld"]
    assert found["epsilon"]["coalition"]["pld"] == pytest.approx(4.7659, rel=1e-3)
    assert "without the reduction" in run(*GRID)
    assert "unconditional_rdp" not in json.loads(run(*GRID[:-4], "--json"))


def test_a_grid_without_noise_is_refused():
    result = CliRunner().invoke(app, [*GRID, "--mode", "none"])
    assert result.exit_code == 2
    assert "--sensitivity-steps" in result.output


def test_copies_of_a_record_raise_the_price():
    shared = ("--noise-multiplier", "1", "--sample-rate", "0.01", "--steps", "1000", "--json")
    twice = json.loads(run("epsilon", *shared, "--record-copies", "2"))["epsilon"]
    assert twice["coalition"]["pld"] == pytest.approx(3.979, rel=1e-3)  # a group of two
    own = ("--mode", "local", "--record-copies", "2")
    apart = json.loads(run("epsilon", *shared, *own))["epsilon"]
    plain = json.loads(run("epsilon", *shared[:4], "--steps", "2000", "--json"))["epsilon"]
    assert apart["coalition"] == plain["coalition"]
    found = json.loads(
        run("calibrate", "--target-epsilon", "3.979", *shared[2:], "--record-copies", "2")
    )
    assert found["certificate"]["noise_multiplier"] == pytest.approx(1.0, rel=3e-3)


def test_copies_are_refused_where_everything_of_a_client_is_one_record():
    arguments = ["epsilon", "--noise-multiplier", "1", "--steps", "1", "--mode", "user"]
    result = CliRunner().invoke(app, [*arguments, "--record-copies", "2"])
    assert result.exit_code == 2
    assert "copies" in result.output


def test_a_grid_may_be_certified_by_its_renyi_bound():
    beside = json.loads(run(*GRID, "--json"))["unconditional_rdp"]["coalition"]
    by_rdp = json.loads(run(*GRID, "--accounting", "rdp", "--json"))
    assert by_rdp["accounting"] == "rdp"
    assert by_rdp["epsilon"]["coalition"]["rdp"] == beside
    assert by_rdp["epsilon"]["coalition"]["pld"] == pytest.approx(4.7659, rel=1e-3)
    skellam = json.loads(run(*GRID, "--accounting", "rdp", "--noise", "skellam", "--json"))
    assert skellam["epsilon"]["coalition"]["rdp"] == pytest.approx(beside, rel=1e-4)
    assert skellam["epsilon"]["coalition"]["pld"] is None
    assert "RDP, certified" in run(*GRID, "--accounting", "rdp")


def test_calibration_to_the_renyi_bound_of_skellam_noise():
    found = json.loads(
        run("calibrate", "--target-epsilon", "3", "--json", "--accounting", "rdp", "--noise",
            "skellam", *(word for word in GRID[3:]))
    )  # fmt: skip
    assert found["certificate"]["noise_multiplier"] == pytest.approx(1.3759, rel=2e-3)
    assert 2.98 < found["epsilon"]["coalition"]["rdp"] <= 3.0


@pytest.mark.parametrize("more", [("--accounting", "rdp"), ("--noise", "skellam")])
def test_integer_noise_without_a_grid_is_refused(more):
    result = CliRunner().invoke(app, [*GRID[:-4], *more])
    assert result.exit_code == 2
    assert "--sensitivity-steps" in result.output
