"""Whatever is changed in a ledger, the verdict says so in words."""

import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accounting import (
    Adjacency,
    Adversary,
    Budget,
    Ledger,
    LedgerCorrupted,
    LedgerHeader,
    Mode,
    NoiseShares,
    PrivacyUnit,
    ReleaseSchedule,
    read_ledger,
    verify_ledger,
)
from accounting.canonical import canonical_bytes
from accounting.ledger_format import (
    LedgerLine,
    encode_header,
    encode_line,
    genesis,
    line_hash,
)

COHORT = ["a", "b", "c", "d"]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def verifier(message, signature):
    try:
        KEY.public_key().verify(signature, message)
    except InvalidSignature:
        return False
    return True


@pytest.fixture
def lines(tmp_path):
    """Eight honest lines: header, three rounds with outcomes, close; signed."""
    header = LedgerHeader(
        run_id="run",
        plan_hash="11",
        config_hash="22",
        unit=PrivacyUnit.PAIR,
        adjacency=Adjacency.ZERO_OUT,
        budget=Budget(2.0, 1e-5),
        schedule=ReleaseSchedule(Mode.DISTRIBUTED, 0.01, NoiseShares(1.0, 4, 1, 1), 3),
        clients=4,
    )
    ledger = Ledger.create(tmp_path / "ledger", header, signer=KEY.sign)
    for round_ in range(3):
        ledger.spend(round_, COHORT)
        ledger.outcome(round_, "released", COHORT[: 3 + round_ % 2])
    ledger.close("done", {"adapter_hash": "33"})
    return (tmp_path / "ledger").read_bytes().splitlines(keepends=True)


def problems_of(lines, **options):
    """All problems, whether reading already fails or only verifying."""
    try:
        record = read_ledger(b"".join(lines))
    except LedgerCorrupted as error:
        return (str(error),)
    verdict = verify_ledger(record, **options)
    assert verdict.ok == (not verdict.problems)
    return verdict.problems


def edit(line, change):
    """Change a line's content and leave its hash alone."""
    fields = json.loads(line)
    change(fields)
    return canonical_bytes(fields) + b"\n"


def rehash(lines):
    """Recompute indexes, links and hashes: a forger who knows the format but not the key."""
    header = json.loads(lines[0])["body"]
    prev, forged = genesis(header["plan_hash"], header["config_hash"]), []
    for index, line in enumerate(lines):
        fields = json.loads(line)
        fields |= {"index": index, "prev": prev}
        fields["hash"] = prev = line_hash(index, prev, fields["kind"], fields["body"])
        forged.append(canonical_bytes(fields) + b"\n")
    return forged


def test_the_honest_ledger_verifies(lines):
    assert len(lines) == 8
    assert problems_of(lines, verifier=verifier) == ()


def set_body(name, value):
    return lambda fields: fields["body"].__setitem__(name, value)


