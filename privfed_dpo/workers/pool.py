"""Worker processes as the first process sees them: started, told, heard out, stopped."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread
from typing import TypeVar

from torch import multiprocessing

from privfed_dpo.errors import ModelError

READY = "ready"
"""What a worker says when it has built everything that can fail by itself."""

_PATIENCE_SECONDS = 10.0

_Spec = TypeVar("_Spec")


class Pool:
    """All processes but the first. None outlives `stop`, nor the process that started it.

    Attributes:
        folder: where processes meet; gone after `stop`.
    """

    def __init__(
        self, work: Callable[[_Spec, int, Path, Connection], None], spec: _Spec, processes: int
    ) -> None:
        """Starts the workers and waits until all are ready.

        Args:
            work: what each of them runs, with its rank, the folder to meet in and its end of a
                pipe; importable by name.
            spec: what they build; picklable.
            processes: how many there are, the first one included.

        Raises:
            ModelError: one did not start; says what it said.
        """
        context = multiprocessing.get_context("spawn")
        self._meeting = tempfile.TemporaryDirectory(prefix="privfed-dpo-")
        self.folder = Path(self._meeting.name)
        self._pipes: list[Connection] = []
        self._workers: list[SpawnProcess] = []
        try:
            for rank in range(1, processes):
                ours, theirs = context.Pipe()
                arguments = (spec, rank, self.folder, theirs)
                worker = context.Process(target=work, args=arguments, daemon=True)
                worker.start()
                theirs.close()
                self._pipes.append(ours)
                self._workers.append(worker)
            for pipe in self._pipes:
                self._await_ready(pipe)
        except BaseException:
            self.stop()
            raise

    def send(self, order: object) -> None:
        """Give everybody the same order.

        Raises:
            OSError: a worker is gone.
        """
        for pipe in self._pipes:
            pipe.send(order)

    def last_words(self) -> str:
        """What workers said before they stopped."""
        words = []
        for pipe in self._pipes:
            with contextlib.suppress(EOFError, OSError):
                while pipe.poll(timeout=1.0):
                    words.append(str(pipe.recv()))
        return "; ".join(words)

    def when_one_is_gone(self, react: Callable[[], None]) -> None:
        """Call `react` in a thread as soon as a worker has ended, asked to or not."""

        def watch() -> None:
            wait([worker.sentinel for worker in self._workers])
            react()

        Thread(target=watch, daemon=True).start()

    def stop(self) -> None:
        """Hang up, wait a little, then insist."""
        for pipe in self._pipes:
            pipe.close()
        for worker in self._workers:
            worker.join(timeout=_PATIENCE_SECONDS)
            if worker.is_alive():
                worker.kill()
                worker.join()
        self._meeting.cleanup()

    def _await_ready(self, pipe: Connection) -> None:
        try:
            said = str(pipe.recv())
        except EOFError:
            said = "it said nothing"
        if said != READY:
            raise ModelError(
                f"A process that should share this client's work did not start: {said}",
                advice="Set run.processes to at most the number of GPUs, or to 1.",
            )
