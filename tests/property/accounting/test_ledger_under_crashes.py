"""The ledger as a state machine: crashes at any byte, and it never counts too little.

The model is a plain count of acknowledged spends per client. Whatever happens, a reopened ledger
counts at least that, and what it wrote verifies.
"""

import json
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from accounting import (
    Adjacency,
    Budget,
    BudgetExceeded,
    Ledger,
    LedgerCorrupted,
    LedgerHeader,
    LedgerMisuse,
    Mode,
    NoiseShares,
    PrivacyUnit,
    ReleaseSchedule,
    read_ledger,
    verify_ledger,
)
from accounting.ledger_format import (
    LedgerLine,
    decode_header,
    encode_header,
    encode_line,
    genesis,
    line_hash,
)

CLIENTS = ("a", "b", "c", "d", "e")
SCHEDULE = ReleaseSchedule(Mode.DISTRIBUTED, 0.05, NoiseShares(1.0, 4, 1, 1), 6)
HEADER = LedgerHeader(
    run_id="machine",
    plan_hash="11",
    config_hash="22",
    unit=PrivacyUnit.PAIR,
    adjacency=Adjacency.ZERO_OUT,
    budget=Budget(1.9, 1e-5),
    schedule=SCHEDULE,
    clients=5,
)
COHORTS = st.sampled_from([tuple(c for c in CLIENTS if c != out) for out in CLIENTS])


def no_sync(_descriptor):
    """The machine tears files itself; real syncing would only slow it down."""


class LedgerUnderCrashes(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "ledger"
        self.acknowledged = Counter()
        self.round = 0
        self.waiting = None

    @initialize()
    def create(self):
        self.ledger = Ledger.create(self.path, HEADER, fsync=no_sync)

    @rule(cohort=COHORTS)
    def spend(self, cohort):
        before = self.path.read_bytes()
        refused = self.ledger.would_exceed(cohort)
        try:
            self.ledger.spend(self.round, cohort)
        except BudgetExceeded:
            assert refused
            assert self.path.read_bytes() == before
        else:
            assert not refused
            self._booked(cohort)

    @precondition(lambda self: self.waiting)
    @rule(released=st.booleans(), lost=st.integers(0, 1))
    def outcome(self, released, lost):
        survivors = self.waiting[lost:]
        self.ledger.outcome(self.round - 1, "released" if released else "aborted", survivors)
        self.waiting = None

    @rule(cohort=COHORTS, cut=st.floats(0, 1))
    def crash_while_spending(self, cohort, cut):
        start = self.path.stat().st_size
        try:
            self.ledger.spend(self.round, cohort)
        except BudgetExceeded:
            return
        whole = self.path.read_bytes()
        kept = start + round(cut * (len(whole) - start))
        self.path.write_bytes(whole[:kept])
        self._reopen(torn=0 if kept == len(whole) else kept - start)
        if kept == len(whole):
            self._booked(cohort)

    @precondition(lambda self: self.waiting)
    @rule(cut=st.floats(0, 1))
    def crash_while_recording_an_outcome(self, cut):
        start = self.path.stat().st_size
        self.ledger.outcome(self.round - 1, "released", self.waiting)
        whole = self.path.read_bytes()
        kept = start + round(cut * (len(whole) - start))
        self.path.write_bytes(whole[:kept])
        self._reopen(torn=0 if kept == len(whole) else kept - start)
        if kept == len(whole):
            self.waiting = None

    @rule()
    def reopen(self):
        self._reopen(torn=0)

    @rule(stale=st.integers(1, 5))
    def a_round_that_goes_back_is_refused(self, stale):
        if self.waiting or self.round < stale:
            return
        try:
            self.ledger.spend(self.round - stale, CLIENTS[:4])
        except LedgerMisuse:
            return
        raise AssertionError("a booked round was booked again")

    @invariant()
    def never_counts_too_little(self):
        if not hasattr(self, "ledger"):
            return
        booked = self.ledger.participations
        for client, count in self.acknowledged.items():
            assert booked.get(client, 0) >= count
        assert self.ledger.epsilon().pld <= HEADER.budget.epsilon
        assert max(booked.values(), default=0) <= SCHEDULE.participations

    @invariant()
    def what_was_written_verifies(self):
        if not hasattr(self, "ledger"):
            return
        verdict = verify_ledger(read_ledger(self.path), expected_head=self.ledger.head)
        assert verdict.ok, verdict.problems
        assert verdict.participations == max(self.ledger.participations.values(), default=0)
        assert abs(verdict.realised - self.ledger.realised_epsilon()) < 1e-9

    def teardown(self):
        shutil.rmtree(self.folder)

    def _booked(self, cohort):
        self.acknowledged.update(cohort)
        self.waiting = cohort
        self.round += 1

    def _reopen(self, torn):
        self.ledger = Ledger.open(self.path, fsync=no_sync)
        assert self.ledger.truncated_bytes == torn


TestLedgerUnderCrashes = LedgerUnderCrashes.TestCase
TestLedgerUnderCrashes.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def full_ledger():
    folder = Path(tempfile.mkdtemp())
    ledger = Ledger.create(folder / "ledger", HEADER, fsync=no_sync)
    for round_ in range(4):
        ledger.spend(round_, CLIENTS[round_ % 2 : round_ % 2 + 4])
        ledger.outcome(round_, "released", CLIENTS[1:4])
    ledger.close("done", {"x": 1})
    content = (folder / "ledger").read_bytes()
    shutil.rmtree(folder)
    return content


WHOLE = full_ledger()
WHOLE_HEAD = read_ledger(WHOLE).lines[-1].digest
LINES = WHOLE.splitlines(keepends=True)


@settings(max_examples=120, deadline=None)
@given(cut=st.integers(0, len(WHOLE)))
def test_a_file_cut_anywhere_opens_as_its_complete_lines_or_not_at_all(cut):
    complete = WHOLE[:cut].count(b"\n")
    try:
        record = read_ledger(WHOLE[:cut])
    except LedgerCorrupted:
        assert complete == 0
        return
    assert [line.digest for line in record.lines] == [
        line.digest for line in read_ledger(WHOLE).lines[:complete]
    ]
    assert verify_ledger(record).ok


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(WHOLE) - 2), value=st.integers(0, 255))
def test_no_single_byte_can_change_unnoticed(position, value):
    """Only the break at the very end is left out: without it the last line counts as torn."""
    if WHOLE[position] == value:
        return
    changed = WHOLE[:position] + bytes([value]) + WHOLE[position + 1 :]
    try:
        record = read_ledger(changed)
    except LedgerCorrupted:
        return
    assert not verify_ledger(record).ok