SIMPLE = {
    "edited round": (1, set_body("round", 5)),
    "client taken out of a cohort": (3, set_body("cohort", ["a", "b", "c"])),
    "cheaper release": (3, lambda f: f["body"]["release"]["event"].update(noise_multiplier=9.0)),
    "fewer releases": (3, lambda f: f["body"]["release"].update(count=0)),
    "more survivors": (2, set_body("survivors", COHORT)),
    "released made aborted": (2, set_body("status", "aborted")),
    "larger budget": (0, set_body("budget", {"epsilon": 99.0, "delta": 1e-5})),
    "larger delta": (0, set_body("budget", {"epsilon": 2.0, "delta": 0.1})),
    "other plan": (0, set_body("plan_hash", "44")),
    "more noise in the plan": (
        0,
        lambda f: f["body"]["schedule"]["noise"].update(noise_multiplier=5.0),
    ),
    "smaller rate in the plan": (0, lambda f: f["body"]["schedule"].update(sample_rate=0.001)),
    "higher cap": (0, lambda f: f["body"]["schedule"].update(participations=999)),
    "other adapter": (7, set_body("facts", {"adapter_hash": "55"})),
    "other status": (7, set_body("status", "budget_spent")),
    "other index": (4, lambda f: f.update(index=5)),
    "other link": (4, lambda f: f.update(prev="0" * 64)),
    "other hash": (4, lambda f: f.update(hash="0" * 64)),
    "other kind": (4, lambda f: f.update(kind="comment")),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_an_edited_line_is_named(lines, name):
    index, change = SIMPLE[name]
    lines[index] = edit(lines[index], change)
    found = problems_of(lines)
    assert any(f"line {index}" in problem for problem in found), found


@pytest.mark.parametrize("index", range(7))
def test_a_removed_line_is_noticed(lines, index):
    del lines[index]
    assert problems_of(lines)


@pytest.mark.parametrize("index", range(8))
def test_a_duplicated_line_is_noticed(lines, index):
    lines.insert(index, lines[index])
    assert problems_of(lines)


@pytest.mark.parametrize("index", range(7))
def test_swapped_lines_are_noticed(lines, index):
    lines[index], lines[index + 1] = lines[index + 1], lines[index]
    assert problems_of(lines)


@pytest.mark.parametrize("keep", range(1, 8))
def test_a_cut_tail_needs_the_head_that_somebody_kept(lines, keep):
    head = json.loads(lines[-1])["hash"]
    record = read_ledger(b"".join(lines[:keep]))
    verdict = verify_ledger(record)
    assert verdict.ok
    assert any("never closed" in note for note in verdict.notes)
    assert not verify_ledger(record, expected_head=head).ok


@pytest.mark.parametrize(
    "junk",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b'{"body":{}}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"body":{},"hash":"","index":true,"kind":"spend","prev":""}\n',
        b'{"body":{},"hash":3,"index":8,"kind":"spend","prev":""}\n',
    ],
)
def test_a_line_that_is_no_ledger_line_is_refused(lines, junk):
    with pytest.raises(LedgerCorrupted) as caught:
        read_ledger(b"".join([*lines, junk]))
    assert caught.value.index == 8


def test_another_spelling_of_the_same_line_is_refused(lines):
    lines[2] = lines[2].replace(b'","', b'", "', 1)
    with pytest.raises(LedgerCorrupted):
        read_ledger(b"".join(lines))


