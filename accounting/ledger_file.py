"""How a ledger's bytes reach the disk: whole at the start, line by line after that."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from accounting.errors import LedgerCorrupted

Fsync = Callable[[int], None]


def begin_draft(path: Path) -> Path:
    """Make an empty file beside `path`, where a ledger gets its header before it gets its name.

    Raises:
        FileExistsError: there is a ledger already; open it instead.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(b"")
    return draft


def sync_folder(folder: Path, fsync: Fsync) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def append_synced(path: Path, row: bytes, *, index: int, size_bytes: int, fsync: Fsync) -> None:
    """Put a line behind the last one; on the disk when this returns.

    Args:
        path: the ledger.
        row: the line's bytes.
        index: number of the line.
        size_bytes: how long the file must be.
        fsync: called with a file descriptor.

    Raises:
        LedgerCorrupted: the file has another length.
        OSError: it names the file; a part of the line may be in it.
    """
    try:
        with path.open("r+b") as file:
            if file.seek(0, os.SEEK_END) != size_bytes:
                raise LedgerCorrupted(index, "the file was changed by somebody else")
            file.write(row)
            file.flush()
            fsync(file.fileno())
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
