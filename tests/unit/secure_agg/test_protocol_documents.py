"""The documents say what the code does."""

import doctest
import itertools
import re
import subprocess
import sys
from pathlib import Path

import secure_agg
from secure_agg.codec import VERSION
from secure_agg.kdf import PROTOCOL, Label
from secure_agg.messages import BODY_TYPES
from secure_agg.params import MAX_CLIENTS, MAX_VECTOR_BYTES
from secure_agg.phases import EXCHANGES, PHASES, ClientStage, Kind, ServerStage, diagram
from secure_agg.seal import BOX_BYTES
from secure_agg.shamir import COEFFICIENT_BYTES, PRIME, SHARE_BYTES

ROOT = Path(__file__).resolve().parents[3]
SPEC = (ROOT / "docs" / "SPEC.md").read_text()


def test_the_diagram_is_current():
    (drawn,) = re.findall(r"```mermaid\n(.*?)\n```", SPEC, re.DOTALL)
    assert drawn == diagram()


def test_every_stage_but_the_ends_stands_in_the_table_once():
    assert {row.client_before for row in EXCHANGES} == {*ClientStage} - {
        ClientStage.DONE,
        ClientStage.FAILED,
    }
    assert {row.server_before for row in EXCHANGES} == {*ServerStage} - {
        ServerStage.FINISHED,
        ServerStage.ABORTED,
    }
    for one, two in itertools.pairwise(EXCHANGES):
        assert one.client_after is two.client_before
        assert one.server_after is two.server_before


def test_odd_kinds_travel_up_and_even_ones_down():
    for row in EXCHANGES:
        assert row.reply % 2 == 1
        assert row.request is None or row.request % 2 == 0


def test_every_kind_label_phase_and_size_is_in_the_specification():
    rows = dict(re.findall(r"^\| (\d) \| ([A-Z_]+) \|", SPEC, re.MULTILINE))
    assert rows == {str(kind.value): kind.name for kind in Kind}
    for label in Label:
        assert f"`{label.value.decode()}`" in SPEC
    for phase in PHASES:
        assert f"**{phase}.**" in SPEC
    assert f"Version {VERSION}." in SPEC
    assert f"`{PROTOCOL.decode()}`" in SPEC
    assert f"box {BOX_BYTES}" in SPEC
    assert f"share {SHARE_BYTES}" in SPEC
    assert f"{COEFFICIENT_BYTES}(t - 1)" in SPEC
    assert f"2 to {MAX_CLIENTS} pairs" in SPEC
    assert MAX_VECTOR_BYTES == 2**32 - 33
    assert "at most 2^32 - 33 bytes" in SPEC
    assert PRIME == 2**256 + 297
    assert "2^256 + 297" in SPEC


def test_every_body_but_the_vector_has_a_type():
    assert {*BODY_TYPES, Kind.MASKED_INPUT} == {*Kind}


def test_every_test_the_threats_name_exists():
    paths = list((ROOT / "tests").rglob("test_*.py"))
    functions = {
        name
        for path in paths
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "THREATS.md").read_text()))
    assert len(named) > 20
    assert named <= functions | {path.stem for path in paths}


def test_the_example_of_the_package_runs():
    outcome = doctest.testmod(secure_agg)
    assert outcome.attempted > 5
    assert outcome.failed == 0


def test_the_package_loads_no_machine_learning():
    """Nor scipy, nor the accounting: it can be used on its own."""
    heavy = "torch", "transformers", "scipy", "dp_accounting", "accounting", "privfed_dpo"
    code = f"import sys, secure_agg; print([m for m in {heavy!r} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert run.stdout.strip() == "[]"
