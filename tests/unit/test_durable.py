"""Files that a crash or a full disk leaves whole, and errors that say which file it was."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from accounting import Ledger
from privfed_dpo.dpo.reference import SafetensorError
from privfed_dpo.durable import (
    append_line,
    cut_torn_line,
    drafted,
    naming,
    no_room_behind,
    sync_files,
    write_atomically,
    write_new_secret,
)

LIMITED = """
import resource, sys
from pathlib import Path
from privfed_dpo.durable import append_line, write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
folder = Path(sys.argv[1])
for write in (
    lambda: write_atomically(folder / "whole", b"n" * 20),
    lambda: append_line(folder / "lines", "a line longer than that\\n"),
):
    try:
        write()
    except OSError as error:
        print(error.filename)
"""


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_where_there_is_no_room_the_old_file_stays_and_the_error_names_it(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomically(target, b"old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(target, b"new")
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "its room is given back"


def test_a_draft_takes_the_place_of_a_file_only_when_it_is_whole(tmp_path, monkeypatch):
    target = tmp_path / "file"
    with drafted(target) as draft:
        draft.write_bytes(b"old")
        assert not target.exists()
    with pytest.raises(OSError, match="Is a directory"), drafted(target):
        tmp_path.write_bytes(b"what fails half-way")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught, drafted(target) as draft:
        draft.write_bytes(b"new")
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "no draft is left"


def test_drafts_of_one_file_do_not_meet(tmp_path):
    target = tmp_path / "file"
    with drafted(target) as first, drafted(target) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert target.read_bytes() == b"first", "the last to end stays, whole"


def test_what_a_library_wrote_is_synced_file_by_file(tmp_path, monkeypatch):
    for name in ("weights", "config"):
        (tmp_path / name).write_bytes(b"content")
    (tmp_path / "folder").mkdir()
    synced = []
    monkeypatch.setattr("os.fsync", lambda number: synced.append(os.fstat(number).st_ino))
    sync_files(tmp_path)
    wanted = {path.stat().st_ino for path in (tmp_path / "weights", tmp_path / "config", tmp_path)}
    assert set(synced) == wanted
    assert synced[-1] == tmp_path.stat().st_ino, "names last"
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        sync_files(tmp_path)
    assert Path(caught.value.filename).parent == tmp_path


def test_the_kernel_itself_refuses(tmp_path):
    """A real limit: a part of the line is written before the error comes, as on a full disk."""
    (tmp_path / "whole").write_bytes(b"old")
    (tmp_path / "lines").write_text("first\n")
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == [str(tmp_path / "whole"), str(tmp_path / "lines")]
    assert (tmp_path / "whole").read_bytes() == b"old"
    assert (tmp_path / "lines").read_text() == "first\na li"
    cut_torn_line(tmp_path / "lines")
    append_line(tmp_path / "lines", "second\n")
    assert (tmp_path / "lines").read_text() == "first\nsecond\n"
    assert not (tmp_path / "whole.new").exists()


def test_a_secret_is_its_owner_s_alone_and_never_replaced(tmp_path):
    path = tmp_path / "folder" / "secret"
    (tmp_path / "folder").mkdir()
    left = path.with_name("secret.new")
    left.write_bytes(b"of a process that died")
    left.chmod(0o666)
    write_new_secret(path, b"key")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_new_secret(path, b"another")
    assert path.read_bytes() == b"key"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_found_behind_other_errors(number):
    plain = OSError(number, os.strerror(number), "/run/ledger.jsonl")
    wrapped = RuntimeError("the writer stopped")
    wrapped.__cause__ = plain
    for error in (plain, wrapped):
        assert no_room_behind(error) == f"{os.strerror(number)}: /run/ledger.jsonl"
    assert no_room_behind(SafetensorError(f"I/O error: too much (os error {number})"))


def test_other_errors_are_no_full_disk():
    for error in (OSError(errno.EACCES, "no", "/x"), ValueError("x"), OSError("disk gone")):
        assert no_room_behind(error) is None
    with pytest.raises(OSError, match="disk gone") as caught, naming(os.devnull):
        raise OSError("disk gone")
    assert caught.value.filename is None


DYING = """
import os, signal, sys
from pathlib import Path
from accounting import Ledger
from tests.unit.accounting.test_spend_ledger import header

def die(descriptor):
    os.kill(os.getpid(), signal.SIGKILL)

Ledger.create(Path(sys.argv[1]), header(), fsync=die)
"""


def test_a_ledger_is_there_with_its_header_or_not_at_all(tmp_path):
    """One without a header would stop its owner for ever: it cannot be opened, nor made again."""
    from tests.unit.accounting.test_spend_ledger import header

    path = tmp_path / "ledger.jsonl"
    ended = subprocess.run([sys.executable, "-c", DYING, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not path.exists()
    with pytest.raises(OSError, match="No space left"):
        Ledger.create(path, header(), fsync=full)
    assert not list(tmp_path.iterdir())
    Ledger.create(path, header())
    assert Ledger.open(path).rounds_spent == 0
    assert [left.name for left in tmp_path.iterdir()] == ["ledger.jsonl"]


def test_a_full_disk_names_the_ledger_and_books_nothing_that_was_not_released(tmp_path):
    from tests.unit.accounting.test_spend_ledger import COHORT, header

    path = tmp_path / "ledger.jsonl"
    ledger = Ledger.create(path, header())
    before = path.read_bytes()
    torn = Ledger.open(path, fsync=full)
    with pytest.raises(OSError, match="No space left") as caught:
        torn.spend(0, COHORT)
    assert caught.value.filename == str(path)
    path.write_bytes(before + b'{"half')
    reopened = Ledger.open(path)
    assert (reopened.rounds_spent, reopened.truncated_bytes) == (0, 6)
    assert path.read_bytes() == before
    assert ledger.spend(0, COHORT).round == 0
