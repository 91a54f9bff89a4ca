"""One process at a time: locks that the operating system gives back however a process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self


class FileLock:
    """A lock on a file, held until `release` or the end of the process, kill -9 included.

    It is tied to one opening of the file: two objects in one process exclude each other too.

    Attributes:
        path: the file; it is made, stays empty and is never removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock; True when it is held."""
        return self._lock(fcntl.LOCK_EX)

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it; says whether it is now held."""
        return self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Give the lock back; without effect if it is not held."""
        if self._descriptor is not None:
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
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True


@contextlib.contextmanager
def exclusively(path: Path | None) -> Iterator[None]:
    """Hold the lock of `path` while the block runs, so that equal work is done by one process.

    Args:
        path: the lock file; None locks nothing, for callers that share nothing.
    """
    if path is None:
        yield
        return
    with FileLock(path):
        yield