@settings(max_examples=150, deadline=None)
@given(order=st.permutations(range(len(LINES))), keep=st.integers(1, len(LINES)))
def test_no_other_order_or_selection_of_lines_verifies(order, keep):
    chosen = order[:keep]
    if chosen == list(range(keep)):
        return
    try:
        record = read_ledger(b"".join(LINES[index] for index in chosen))
    except LedgerCorrupted:
        return
    assert not verify_ledger(record).ok


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_are_refused_by_type(content):
    with pytest.raises(LedgerCorrupted) as caught:
        read_ledger(content)
    assert caught.value.index >= 0


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.sampled_from(["a", "b", "c", "released", "aborted", *CLIENTS]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = ("round", "cohort", "release", "status", "survivors", "facts")


@settings(max_examples=300, deadline=None)
@given(position=st.integers(1, len(LINES) - 1), name=st.sampled_from(FIELDS), value=JSON_VALUES)
def test_a_verdict_is_reached_whatever_a_forger_writes(position, name, value):
    """Every chain is rebuilt, so only the content can speak; verifying never raises."""
    forged, prev = [], genesis(HEADER.plan_hash, HEADER.config_hash)
    for index, row in enumerate(LINES):
        fields = json.loads(row)
        if index == position:
            fields["body"][name] = value
        line = LedgerLine(index, prev, fields["kind"], fields["body"], "")
        prev = line_hash(index, prev, line.kind, line.body)
        forged.append(encode_line(replace(line, digest=prev)))
    changed = forged[position] != LINES[position]
    verdict = verify_ledger(read_ledger(b"".join(forged)), expected_head=WHOLE_HEAD)
    assert verdict.ok is not changed


SCHEDULE_FIELDS = ("mode", "sample_rate", "noise", "participations", "local_steps")


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from([*json.loads(LINES[0])["body"], *SCHEDULE_FIELDS]), value=JSON_VALUES)
def test_any_header_is_read_or_refused_by_type(name, value):
    body = json.loads(LINES[0])["body"]
    (body["schedule"] if name in SCHEDULE_FIELDS else body)[name] = value
    try:
        header = decode_header(body)
    except LedgerCorrupted as error:
        assert error.index == 0  # noqa: PT017
        return
    assert encode_header(header).keys() == body.keys()
