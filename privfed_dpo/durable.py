"""Writes that a crash or a full disk cannot spoil, and errors that name the file.

A file is replaced as a whole or not at all, and what is said to be on the disk is on the disk.
Where there is no room, what was there before stays, and no half-written file is left in its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FULL_IN_WORDS = tuple(f"(os error {number})" for number in sorted(_FULL))
"""How libraries that are not written in Python say the same; safetensors, for one."""

OWNER_ONLY = 0o600
_AS_USUAL = 0o666


def write_atomically(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Replace a file by new content: write beside it, sync, rename, sync the folder.

    Args:
        path: the file; its folder is made if it is missing.
        content: all of it.
        secret: whether only its owner may read it.

    Raises:
        OSError: it names the file; the old content, if there was any, is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with naming(path), removed_on_failure(beside):
        if secret:
            beside.unlink(missing_ok=True)  # its permissions, if a crash left one, are not ours
        mode = OWNER_ONLY if secret else _AS_USUAL
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)


def write_new_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read and that nothing may replace, whole or not at all.

    Raises:
        FileExistsError: there is one already.
        OSError: see `write_atomically`.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    write_atomically(path, content, secret=True)


@contextlib.contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Yield a draft that takes the place of a file when the context ends well, synced.

    Every draft has a name of its own, so several processes may write the same file at once. The
    folder exists.

    Raises:
        OSError: it names the file; no draft is left.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(descriptor)
    draft = Path(name)
    with naming(path), removed_on_failure(draft):
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)


def append_line(path: Path, line: str, *, sync: bool = True) -> None:
    """Add a line, its end included, to a text file.

    Args:
        path: the file; its folder exists.
        line: ends with a newline.
        sync: whether it must be on the disk when this returns.

    Raises:
        OSError: it names the file; see `cut_torn_line` for what may be left of the line.
    """
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def cut_torn_line(path: Path) -> None:
    """Remove an unfinished last line, so that the next one starts a line of its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def make_folder(path: Path) -> None:
    """Make a folder that only its owner can enter, and put its name on the disk."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_folder(path.parent)


def sync_files(folder: Path) -> None:
    """Put on the disk what a library has written into a folder, and the names of its files.

    Raises:
        OSError: it names the file.
    """
    for path in folder.iterdir():
        if path.is_file():
            with naming(path), path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the operating system name a file; writing to an open one names none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def removed_on_failure(path: Path) -> Iterator[None]:
    """Give back the room of a file that could not be finished."""
    try:
        yield
    except Exception:
        path.unlink(missing_ok=True)
        raise


def no_room_behind(error: BaseException) -> str | None:
    """Return what there was no room for, if that is what an error comes from.

    Args:
        error: it, its cause or what it was raised in the place of may speak of a full disk, an
            exhausted quota or the largest file that is allowed.

    Returns:
        The system's words, with the file's name as far as it is known; None for other errors.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in _FULL:
            where = "" if link.filename is None else f": {link.filename}"
            return f"{link.strerror}{where}"
        if not isinstance(link, OSError) and any(words in str(link) for words in _FULL_IN_WORDS):
            return str(link)
        link = link.__cause__ or link.__context__
    return None
