"""One process at a time: locks that the operating system gives back however a process ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_NO_LOCKS_HERE = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EINVAL})


class FileLock:
    """A lock on a file, held until `release` or the end of the process, kill -9 included.

    It is tied to one opening of the file: two objects in one process exclude each other too.

    Attributes:
        path: the file; it is made, with its folder, and stays empty.
        removed: whether `release` removes it.
    """

    def __init__(self, path: Path, *, removed: bool = False) -> None:
        self.path = path
        self.removed = removed
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock; True when it is held.

        Raises:
            OSError: the file cannot be made, or its file system knows no locks.
        """
        return self._lock(fcntl.LOCK_EX)

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it; says whether it is now held.

        Raises:
            OSError: see `acquire`.
        """
        return self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Give the lock back; without effect if it is not held."""
        if self._descriptor is not None:
            if self.removed:
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        """Wait for the lock."""
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.release()

    def _lock(self, how: int) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, how)
                current = self._is_current(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except BaseException:
                os.close(descriptor)
                raise
            if current:
                self._descriptor = descriptor
                return True
            os.close(descriptor)  # whoever had it removed the file: the next one counts

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def sole_process(path: Path) -> Iterator[bool]:
    """Hold a lock for as long as the context lasts; says whether it could be had.

    Where the file system knows no locks it is taken to be free: then this is no guard.

    Args:
        path: the lock file, removed afterwards.
    """
    lock = FileLock(path, removed=True)
    try:
        alone = lock.try_acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        alone = True
    try:
        yield alone
    finally:
        lock.release()


@contextlib.contextmanager
def one_at_a_time(path: Path | None) -> Iterator[None]:
    """Let one process do a piece of work while others that want the same wait for its result.

    A courtesy, not a guard: where the file system knows no locks, equal work is done twice.

    Args:
        path: the lock file, removed afterwards; None for work that nobody shares.
    """
    lock = None if path is None else FileLock(path, removed=True)
    if lock is not None:
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