FORGED = {
    "a spend left out": lambda lines: lines.__delitem__(slice(3, 5)),
    "one more round than the cap": lambda lines: lines.__setitem__(
        slice(7, 7), [edit(lines[5], set_body("round", 3)), edit(lines[6], set_body("round", 3))]
    ),
    "a released sum below the threshold": lambda lines: lines.__setitem__(
        2, edit(lines[2], set_body("survivors", ["a", "b"]))
    ),
    "survivors from outside": lambda lines: lines.__setitem__(
        2, edit(lines[2], set_body("survivors", ["a", "b", "x"]))
    ),
    "a smaller cohort": lambda lines: lines.__setitem__(
        1, edit(lines[1], set_body("cohort", ["a", "b", "c"]))
    ),
    "a client twice": lambda lines: lines.__setitem__(
        1, edit(lines[1], set_body("cohort", ["a", "b", "c", "c"]))
    ),
    "a round that goes back": lambda lines: lines.__setitem__(
        3, edit(lines[3], set_body("round", 0))
    ),
    "an outcome of another round": lambda lines: lines.__setitem__(
        4, edit(lines[4], set_body("round", 2))
    ),
    "an unknown status": lambda lines: lines.__setitem__(
        4, edit(lines[4], set_body("status", "fine"))
    ),
    "an unknown field": lambda lines: lines.__setitem__(4, edit(lines[4], set_body("note", "x"))),
    "a budget below the cost": lambda lines: lines.__setitem__(
        0, edit(lines[0], set_body("budget", {"epsilon": 0.01, "delta": 1e-5}))
    ),
    "fewer enrolled clients": lambda lines: lines.__setitem__(
        0, edit(lines[0], set_body("clients", 3))
    ),
    "a line after the close": lambda lines: lines.append(lines[1]),
    "a number for a name": lambda lines: lines.__setitem__(
        1, edit(lines[1], set_body("cohort", ["a", "b", "c", 4]))
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_rehashed_forgery_fails_by_its_content_or_its_signature(lines, name):
    """The chain of a forger is perfect, so the content, or else the signatures, must show it."""
    FORGED[name](lines)
    forged = rehash(lines)
    assert problems_of(forged, verifier=verifier)
    if name != "a spend left out":
        assert problems_of(forged), "its content contradicts the plan, even without signatures"


def test_a_perfectly_rehashed_omission_is_only_visible_in_signatures_or_a_kept_head(lines):
    """Why clients and summaries should keep the head: hashes alone prove no authorship."""
    head = json.loads(lines[-1])["hash"]
    del lines[3:5]
    forged = rehash(lines)
    assert problems_of(forged) == ()
    assert problems_of(forged, expected_head=head)
    assert problems_of(forged, verifier=verifier)


@pytest.mark.parametrize("signature", [None, "zz", "", STRANGER.sign(b"x").hex()])
def test_a_missing_or_foreign_signature_is_noticed(lines, signature):
    def change(fields):
        fields.pop("signature")
        if signature is not None:
            fields["signature"] = signature

    lines[4] = edit(lines[4], change)
    assert any("line 4" in problem for problem in problems_of(lines, verifier=verifier))


@pytest.mark.parametrize(
    "change",
    [
        set_body("format", 2),
        set_body("unit", "family"),
        set_body("adjacency", "replace_one"),
        set_body("budget", None),
        set_body("budget", {"epsilon": 1.0}),
        set_body("budget", {"epsilon": "1", "delta": 1e-5}),
        set_body("schedule", {}),
        set_body("schedule", None),
        set_body("clients", "4"),
        set_body("extra", []),
        set_body("run_id", 7),
        set_body("surprise", 1),
    ],
)
def test_an_impossible_header_is_refused(lines, change):
    lines[0] = edit(lines[0], change)
    with pytest.raises(LedgerCorrupted) as caught:
        read_ledger(b"".join(lines))
    assert caught.value.index == 0


def test_the_writer_refuses_what_the_verifier_refuses(lines, tmp_path):
    for name, tamper in FORGED.items():
        if name in ("a spend left out", "one more round than the cap", "a budget below the cost"):
            continue  # a full ledger, seen from a writer: it opens, and refuses the next spend
        forged = list(lines)
        tamper(forged)
        path = tmp_path / name
        path.write_bytes(b"".join(rehash(forged)))
        with pytest.raises(LedgerCorrupted):
            Ledger.open(path)


def test_an_empty_or_headless_file_is_refused(tmp_path, lines):
    for content in (b"", lines[0][:40]):
        with pytest.raises(LedgerCorrupted):
            read_ledger(content)
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(LedgerCorrupted):
            Ledger.open(tmp_path / "x")


def test_a_torn_line_is_a_note_not_a_fault(lines):
    verdict = verify_ledger(read_ledger(b"".join(lines[:6]) + lines[6][:17]))
    assert verdict.ok
    assert any("17 bytes" in note for note in verdict.notes)


@pytest.mark.parametrize(("noise", "participations"), [(1e-9, 10), (1.0, 10**13), (1e-160, 10)])
def test_a_header_without_a_price_is_a_fault_and_never_an_error(noise, participations):
    """Headers that read well; what they allow has no figure."""
    schedule = ReleaseSchedule(Mode.LOCAL, 0.1, noise, participations)
    header = LedgerHeader(
        run_id="r",
        plan_hash="1",
        config_hash="2",
        unit=PrivacyUnit.PAIR,
        adjacency=Adjacency.ZERO_OUT,
        budget=Budget(8.0, 1e-5),
        schedule=schedule,
        clients=3,
    )
    bodies = [encode_header(header), {"round": 1, "cohort": ["a"], "release": {}}]
    prev, lines = genesis("1", "2"), []
    for index, (kind, body) in enumerate(zip(("header", "spend"), bodies, strict=True)):
        digest = line_hash(index, prev, kind, body)
        lines.append(encode_line(LedgerLine(index, prev, kind, body, digest)))
        prev = digest
    verdict = verify_ledger(read_ledger(b"".join(lines)))
    assert not verdict.ok
    assert verdict.rounds == 1
    assert verdict.epsilon[Adversary.COALITION].certified > 0
