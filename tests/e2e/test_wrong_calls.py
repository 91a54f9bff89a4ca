"""Commands called wrongly, or on folders that are not what they should be: a sentence, no traceback."""

import pytest

from tests.support.command_line import caller
from tests.support.run_folder import make_run_folder


@pytest.fixture
def run(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seed", "-1"), "seed is -1, not negative"),
        (("--threads", "0"), "threads is 0, at least 1"),
        (("--clients", "1"), "clients at least 2"),
        (("--dim", "0"), "vector_length is 0"),
        (("--bits", "8"), "modulus_bits is 8, not one of [16, 32, 64]"),
        (("--dropout", "1.5"), "shares must lie in [0, 1)"),
        (("--dropout", "0.9"), "9 lost and 0 colluders of 10 are too many"),
    ],
)
def test_numbers_that_give_no_secure_sum_are_bad_input(run, options, said):
    run("secagg", "--clients", "10", "--dim", "100", *options).refused(said, "secagg --help")


def test_a_folder_that_is_not_there_holds_no_run_to_audit(run, tmp_path):
    ended = run("audit", tmp_path / "nope")
    ended.refused(f"there is no run in {tmp_path / 'nope'}", "Give a run folder written by train")
    assert "resume" not in ended.err


def test_a_run_without_a_summary_has_not_ended(run, tmp_path):
    (tmp_path / "ledger.jsonl").touch()
    run("audit", tmp_path).refused("has not ended", f"resume {tmp_path}")


def test_a_config_that_is_no_text_is_named_by_report_and_audit(run, tmp_path):
    folder = make_run_folder(tmp_path / "run")
    (folder / "ledger.jsonl").touch()
    (folder / "config.yaml").write_bytes(b"run: {seed: 1} # \xff\n")
    run("report", folder).refused(f"{folder / 'config.yaml'}: not UTF-8 text")
    run("audit", folder).refused(f"the config {folder / 'config.yaml'} is not UTF-8 text")
